"""The story of one goal in a simulated run: the steps between its submission and its end, who was in them, and what it was lost to."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from slice_ros.bench.simulate import Outcome, SimulatedStep
from slice_ros.bench.workload import Arrival
from slice_ros.latency.model import LatencyModel

MOST_LINES = 40
"""Of a longer story, the middle is left out."""
LABELS_SHOWN = 6
"""Goals of a step that are named; of the others, how many there are."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A step in the life of a goal.

    Args:
        step: what was computed.
        own_tokens: prompt tokens of the goal in it; 0 = a decode, ``None`` = it was left out.
        slack_s: before the step, for how long the goal could have done without the device and be in time, alone from then on: with the
            length that its answer really has. Below 0 it is lost.
        lost_s: how much of that the step took.
    """

    step: SimulatedStep
    own_tokens: int | None
    slack_s: float
    lost_s: float


def moments(arrival: Arrival, steps: Sequence[SimulatedStep], latency: LatencyModel, chain_due_s: float = math.inf) -> list[Moment]:
    """The steps from a goal's submission to its last one, or to the first one that found it lost.

    Args:
        chain_due_s: when its chain is due, from the begin of the traffic.
    """
    goal_id, lengths = arrival.request.goal_id, arrival.lengths
    output = min(lengths.output_tokens, arrival.request.max_tokens)
    prompt_left, tokens, first_s = lengths.prompt_tokens, 0, None
    story = []
    for step in steps:
        if step.ended_s <= arrival.time_s or tokens >= output:
            continue
        before_s = _slack_s(arrival, max(step.began_s, arrival.time_s), prompt_left, tokens, first_s, latency, chain_due_s)
        own = next((cell.prompt_tokens for cell in step.column if cell.goal_id == goal_id), None)
        if own is not None:
            prompt_left = max(0, prompt_left - own) if own else prompt_left
            if goal_id in step.produced:
                prompt_left, tokens = 0, tokens + 1
                first_s = step.ended_s if first_s is None else first_s
        after_s = _slack_s(arrival, step.ended_s, prompt_left, tokens, first_s, latency, chain_due_s)
        story.append(Moment(step, own, before_s, before_s - after_s))
    while len(story) > 1 and story[-1].own_tokens is None and story[-2].slack_s < 0.0:
        story.pop()  # nothing happened to it any more: it may have been ended
    return story


def _slack_s(
    arrival: Arrival, now: float, prompt_left: int, tokens: int, first_s: float | None, latency: LatencyModel, chain_due_s: float
) -> float:
    slo, output = arrival.request.slo, min(arrival.lengths.output_tokens, arrival.request.max_tokens)
    kv_tokens = arrival.lengths.prompt_tokens - prompt_left + tokens
    token_s = latency.step_s(1, kv_tokens=latency.attended(kv_tokens))
    prompt_s = latency.prompt_s(prompt_left, kv_tokens) if prompt_left else 0.0
    rest_s = prompt_s + token_s * (output - tokens)
    slack_s = chain_due_s - now - rest_s
    if slo.deadline_s is not None:
        slack_s = min(slack_s, arrival.time_s + slo.deadline_s - now - rest_s)
    if slo.ttft_s is not None and not tokens:
        slack_s = min(slack_s, arrival.time_s + slo.ttft_s - now - prompt_s - token_s)
    if slo.tpot_s is not None and first_s is not None:
        slack_s = min(slack_s, first_s + slo.tpot_s * (output - 1) - now - rest_s)
    return slack_s


def explain(outcome: Outcome, outcomes: Sequence[Outcome], steps: Sequence[SimulatedStep], latency: LatencyModel) -> str:
    """The story as text, a line for each step or for several of the same kind, times in milliseconds since its submission."""
    arrival, report = outcome.arrival, outcome.report
    slo, goal_id = arrival.request.slo, arrival.request.goal_id
    is_real_time = {o.arrival.request.goal_id: o.is_real_time for o in outcomes}
    due_s = chains_due_s([o.arrival for o in outcomes])[goal_id]
    story = moments(arrival, steps, latency, due_s)
    pairs = (("ttft", slo.ttft_s), ("tpot", slo.tpot_s), ("deadline", slo.deadline_s))
    told = [f"{name} {bound_s * 1e3:.0f} ms" for name, bound_s in pairs if bound_s]
    if due_s < math.inf:
        told.append(f"its chain due {(due_s - arrival.time_s) * 1e3:.0f} ms after it was sent")
    bounds = ", ".join(told) or "no bound"
    lengths = f"{arrival.lengths.prompt_tokens} prompt tokens, {arrival.lengths.output_tokens} of output"
    times = f"ttft {report.ttft_s * 1e3:.0f} ms, tpot {report.tpot_s * 1e3:.1f} ms, end {report.e2e_s * 1e3:.0f} ms"
    head = [
        f"{goal_id}: {_class(outcome.is_real_time)}, {bounds}; {lengths}, sent at {arrival.time_s:.3f} s",
        f"{'in time' if report.attained else 'missed'}: {times}",
    ]
    lines = [_line(list(group), arrival, is_real_time) for _, group in groupby(story, key=_kind)]
    if len(lines) > MOST_LINES:
        half = MOST_LINES // 2
        lines = [*lines[:half], f"  … {len(lines) - 2 * half} lines …", *lines[-half:]]
    return "\n".join([*head, "       at    steps     took    slack", *lines, *_verdict(story, arrival, is_real_time)])


def chains_due_s(arrivals: Iterable[Arrival]) -> dict[str, float]:
    """When the earliest of the chains is due that each goal is in, from the begin of the traffic; infinite without one.

    Args:
        arrivals: all of the traffic, in order.
    """
    due_s: dict[str, float] = {}
    for arrival in arrivals:
        request = arrival.request
        own_s = arrival.time_s + (request.chain_deadline_s or math.inf)
        due_s[request.goal_id] = min([own_s, *(due_s[goal_id] for goal_id in request.after if goal_id in due_s)])
    return due_s


def _class(is_real_time: bool) -> str:
    return "real-time" if is_real_time else "best-effort"


def _kind(moment: Moment) -> tuple[object, ...]:
    """What has to be the same of steps that are told together."""
    others = tuple(sorted((cell.goal_id, cell.prompt_tokens > 0) for cell in moment.step.column))
    return moment.own_tokens is None, bool(moment.own_tokens), moment.slack_s >= 0.0, others


def _line(group: Sequence[Moment], arrival: Arrival, is_real_time: Mapping[str, bool]) -> str:
    first, goal_id = group[0], arrival.request.goal_id
    prompts: Counter[str] = Counter()
    for moment in group:
        for cell in moment.step.column:
            prompts[cell.goal_id] += cell.prompt_tokens
    names = []
    for cell in first.step.column:
        if cell.goal_id != goal_id:
            prompt = f" (+{prompts[cell.goal_id]} of its prompt)" if prompts[cell.goal_id] else ""
            names.append(f"{'RT' if is_real_time[cell.goal_id] else 'BE'} {cell.goal_id}{prompt}")
    others = ", ".join(names[:LABELS_SHOWN]) + (f" and {len(names) - LABELS_SHOWN} more" if len(names) > LABELS_SHOWN else "")
    own = "left out" if first.own_tokens is None else f"{prompts[goal_id]} of its prompt" if first.own_tokens else "decodes"
    took_s = sum(moment.step.ended_s - moment.step.began_s for moment in group)
    at_ms = (first.step.began_s - arrival.time_s) * 1e3
    return f"{at_ms:9.0f} {len(group):8} {took_s * 1e3:8.0f} {first.slack_s * 1e3:8.0f}  {own}" + (f"; beside: {others}" if others else "")


def _verdict(story: Sequence[Moment], arrival: Arrival, is_real_time: Mapping[str, bool]) -> Iterator[str]:
    """When it was lost, and what took its slack until then."""
    if not story:
        return
    taken_s: dict[str, float] = defaultdict(float)
    for moment in story:
        if moment.slack_s < 0.0:
            break
        kinds = sorted(
            {
                f"{_class(is_real_time[cell.goal_id])} {'prompts' if cell.prompt_tokens else 'decodes'}"
                for cell in moment.step.column
                if cell.goal_id != arrival.request.goal_id
            }
        )
        taken_s[" and ".join(kinds) or "nobody else"] += moment.lost_s
    lost = next((moment for moment in story if moment.slack_s >= 0.0 > moment.slack_s - moment.lost_s), None)
    if story[0].slack_s < 0.0:
        yield "it was out of reach when it was sent"
    elif lost is not None:
        yield f"lost in the step that began {(lost.step.began_s - arrival.time_s) * 1e3:.0f} ms after it was sent"
    parts = [
        f"{what} {seconds * 1e3:.0f} ms" for what, seconds in sorted(taken_s.items(), key=lambda item: -item[1]) if abs(seconds) >= 5e-4
    ]
    if parts:
        yield "its slack went to steps beside " + ", ".join(parts)
