"""What the runs came to: a sentence for one, a table for all, and whether the default policy kept what the demo promises of it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from slice_ros.demo.log import Log
from slice_ros.scheduling.policies import DEFAULT_POLICY


def sentence(log: Log) -> str:
    """A run in a sentence."""
    figures = log.figures()
    tour = "gave its tour up" if figures.tour_s is None else f"ended its tour after {figures.tour_s:.1f} s"
    late = f"{_times(figures.late)} in {figures.commands}"
    return f"{log.policy}: the robot bumped {_times(figures.bumps)}, was answered late {late}, and {tour}"


def complaints(logs: Sequence[Log]) -> list[str]:
    """The runs under the default policy that were not as promised: no bump, no late answer to the robot, and the tour to its end."""
    runs = ((log, log.figures()) for log in logs if log.policy == DEFAULT_POLICY)
    return [f"seed {log.seed}, {sentence(log)}" for log, f in runs if f.bumps or f.late or f.tour_s is None]


def table(logs: Sequence[Log]) -> Table:
    """One row a policy, summed over the seeds; of the tours that ended, the mean."""
    seeds = list(dict.fromkeys(str(log.seed) for log in logs))
    result = Table(title=f"The same traffic under each policy; seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}")
    for name in ("policy", "bumps", "answered late", "tour", "voice", "Q&A", "all SLOs"):
        result.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
    for policy in dict.fromkeys(log.policy for log in logs):
        runs = [log.figures() for log in logs if log.policy == policy]
        tours = [figures.tour_s for figures in runs if figures.tour_s is not None]
        tour = f"{sum(tours) / len(tours):.1f} s" if tours else ""
        given_up = f"{len(runs) - len(tours)} given up" if len(tours) < len(runs) else ""
        result.add_row(
            policy,
            str(sum(figures.bumps for figures in runs)),
            f"{sum(figures.late for figures in runs)} of {sum(figures.commands for figures in runs)}",
            ", ".join(filter(None, (tour, given_up))),
            *(_share([figures.attained(*labels) for figures in runs]) for labels in (("voice",), ("qa",), ())),
        )
    return result


def _share(pairs: Sequence[tuple[int, int]]) -> str:
    attained, goals = (sum(numbers) for numbers in zip(*pairs, strict=True))
    return f"{attained} of {goals}"


def _times(number: int) -> str:
    return {1: "once"}.get(number, f"{number} times")
