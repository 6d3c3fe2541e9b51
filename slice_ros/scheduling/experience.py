"""What has been learnt from the goals so far: how long answers are, how well they are guessed, and how much real-time work arrives."""

from __future__ import annotations

import math

from slice_ros.latency.model import LatencyModel
from slice_ros.scheduling.drafts import Drafts
from slice_ros.scheduling.lengths import Lengths
from slice_ros.scheduling.load import Load
from slice_ros.scheduling.outlook import Outlook
from slice_ros.scheduling.task import Task


class Experience:
    """Fed with arrivals and ends; read through ``lengths``, ``drafts`` and ``load``."""

    def __init__(self) -> None:
        self.lengths = Lengths()
        self.drafts = Drafts()
        self.load = Load()

    def arrived(self, task: Task, latency: LatencyModel) -> None:
        """A goal was submitted; real-time ones with a due time count as load."""
        if not task.is_real_time:
            return
        job = Outlook.of(task, task.arrival_s, latency, self.lengths)
        if job.end_s < math.inf:
            window_s = max(job.end_s - task.arrival_s, job.work_s)
            starts_s = (job.latest_s, job.last_s, job.hope_s)  # one that nothing could keep in time tells nothing
            slack_s = next((start_s for start_s in starts_s if start_s >= task.arrival_s), math.inf) - task.arrival_s
            self.load.observe(task.arrival_s, job.steps_to(job.needed), latency.prompt_s(task.prompt_tokens), window_s, slack_s)

    def ended(self, task: Task, *, completed: bool) -> None:
        """A task is gone; with ``completed`` its number of output tokens is its answer's length."""
        self.drafts.ended(task.kind, task.drafts)
        if task.hung_up:
            self.lengths.hung_up(task.kind, task.tokens)
        if completed:
            self.lengths.observe(task.kind, task.tokens, task.steps)
            if task.reasoned:
                self.lengths.observe(task.answer_kind, task.tokens - task.reasoned)
