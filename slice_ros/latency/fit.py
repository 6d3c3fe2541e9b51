"""From measured steps to the latency model that they follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from slice_ros.latency.model import LatencyModel, looked_back

TILES = (4, 8, 16, 32)
"""Tokens that kernels may take at once; ..."""
TILED = 0.97
"""... a model with tiles has to fit better than one without, by so much."""
WINDOWED = (0.5, 0.75, 0.85)
"""Shares that layers with a window may have of what KV tokens cost: in Gemma 3, five layers of six have one."""
FEW_STEPS = 3
"""Numbers of rows that fewer steps had are left to interpolation."""
ROUNDS = 40
CLOSE_ENOUGH = 1e-7
"""Relative deviations of which no difference is made."""
SHORTEST_STEP_S = 1e-5
"""No step is shorter, whatever noise makes of the fit."""


@dataclass(frozen=True, slots=True)
class Step:
    """One measured step.

    Args:
        rows: in it.
        prompt_tokens: in all of them.
        kv_tokens: of each of them before it, that with prompt tokens last; empty where they do not count.
        taken_s: its time.
        ended_s: when it ended in its run.
    """

    rows: int
    prompt_tokens: int
    kv_tokens: tuple[int, ...]
    taken_s: float
    ended_s: float = 0.0

    def attended(self, latency: LatencyModel) -> tuple[float, float]:
        """How many KV tokens count by a model, of all rows, and on how many such those of its chunk look back."""
        kv_tokens = [latency.attended(tokens) for tokens in self.kv_tokens]
        return sum(kv_tokens), looked_back(self.prompt_tokens, kv_tokens[-1] if kv_tokens else 0.0)

    def predicted_s(self, latency: LatencyModel) -> float:
        """How long it takes by a model."""
        return latency.step_s(self.rows, self.prompt_tokens, int(self.prompt_tokens > 0), *self.attended(latency))


def fit_latency(device: str, steps: Sequence[Step], window: int = 0) -> LatencyModel:
    """The model with the least sum of ``|predicted - taken| / taken``: odd steps count no more than others.

    Args:
        device: what the model is called.
        steps: at least one; each has one prompt chunk or none.
        window: tokens that some layers look back on; 0 = all look back on all.
    """
    costs = ("chunk", "prompt_token", "kv_token", "prompt_kv_token")
    tiles = [tile for tile in TILES if tile <= max(step.rows for step in steps)]
    plain, *tiled = (_Fit(steps, tile, costs, _least_deviations) for tile in (0, *tiles))
    best = min(tiled, key=lambda fit: fit.deviation, default=plain)
    best = best if best.deviation < TILED * plain.deviation else plain
    shares = [_Fit(steps, best.tile, costs, _least_deviations, window, share) for share in WINDOWED] if window else []
    return min([best, *shares], key=lambda fit: fit.deviation).model(device)


def fit_mean_latency(device: str, steps: Sequence[Step]) -> LatencyModel:
    """The model that steps, as they came in the service of goals, follow on average: ordinary least squares.

    What they lost to other work on the machine is in it, as is the cost of the KV tokens they had.

    Args:
        device: what the model is called.
        steps: at least one.
    """
    return _Fit(steps, 0, ("prompt_token",), _least_squares).model(device)


class _Fit:
    """l(1), l(2), ... and the costs that fit steps best; numbers of rows that few steps had are interpolated."""

    def __init__(
        self, steps: Sequence[Step], tile: int, costs: Sequence[str], solve: _Solver, window: int = 0, windowed: float = 0.0
    ) -> None:
        counts = Counter(step.rows for step in steps)
        self._rows = sorted(rows for rows, count in counts.items() if count >= FEW_STEPS) or sorted(counts)
        self.tile = tile if self._rows[:tile] == list(range(1, tile + 1)) else 0
        self._window, self._windowed = window, windowed
        steps = [step for step in steps if step.rows in self._rows]
        taken_s = np.array([step.taken_s for step in steps])
        table, of_window = self._table(steps), LatencyModel("a window", (1.0,), window=window, windowed=windowed)
        attended = [step.attended(of_window) for step in steps]
        columns = {
            "chunk": np.array([float(step.prompt_tokens > 0) for step in steps]),
            "prompt_token": np.array([float(step.prompt_tokens) for step in steps]),
            "kv_token": np.array([float(kv_tokens) for kv_tokens, _ in attended]),
            "prompt_kv_token": np.array([back for _, back in attended]),
        }
        names = [name for name in costs if columns[name].any()]
        if len({step.prompt_tokens for step in steps} - {0}) == 1 and "chunk" in names:
            names.remove("chunk")  # one length does not tell what of it is flat
        while True:
            matrix = np.column_stack([table, *(columns[name] for name in names)])
            fitted = solve(matrix, taken_s)
            self._costs_s = dict(zip(names, map(float, fitted[len(self._rows) :]), strict=True))
            negative = [name for name, seconds in self._costs_s.items() if seconds < 0.0]
            if not negative:
                break
            names.remove(min(negative, key=self._costs_s.__getitem__))  # nothing costs less than nothing
        self._rows_s = [float(seconds) for seconds in fitted[: len(self._rows)]]
        self.deviation = float(np.mean(abs(matrix @ fitted - taken_s) / np.maximum(taken_s, SHORTEST_STEP_S)))

    def _table(self, steps: Sequence[Step]) -> npt.NDArray[Any]:
        """How often each l counts in each step's time, shape (steps, rows)."""
        place = {rows: i for i, rows in enumerate(self._rows)}
        table = np.zeros((len(steps), len(place)))
        for row, step in zip(table, steps, strict=True):
            row[place[step.rows]] += 1.0
            if self.tile and step.prompt_tokens:
                for tokens, sign in ((step.rows - 1 + step.prompt_tokens, 1.0), (step.rows, -1.0)):
                    if rest := tokens % self.tile:
                        row[place[rest]] += sign
                        row[place[self.tile]] -= sign * rest / self.tile
        return table

    def model(self, device: str) -> LatencyModel:
        known = {rows: seconds for rows, seconds in zip(self._rows, self._rows_s, strict=True) if seconds > 0.0} or {1: SHORTEST_STEP_S}
        between = np.interp(range(1, max(known) + 1), list(known), list(known.values()))
        table = tuple(max(SHORTEST_STEP_S, float(seconds)) for seconds in between)
        # A row beyond the measured ones is taken to cost as much as those in it do on average, for they may go up and down.
        further_s = max(0.0, (table[-1] - table[0]) / (len(table) - 1)) if len(table) > 1 else 0.0
        costs_s = {f"{name}_s": seconds for name, seconds in self._costs_s.items()}
        return LatencyModel(
            device, table, **costs_s, further_row_s=further_s,
            tile=min(self.tile, len(table)), window=self._window, windowed=self._windowed,
        )  # fmt: skip


class _Solver(Protocol):
    def __call__(self, matrix: npt.NDArray[Any], taken_s: npt.NDArray[Any]) -> npt.NDArray[Any]: ...


def _least_squares(matrix: npt.NDArray[Any], taken_s: npt.NDArray[Any]) -> npt.NDArray[Any]:
    fitted: npt.NDArray[Any] = np.linalg.lstsq(matrix, taken_s)[0]
    return fitted


def _least_deviations(matrix: npt.NDArray[Any], taken_s: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Least sum of relative deviations, by least squares that are weighted anew until large ones count no more than they should."""
    matrix = matrix / np.maximum(taken_s, SHORTEST_STEP_S)[:, None]
    weights = ones = np.ones(len(taken_s))
    for _ in range(ROUNDS):
        fitted = _least_squares(matrix * weights[:, None], weights)
        weights = 1.0 / np.sqrt(np.maximum(abs(matrix @ fitted - ones), CLOSE_ENOUGH))
    return fitted
