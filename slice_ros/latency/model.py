"""Predicts how long a step takes; every plan and every promise rests on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from slice_ros.mask import Column
from slice_ros.paths import share_dir

COSTS = ("chunk", "prompt_token", "kv_token", "prompt_kv_token", "further_row")
"""What a step costs beside its rows; each is a field in seconds, and a key of a profile in milliseconds."""

PROMPT_COSTS = ("chunk", "prompt_token", "prompt_kv_token")
"""Those of prompts."""


class LatencyError(ValueError):
    """A device profile is missing or has impossible numbers."""


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """A step's time: ``l(rows) + chunk_s * prompt cells + prompt_token_s * prompt tokens + kv_token_s * KV tokens`` and
    ``prompt_kv_token_s * looked_back``.

    The last is of how many tokens those of prompts look back on, all together: the end of a long prompt takes longer than its beginning.
    ``rows`` counts every cell of the step, decoding or not, and every drafted token, which takes what a row takes: the model's weights are
    applied to it, and its logits are wanted. All times are in seconds.

    Kernels that take so many tokens at once, a tile, are slow with what is left over: what l has of that is not that of the rows then,
    but that of all the step's tokens, ``l(n) - n * l(tile) / tile`` with n the tokens beyond full tiles.

    Layers with a sliding window look back on no more than that: of a row's KV tokens so many count as ``attended`` says.

    Args:
        device: whose times these are.
        decode_s: l(1), l(2), ...: a step with that many rows. It need not grow: on real kernels a step with four rows can be shorter
            than one with three.
        chunk_s: fixed cost of each prompt chunk in the step.
        prompt_token_s: cost of each prompt token in the step.
        kv_token_s: cost of each token already in the KV cache of a row in the step.
        prompt_kv_token_s: cost of each token that a prompt token looks back on.
        further_row_s: cost of each row beyond the end of ``decode_s``, which goes on flat without.
        tile: tokens that kernels take at once; 0 = that does not show.
        window: tokens that some layers look back on; 0 = all look back on all.
        windowed: share of what KV tokens cost that is these layers', 0 to 1.
        margin: by which share some of the latest steps took longer than this predicts; 0 as long as nothing was measured.

    Raises:
        LatencyError: the table is empty or a time is negative or not finite.
    """

    device: str
    decode_s: tuple[float, ...]
    chunk_s: float = 0.0
    prompt_token_s: float = 0.0
    kv_token_s: float = 0.0
    prompt_kv_token_s: float = 0.0
    further_row_s: float = 0.0
    tile: int = 0
    window: int = 0
    windowed: float = 0.0
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not self.decode_s:
            raise LatencyError(f"latency model {self.device!r} has an empty table; give l(1), l(2), ... in ascending order of rows")
        for rows, seconds in enumerate(self.decode_s, 1):
            if not (math.isfinite(seconds) and seconds > 0.0):
                raise LatencyError(f"latency model {self.device!r}: l({rows}) is {seconds} s; it must be above 0")
        for name in COSTS:
            seconds = getattr(self, f"{name}_s")
            if not (math.isfinite(seconds) and seconds >= 0.0):
                what = name.replace("_", " ")
                raise LatencyError(f"latency model {self.device!r}: {what} is {seconds} s; it must be 0 or more")
        if not 0 <= self.tile <= len(self.decode_s):
            raise LatencyError(
                f"latency model {self.device!r}: tile is {self.tile}; it must be 0 to {len(self.decode_s)}, as l has no more"
            )
        if not (self.window >= 0 and 0.0 <= self.windowed <= 1.0):
            raise LatencyError(
                f"latency model {self.device!r}: window is {self.window} and windowed {self.windowed}; "
                "they must be 0 or more tokens, and a share from 0 to 1"
            )

    def step_s(self, rows: int, prompt_tokens: int = 0, chunks: int = 0, kv_tokens: float = 0.0, prompts_back: float = 0.0) -> float:
        """Predicted seconds of one step.

        Args:
            rows: cells in it.
            prompt_tokens: of all chunks of prompts together.
            chunks: cells that carry them.
            kv_tokens: attended by all rows together.
            prompts_back: ``looked_back`` of all chunks together.
        """
        if rows <= 0:
            return 0.0
        table = self.decode_s
        base = table[rows - 1] if rows <= len(table) else table[-1] + self.further_row_s * (rows - len(table))
        seconds = base + self.chunk_s * chunks + self.prompt_token_s * prompt_tokens + self.kv_token_s * kv_tokens
        seconds += self.prompt_kv_token_s * prompts_back
        if self.tile and prompt_tokens:
            seconds += self._left_over_s(rows - chunks + prompt_tokens) - self._left_over_s(rows)
            return max(seconds, table[0])
        return seconds

    def _left_over_s(self, tokens: int) -> float:
        """What tokens beyond full tiles take longer than they would in one."""
        rest = tokens % self.tile
        return self.decode_s[rest - 1] - rest * self.decode_s[self.tile - 1] / self.tile if rest else 0.0

    def attended(self, kv_tokens: int) -> float:
        """How many so many KV tokens of a row count for: those beyond the window in the other layers alone."""
        return kv_tokens - self.windowed * max(0, kv_tokens - self.window) if self.windowed else kv_tokens

    def all_attended(self, kv_tokens: Sequence[int]) -> Sequence[float]:
        """How many those of each row count for."""
        return [self.attended(tokens) for tokens in kv_tokens] if self.windowed else kv_tokens

    def kv_s(self, kv_tokens: int) -> float:
        """Predicted seconds that so many KV tokens of a row add to a step."""
        return self.kv_token_s * self.attended(kv_tokens)

    def column_s(self, column: Column, kv_tokens: Sequence[int] = ()) -> float:
        """Predicted seconds of one column of a mask matrix.

        Args:
            kv_tokens: of each cell; none where the cache is empty.
        """
        attended = self.all_attended(kv_tokens)
        prompts = [cell.prompt_tokens for cell in column if cell.prompt_tokens]
        back = 0.0
        if prompts and self.prompt_kv_token_s:
            of_each = zip(column, attended or [0] * len(column), strict=True)
            back = sum([looked_back(cell.prompt_tokens, tokens) for cell, tokens in of_each if cell.prompt_tokens])
        return self.step_s(rows_of(column), sum(prompts), len(prompts), sum(attended), back)

    def prompt_s(self, tokens: int, kv_tokens: int = 0) -> float:
        """Predicted extra seconds of a whole prompt beyond its row in the step.

        Args:
            kv_tokens: of it that are computed already, and do not count in ``tokens``.
        """
        return self.chunk_s + self.prompt_tokens_s(tokens, kv_tokens)

    def prompt_tokens_s(self, tokens: int, kv_tokens: int = 0) -> float:
        """The same without what each chunk costs."""
        return self.prompt_token_s * tokens + self.prompt_kv_token_s * looked_back(tokens, self.attended(kv_tokens))

    def prompt_tokens_in(self, time_s: float, kv_tokens: int = 0) -> float:
        """How many take so long, ``prompt_tokens_s`` the other way round; infinity where they take no time."""
        token_s, kv_token_s = self.prompt_token_s + self.prompt_kv_token_s * self.attended(kv_tokens), self.prompt_kv_token_s
        if not (token_s or kv_token_s):
            return math.inf
        root_s = math.sqrt(token_s**2 + 2.0 * kv_token_s * time_s)  # of kv_token_s / 2 * n**2 + token_s * n = time_s
        return 2.0 * time_s / (token_s + root_s) if root_s else 0.0

    def scaled(self, factor: float, prompts: float = 1.0, margin: float = 0.0) -> LatencyModel:
        """A device whose steps all take ``factor`` times as long, and what prompts add to them ``prompts`` times as long as that."""
        table = tuple(factor * seconds for seconds in self.decode_s)
        factors = {name: factor * prompts if name in PROMPT_COSTS else factor for name in COSTS}
        costs_s = {f"{name}_s": scale * getattr(self, f"{name}_s") for name, scale in factors.items()}
        return replace(self, decode_s=table, **costs_s, margin=margin)

    @classmethod
    def profile(cls, name: str) -> LatencyModel:
        """Load a device profile: a name in ``config/devices``, or the path of a YAML file.

        Raises:
            LatencyError: no such profile, or what it holds is not one.
        """
        path = Path(name) if name.endswith((".yaml", ".yml")) else devices_dir() / f"{name}.yaml"
        try:
            content = yaml.safe_load(path.read_text())
        except FileNotFoundError:
            raise LatencyError(
                f"there is no device profile {name!r}; there are: {', '.join(profile_names())}, or give a .yaml file"
            ) from None
        except (OSError, yaml.YAMLError, ValueError) as error:  # as of bytes that are no UTF-8, or of 2001-13-01
            raise LatencyError(f"device profile {path} cannot be read: {error}") from error
        return cls.from_dict(path.stem, content)

    @classmethod
    def from_dict(cls, device: str, content: Any) -> LatencyModel:
        """Make a model of what a profile file holds: times in milliseconds (see ``config/devices``).

        Raises:
            LatencyError: a key is missing, unknown or of the wrong type.
        """
        keys = {"decode_ms", "description", "tile", "window", "windowed", *(f"{name}_ms" for name in COSTS)}
        if not isinstance(content, dict) or "decode_ms" not in content:
            raise LatencyError(f"device profile {device!r} has no decode_ms; it must list l(1), l(2), ... in milliseconds")
        if unknown := set(content) - keys:
            raise LatencyError(f"device profile {device!r} has unknown keys {sorted(unknown)}; known are {sorted(keys)}")
        table = content["decode_ms"]
        if not isinstance(table, Sequence) or isinstance(table, str) or not all(_is_number(ms) for ms in table):
            raise LatencyError(f"device profile {device!r}: decode_ms is {table!r}; it must be a list of numbers")
        costs_s: dict[str, float] = {}
        for name in COSTS:
            ms = content.get(f"{name}_ms", 0.0)
            if not _is_number(ms):
                raise LatencyError(f"device profile {device!r}: {name}_ms is {ms!r}; it must be a number")
            costs_s[f"{name}_s"] = ms / 1e3
        tile, window, windowed = content.get("tile", 0), content.get("window", 0), content.get("windowed", 0.0)
        for name, tokens in (("tile", tile), ("window", window)):
            if not isinstance(tokens, int) or isinstance(tokens, bool):
                raise LatencyError(f"device profile {device!r}: {name} is {tokens!r}; it must be a whole number of tokens")
        if not _is_number(windowed):
            raise LatencyError(f"device profile {device!r}: windowed is {windowed!r}; it must be a number")
        return cls(device, tuple(ms / 1e3 for ms in table), **costs_s, tile=tile, window=window, windowed=windowed)

    def to_yaml(self, description: str = "") -> str:
        """The text of a profile file, which ``profile`` loads; times in milliseconds, of nine digits."""
        content: dict[str, Any] = {"description": description or self.device, "decode_ms": [_ms(s) for s in self.decode_s]}
        content |= {f"{name}_ms": _ms(getattr(self, f"{name}_s")) for name in COSTS} | ({"tile": self.tile} if self.tile else {})
        content |= {"window": self.window, "windowed": self.windowed} if self.windowed else {}
        return yaml.safe_dump(content, sort_keys=False, width=120, default_flow_style=None, allow_unicode=True)


def looked_back(prompt_tokens: int, kv_tokens: float) -> float:
    """On how many tokens those of a prompt's chunk look back, all together: each on all before it.

    Args:
        kv_tokens: those before the chunk.
    """
    return prompt_tokens * (kv_tokens + 0.5 * prompt_tokens)


def rows_of(column: Column) -> int:
    """How many rows a column counts for: its cells, and what is drafted in them."""
    return len(column) + sum([cell.drafted for cell in column])


def _ms(seconds: float) -> float:
    return float(f"{seconds * 1e3:.9g}")


def devices_dir() -> Path:
    """Where the device profiles lie."""
    return share_dir() / "config" / "devices"


def profile_names() -> list[str]:
    """Names of the device profiles that come with the package."""
    return sorted(path.stem for path in devices_dir().glob("*.yaml"))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
