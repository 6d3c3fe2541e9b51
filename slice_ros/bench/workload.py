"""Seeded traffic: which goal arrives when, with what SLO, and how long its prompt and answer are."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from slice_ros.engines.simulated import Lengths
from slice_ros.goal import GoalRequest
from slice_ros.slo import Slo


class WorkloadError(ValueError):
    """A workload contradicts itself or cannot be read."""


# ---- how many tokens


@dataclass(frozen=True, slots=True)
class Uniform:
    """Whole numbers from ``low`` to ``high``, both included, all equally likely."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise WorkloadError(f"the range of tokens is [{self.low}, {self.high}]; it must rise and begin at 1 or more")

    @property
    def longest(self) -> int:
        return self.high

    def draw(self, rng: random.Random) -> int:
        return rng.randint(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some lengths, all equally likely."""

    values: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.values or min(self.values) < 1:
            raise WorkloadError(f"the choice of tokens is {list(self.values)}; it must name at least one length, each 1 or more")

    @property
    def longest(self) -> int:
        return max(self.values)

    def draw(self, rng: random.Random) -> int:
        return rng.choice(self.values)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Mostly short, sometimes long: the shape of answers that people get. What exceeds ``longest`` is cut to it.

    Args:
        median: half of all lengths are below.
        sigma: standard deviation of the logarithm; 0.5 to 1 is usual.
        longest: length at most.
    """

    median: float
    sigma: float
    longest: int

    def __post_init__(self) -> None:
        if not (1 <= self.median <= self.longest and self.sigma > 0.0):
            raise WorkloadError(
                f"lognormal has median {self.median}, sigma {self.sigma} and max {self.longest}; "
                "needed are 1 <= median <= max and sigma above 0"
            )

    def draw(self, rng: random.Random) -> int:
        return min(self.longest, max(1, round(rng.lognormvariate(math.log(self.median), self.sigma))))


TokenCount = Uniform | Choice | Lognormal


# ---- when


@dataclass(frozen=True, slots=True)
class Poisson:
    """Goals that know nothing of each other."""

    def times_s(self, rng: random.Random, rate_hz: float) -> Iterator[float]:
        now = 0.0
        while True:
            now += rng.expovariate(rate_hz)
            yield now


@dataclass(frozen=True, slots=True)
class Periodic:
    """A timer with a random phase.

    Args:
        jitter: how far a goal may be off its time at most, as a share of the period, up to 0.5.
    """

    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.jitter <= 0.5:
            raise WorkloadError(f"jitter is {self.jitter}; it must be from 0 to 0.5 periods")

    def times_s(self, rng: random.Random, rate_hz: float) -> Iterator[float]:
        phase = rng.random()
        for k in itertools.count():
            yield max(0.0, k + phase + rng.uniform(-self.jitter, self.jitter)) / rate_hz


@dataclass(frozen=True, slots=True)
class Bursty:
    """Poisson arrivals in bursts, silence between them; the mean rate over both is the one asked for.

    Args:
        burst_s: mean length of a burst, in seconds; lengths are exponential.
        silence_s: mean length of a silence, in seconds.
    """

    burst_s: float = 2.0
    silence_s: float = 8.0

    def __post_init__(self) -> None:
        if not (self.burst_s > 0.0 and self.silence_s > 0.0):
            raise WorkloadError(f"burst_s is {self.burst_s} and silence_s {self.silence_s}; both must be above 0")

    def times_s(self, rng: random.Random, rate_hz: float) -> Iterator[float]:
        cycle_s = self.burst_s + self.silence_s
        peak_hz = rate_hz * cycle_s / self.burst_s
        now = 0.0 if rng.random() < self.burst_s / cycle_s else rng.expovariate(1.0 / self.silence_s)
        while True:
            end = now + rng.expovariate(1.0 / self.burst_s)
            now += rng.expovariate(peak_hz)
            while now < end:
                yield now
                now += rng.expovariate(peak_hz)
            now = end + rng.expovariate(1.0 / self.silence_s)


ArrivalProcess = Poisson | Periodic | Bursty


# ---- what


@dataclass(frozen=True, slots=True)
class GoalClass:
    """One kind of goal in a workload.

    Args:
        label: its name.
        share: its weight among the classes.
        slo: what each of its goals asks for.
        output_tokens: true length of the answers.
        prompt_tokens: length of the prompts.
        max_tokens: what the goals ask for; ``None`` is the longest answer.
        arrivals: a process of its own; ``None`` takes part in the workload's.
        adapter: the LoRA adapter they are computed with; empty is none.
        after: label of the class whose latest goal each of them waits for; empty is nobody.
        chain_deadline_s: from its submission to the end of the last goal that waits for it; ``None`` is no bound.
    """

    label: str
    share: float
    slo: Slo
    output_tokens: TokenCount
    prompt_tokens: TokenCount
    max_tokens: int | None = None
    arrivals: ArrivalProcess | None = None
    adapter: str = ""
    after: str = ""
    chain_deadline_s: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.share) and self.share >= 0.0):
            raise WorkloadError(f"share of class {self.label!r} is {self.share}; it must be 0 or more")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise WorkloadError(f"max_tokens of class {self.label!r} is {self.max_tokens}; it must be 1 or more")
        if self.chain_deadline_s is not None and not (math.isfinite(self.chain_deadline_s) and self.chain_deadline_s > 0.0):
            raise WorkloadError(f"chain_deadline_s of class {self.label!r} is {self.chain_deadline_s}; it must be above 0")

    def goal(self, goal_id: str, time_s: float, rng: random.Random) -> Arrival:
        """One goal of this class, submitted at ``time_s``."""
        lengths = Lengths(self.prompt_tokens.draw(rng), self.output_tokens.draw(rng))
        limit = self.max_tokens or self.output_tokens.longest
        request = GoalRequest(
            goal_id,
            self.slo,
            limit,
            prompt=" ",
            submitted_s=time_s,
            label=self.label,
            adapter=self.adapter,
            chain_deadline_s=self.chain_deadline_s,
        )
        return Arrival(time_s, request, lengths)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A goal of the traffic. Its answer's length is for the engine alone to know."""

    time_s: float
    request: GoalRequest
    lengths: Lengths


