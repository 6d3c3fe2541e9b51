"""Figures of a benchmark: attainment, completion times, and who decodes when. Needs matplotlib (the extra ``plot``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slice_ros.bench.limit import LIMIT
from slice_ros.bench.rows import Row, confidence, mean
from slice_ros.bench.simulate import Outcome, attainment
from slice_ros.scheduling.policies import DEFAULT_POLICY, POLICIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from slice_ros.bench.robustness import Verdict

# Okabe and Ito's colours: distinct for every kind of colour vision. Markers tell the same again.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999"
WINE, OLIVE = "#882255", "#777711"  # of Tol's, which go with them
STYLES = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (SKY, "P"), (WINE, "X"), (OLIVE, "<"))
LIMIT_STYLE: dict[str, Any] = {"color": "black", "linewidth": 1.4, "linestyle": "--"}
ABOVE: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False}
"""Where a figure's legend stands: on its upper edge, however high the figure is; a saved figure is as high as what is in it."""


class PlotError(Exception):
    """Matplotlib is not there, or there is nothing to draw."""


def plot_rows(rows: Sequence[Row], path: Path) -> None:
    """Attainment and completion time against arrival rate; with several real-time shares, attainment against these, a line for each rate.

    A band is the 95 % confidence interval over the seeds, a dashed line what no schedule could exceed.

    Raises:
        PlotError: no matplotlib, or no rows.
        OSError: the file cannot be written.
    """
    if not rows:
        raise PlotError("there are no rows to draw")
    rates = sorted({row.rate_hz for row in rows})
    if len({row.rt_share for row in rows}) > 1:
        figure, grid = _panels(len(rates), 3)
        for panels, rate_hz in zip(grid, rates, strict=True):
            _attainment([row for row in rows if row.rate_hz == rate_hz], panels, _rt_share, "share of real-time goals")
            panels[0].set_ylabel(f"goals that met every bound\nat {rate_hz:g} goals/s")
    else:
        labels = list(dict.fromkeys(label for row in rows for label in row.classes))
        figure, grid = _panels(2, max(3, len(labels)))
        _attainment(rows, grid[0], _rate_hz, "goals per second")
        grid[0][0].set_ylabel("goals that met every bound")
        _completion(rows, grid[1], labels)
        for unused in (*grid[0][3:], *grid[1][len(labels) :]):
            unused.set_axis_off()
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, ncols=len(names), **ABOVE)
    _save(figure, path)


def plot_timeline(outcomes: Mapping[str, Sequence[Outcome]], window_s: tuple[float, float], path: Path) -> None:
    """Every token of the goals that arrive in a stretch of traffic, a panel for each policy, a line for each goal.

    Args:
        outcomes: of the same traffic, by policy.
        window_s: begin and end of the stretch, seconds from the begin of the traffic.

    Raises:
        PlotError: no matplotlib, or no goal arrives in the stretch.
        OSError: the file cannot be written.
    """
    begin_s, end_s = window_s
    figure, grid = _panels(len(outcomes), 1, width=9.0, height=2.9)
    kinds: dict[str, str] = {}
    for (name, all_outcomes), (axes,) in zip(outcomes.items(), grid, strict=True):
        shown = [o for o in all_outcomes if begin_s <= o.arrival.time_s < end_s]
        if not shown:
            raise PlotError(f"no goal arrives from {begin_s:g} s to {end_s:g} s; take a higher rate")
        shown.sort(key=lambda o: (not o.is_real_time, o.arrival.request.kind, o.arrival.time_s))
        for kind in sorted({o.arrival.request.kind for o in shown}, key=[o.arrival.request.kind for o in shown].index):
            kinds.setdefault(kind, STYLES[len(kinds) % len(STYLES)][0])
        for y, outcome in enumerate(shown):
            _timeline_row(axes, y, outcome, kinds[outcome.arrival.request.kind], end_s)
        met = attainment(shown)
        axes.set_title(f"{name}: {met:.0%} of these goals met every bound", loc="left", fontsize=10)
        axes.set(xlim=(begin_s, end_s), ylim=(len(shown), -1), yticks=[], ylabel="goals")
        axes.grid(visible=False)
    grid[-1][0].set_xlabel("seconds of traffic")
    handles = [_handle(color=color, marker="|", label=kind, linestyle="") for kind, color in kinds.items()]
    handles.append(_handle(color=GREY, label="waits, or is left out"))
    handles.append(_handle(color="black", marker="x", label="ended, bound missed", linestyle=""))
    figure.legend(handles=handles, ncols=len(handles), **ABOVE)
    _save(figure, path)


def plot_price(verdicts: Sequence[Verdict], path: Path) -> None:
    """What best-effort goals pay for the safety of real-time ones, a mark for each case: beside the policy that keeps most of them.

    Raises:
        PlotError: no matplotlib.
        OSError: the file cannot be written.
    """
    figure, ((best_effort, real_time),) = _panels(1, 2, width=4.2, height=3.8)
    for axes, title, what in ((best_effort, "best-effort goals", "best_effort"), (real_time, "real-time goals", "real_time")):
        for is_safe, color, marker in ((True, BLUE, "o"), (False, VERMILION, "x")):
            shares = [getattr(v, what) for v in verdicts if (v.kindest == v.kindest_safe) is is_safe]
            kindest = [v.kindest for v in verdicts if (v.kindest == v.kindest_safe) is is_safe]
            xs = [share[name] for share, name in zip(shares, kindest, strict=True)]
            label = "with which real-time goals are safe" if is_safe else "with which they are not"
            axes.plot(xs, [share[DEFAULT_POLICY] for share in shares], marker, color=color, markersize=3.5, alpha=0.6, label=label)
        axes.plot((0.0, 1.0), (0.0, 1.0), color=GREY, linewidth=0.8, zorder=0)
        axes.set_title(title, fontsize=10)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="in time with the other policy\nthat keeps most best-effort goals")
    best_effort.set_ylabel(f"in time with {DEFAULT_POLICY}")
    handles, names = best_effort.get_legend_handles_labels()
    figure.legend(handles, names, ncols=2, **ABOVE)
    _save(figure, path)


