"""What each ingredient of the default policy is worth: attainment with it switched off. ``python benchmarks/ablation.py [seeds]``."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn
from unittest.mock import patch

from slice_ros.bench.simulate import attainment, simulate
from slice_ros.bench.workload_file import load_workload
from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling import scheduler
from slice_ros.scheduling.lengths import Lengths
from slice_ros.scheduling.load import Traffic
from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.policies import laxity, promises, slack
from slice_ros.scheduling.policies.base import Limits
from slice_ros.scheduling.policies.slip import Slip
from slice_ros.scheduling.residency import Room
from slice_ros.scheduling.task import Task

RATES_HZ = (1.5, 2.0, 3.0, 5.0)


def _everybody(jobs: Sequence[Outlook], *_: Any) -> list[Outlook]:
    return list(jobs)


def _first_come(jobs: Sequence[Outlook], traffic: Traffic, now: float, latency: LatencyModel, limits: Limits, _: Room) -> list[Outlook]:
    made = promises.Promises(traffic, now, latency, limits)
    return [job for job in sorted(jobs, key=lambda job: job.task.order) if made.take(job)]


def _expecting_none(jobs: Sequence[Outlook], _: Traffic, *situation: Any) -> list[Outlook]:
    return promises.select(jobs, Traffic(), *situation)


def _fail(message: str, *arguments: object) -> NoReturn:
    raise AssertionError(message % arguments)


def _always_hopeful(task: Task, now: float, latency: LatencyModel, lengths: Lengths) -> Outlook:
    job = _outlook(task, now, latency, lengths)
    job.hope_s = math.inf
    return job


_outlook = Outlook.of


@contextmanager
def _without(*patches: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        yield


def _constants(**values: float) -> Any:
    return patch.multiple(slack, **values)


VARIANTS: dict[str, Sequence[Any]] = {
    "as it is": (),
    "everything is promised": (patch.object(slack, "select", _everybody),),
    "all real-time goals are promised": (patch.object(slack, "keepable", _everybody),),
    "no time for wide steps": (patch.object(Slip, "share", lambda *_: 0.0),),
    "no room for arrivals": (patch.object(slack, "select", _expecting_none),),
    "no caution": (patch.object(promises, "CAUTION", 0.0),),
    "promises first come, first served": (patch.object(slack, "select", _first_come),),
    "lengths not learnt": (patch.object(Lengths, "observe", lambda *_: None),),
    "the hopeless go on": (patch.object(Outlook, "of", _always_hopeful), patch.object(Task, "is_lost", lambda *_: False)),
    "steps as wide as they can be": (_constants(BEST_EFFORT_WORTH=1.0, SPARE_WORTH=1.0, URGENCY_DECAY=1.0),),
    "real-time goals wait for nobody": (patch.object(slack, "mark_pressed", lambda *_: None),),
    "others do not ask for how long they can": (patch.object(slack, "laxity_s", lambda *_: math.inf),),
    "others may take all of that at once": (patch.object(laxity, "SHARE", 1.0),),
    "nothing has piled up": (patch.object(laxity, "backlog_s", lambda *_: 0.0),),
    "due times regardless of class": (patch.object(slack, "_urgency", lambda job: job.due_s),),
    "nothing for spare tasks": (_constants(SPARE_SHARE=0.0),),
}


def main(seeds: int) -> None:
    """Print total attainment, and that of real-time goals, at each rate."""
    latency = LatencyModel.profile("rtx4060ti-chatglm2-6b-int4-flat")
    workload = load_workload("robot-mix")
    print("| switched off | " + " | ".join(f"{rate}/s" for rate in RATES_HZ) + " |\n| --- |" + " --- |" * len(RATES_HZ))
    for name, patches in VARIANTS.items():
        cells = []
        for rate in RATES_HZ:
            total = real_time = 0.0
            for seed in range(seeds):
                with _without(patch.object(scheduler.logger, "exception", _fail), *patches):
                    outcomes = simulate(workload.traffic(rate, 300.0, seed), slack.Slack(), latency)
                total += attainment(outcomes) / seeds
                real_time += attainment([outcome for outcome in outcomes if outcome.arrival.request.slo.is_real_time]) / seeds
            cells.append(f"{total:.3f} ({real_time:.3f})")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