@dataclass(frozen=True, slots=True)
class Workload:
    """Classes of goals and how they arrive.

    Raises:
        WorkloadError: no class, two of one name, or no class with a share above 0.
    """

    name: str
    classes: tuple[GoalClass, ...]
    arrivals: ArrivalProcess = Poisson()

    def __post_init__(self) -> None:
        labels = [kind.label for kind in self.classes]
        if repeated := {label for label in labels if labels.count(label) > 1}:
            raise WorkloadError(f"workload {self.name!r} has more than one class {min(repeated)!r}; each needs its own label")
        for kind in self.classes:
            if kind.after and kind.after not in labels:
                raise WorkloadError(f"class {kind.label!r} of workload {self.name!r} comes after {kind.after!r}, which is no class of it")
        if not sum(kind.share for kind in self.classes) > 0.0:
            raise WorkloadError(f"workload {self.name!r} has no class with a share above 0; give at least one")

    @property
    def rt_share(self) -> float:
        """Share of real-time goals, 0 to 1."""
        return sum(kind.share for kind in self.classes if kind.slo.is_real_time) / sum(kind.share for kind in self.classes)

    def with_rt_share(self, rt_share: float) -> Workload:
        """The same classes with another share of real-time goals; within each service class the shares keep their proportions.

        Raises:
            WorkloadError: the share is not from 0 to 1, or there is no class to give it to.
        """
        if not 0.0 <= rt_share <= 1.0:
            raise WorkloadError(f"the real-time share is {rt_share}; it must be from 0 to 1")
        rt = sum(kind.share for kind in self.classes if kind.slo.is_real_time)
        be = sum(kind.share for kind in self.classes if not kind.slo.is_real_time)
        for now, wanted, name in ((rt, rt_share, "real-time"), (be, 1.0 - rt_share, "best-effort")):
            if wanted and not now:
                raise WorkloadError(f"workload {self.name!r} has no {name} class to give a share of {wanted:g} to")
        scale = {True: rt_share / rt if rt else 0.0, False: (1.0 - rt_share) / be if be else 0.0}
        return replace(self, classes=tuple(replace(kind, share=kind.share * scale[kind.slo.is_real_time]) for kind in self.classes))

    def with_bounds_scaled(self, factor: float) -> Workload:
        """The same goals with every time bound multiplied, for a faster or slower device than the workload was written for."""

        def scaled(slo: Slo) -> Slo:
            bounds = {name: getattr(slo, name) for name in ("ttft_s", "tpot_s", "deadline_s")}
            return replace(slo, **{name: bound and bound * factor for name, bound in bounds.items()})

        def chain_s(kind: GoalClass) -> float | None:
            return kind.chain_deadline_s and kind.chain_deadline_s * factor

        return replace(self, classes=tuple(replace(kind, slo=scaled(kind.slo), chain_deadline_s=chain_s(kind)) for kind in self.classes))

    def only(self, label: str) -> Workload:
        """One class alone, whose goals wait for none of another."""
        return replace(self, classes=tuple(replace(kind, after="") for kind in self.classes if kind.label == label))

    def traffic(self, rate_hz: float, duration_s: float, seed: int) -> list[Arrival]:
        """``rate_hz`` goals a second on average for ``duration_s``; the same for the same seed.

        Goals of the common process get their class at random, by share.
        """
        total = sum(kind.share for kind in self.classes)
        mixed = [kind for kind in self.classes if kind.arrivals is None and kind.share]
        streams: list[tuple[list[GoalClass], ArrivalProcess, random.Random]] = []
        if mixed:
            streams.append((mixed, self.arrivals, random.Random(seed)))
        streams += [([kind], kind.arrivals, random.Random(f"{seed} {kind.label}")) for kind in self.classes if kind.arrivals and kind.share]
        goals: list[Arrival] = []
        for classes, arrivals, rng in streams:
            shares = [kind.share for kind in classes]
            for time_s in arrivals.times_s(rng, rate_hz * sum(shares) / total):
                if time_s >= duration_s:
                    break
                kind = rng.choices(classes, shares)[0]
                goals.append(kind.goal(f"{kind.label}-{len(goals)}", time_s, rng))
        return self._chained(sorted(goals, key=lambda goal: goal.time_s))

    def _chained(self, goals: list[Arrival]) -> list[Arrival]:
        """The goals, in order of time, with those that they wait for."""
        after = {kind.label: kind.after for kind in self.classes if kind.after}
        if not after:
            return goals
        latest: dict[str, str] = {}
        chained = []
        for goal in goals:
            label = goal.request.label
            before = latest.get(after.get(label, ""))
            chained.append(replace(goal, request=replace(goal.request, after=(before,))) if before else goal)
            latest[label] = goal.request.goal_id
        return chained