def _timeline_row(axes: Axes, y: int, outcome: Outcome, color: str, end_s: float) -> None:
    times = outcome.token_times_s
    last = times[-1] if times else end_s
    axes.hlines(y, outcome.arrival.time_s, min(last, end_s), color=GREY, linewidth=0.6, zorder=1)
    axes.plot(times, [y] * len(times), linestyle="", marker="|", markersize=4.5, markeredgewidth=0.9, color=color, zorder=2)
    if not outcome.report.attained and last < end_s:
        axes.plot(last + 0.06, y, marker="x", markersize=4.5, color="black", zorder=3)


def _attainment(rows: Sequence[Row], panels: Sequence[Axes], x_of: Callable[[Row], float], x_label: str) -> None:
    """All goals, real-time ones (with those of traffic without best-effort goals), best-effort ones."""
    mixed = [row for row in rows if not row.rt_alone]
    alone = [row for row in rows if row.rt_alone]
    for axes, name, title in zip(
        panels,
        ("attainment", "attainment_rt", "attainment_be"),
        ("all goals", "real-time goals", "best-effort goals"),
        strict=False,
    ):
        for policy, style in _styles(rows).items():
            xs, means = _curve(mixed, policy, x_of, attrgetter(name))
            axes.plot(xs, means, label=policy, **style)
            if policy != LIMIT:
                _, halves = _curve(mixed, policy, x_of, attrgetter(name), confidence)
                low = [max(0.0, value - half) for value, half in zip(means, halves, strict=True)]
                high = [min(1.0, value + half) for value, half in zip(means, halves, strict=True)]
                axes.fill_between(xs, low, high, color=style["color"], alpha=0.18, linewidth=0)
            if alone and name == "attainment_rt" and policy != LIMIT:
                thin = style | {"linestyle": ":", "marker": "", "linewidth": 1.2}
                axes.plot(*_curve(alone, policy, x_of, lambda row: row.attainment_rt), **thin)
        axes.set_title(title + (" (dotted: alone)" if alone and name == "attainment_rt" else ""), fontsize=10)
        axes.set(ylim=(-0.03, 1.03), xlabel=x_label)


def _completion(rows: Sequence[Row], panels: Sequence[Axes], labels: Sequence[str]) -> None:
    """Mean completion time of each class against the rate."""
    from matplotlib.ticker import LogLocator, NullFormatter

    mixed = [row for row in rows if not row.rt_alone and row.policy != LIMIT]
    for axes, label in zip(panels, labels, strict=False):
        for policy, style in _styles(mixed).items():
            axes.plot(*_curve(mixed, policy, _rate_hz, partial(_mean_e2e_s, label=label)), **style)
        axes.set_title(f"{label}: time to last token", fontsize=10)
        axes.set(yscale="log", xlabel="goals per second")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(_plain_number)
        axes.yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("mean, seconds")


def _curve(
    rows: Sequence[Row],
    policy: str,
    x_of: Callable[[Row], float],
    y_of: Callable[[Row], float],
    over_seeds: Callable[[Sequence[float]], float] = mean,
) -> tuple[list[float], list[float]]:
    """Means over seeds, or what else there is to say of them."""
    its = [row for row in rows if row.policy == policy]
    xs = sorted({x_of(row) for row in its})
    return xs, [over_seeds([y_of(row) for row in its if x_of(row) == x]) for x in xs]


def _styles(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """A policy looks the same in every figure: its colour goes with its place among all policies. Others get those that are left."""
    names = dict.fromkeys(row.policy for row in rows)
    policies = [name for name in POLICIES if name in names]
    others = [name for name in names if name not in policies and name != LIMIT]
    places = {name: list(POLICIES).index(name) % len(STYLES) for name in policies}
    free = [place for place in range(len(STYLES)) if place not in places.values()] or [0]
    places |= {name: free[i % len(free)] for i, name in enumerate(others)}
    styles: dict[str, dict[str, Any]] = {}
    for name, place in places.items():
        color, marker = STYLES[place]
        styles[name] = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.8}
    return styles | ({LIMIT: LIMIT_STYLE} if LIMIT in names else {})


def _mean_e2e_s(row: Row, label: str) -> float:
    return row.classes[label].e2e_s_mean if label in row.classes else math.nan


def _rate_hz(row: Row) -> float:
    return row.rate_hz


def _rt_share(row: Row) -> float:
    return row.rt_share


def _plain_number(value: float, _position: float) -> str:
    return f"{value:g}"


def _panels(rows: int, columns: int, width: float = 3.5, height: float = 2.8) -> tuple[Figure, list[list[Axes]]]:
    pyplot = _pyplot()
    figure, grid = pyplot.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained")
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    return figure, [list(line) for line in grid]


def _handle(**style: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], **style)


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=130, bbox_inches="tight", facecolor="white")
    except ValueError as error:
        raise PlotError(f"{path}: {error}") from error
    finally:
        _pyplot().close(figure)


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ImportError:
        raise PlotError("plots need matplotlib; install it with: pip install 'slice_ros[plot]'") from None
    mpl.use("Agg")  # no display needed
    from matplotlib import pyplot

    return pyplot


def check_matplotlib() -> None:
    """See that figures can be drawn.

    Raises:
        PlotError: they cannot.
    """
    _pyplot()
