"""What a load client notes of each goal, line by line as it happens, so that a killed client's notes remain."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from slice_ros.scheduling.task import SloReport


@dataclass(slots=True)
class Record:
    """One goal as its client saw it; times are seconds of the machine's monotonic clock.

    Args:
        ends: times of its ends; one, unless something is wrong.
        code: name of the error code of the first end, "NONE" for success.
        report: the server's report with that end.
        fields: of the goal, as sent.
    """

    goal_id: str
    sent_s: float
    fields: dict[str, Any] = field(default_factory=dict)
    first_s: float | None = None
    ends: list[float] = field(default_factory=list)
    code: str = ""
    message: str = ""
    report: dict[str, Any] = field(default_factory=dict)


class Notes:
    """Writes a client's notes."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def sent(self, goal_id: str, now_s: float, fields: dict[str, Any]) -> None:
        self._write({"sent": goal_id, "t": now_s, "fields": fields})

    def first(self, goal_id: str, now_s: float) -> None:
        self._write({"first": goal_id, "t": now_s})

    def ended(self, goal_id: str, now_s: float, code: str, message: str, report: SloReport) -> None:
        self._write({"ended": goal_id, "t": now_s, "code": code, "message": message, "report": report._asdict()})

    def _write(self, note: dict[str, Any]) -> None:
        self._file.write(json.dumps(note) + "\n")
        self._file.flush()


def read(paths: Iterable[Path]) -> dict[str, Record]:
    """Records by goal id; a last line that a killed client left unfinished is left out."""
    records: dict[str, Record] = {}
    for path in paths:
        if not path.exists():
            continue
        for line in path.read_text().splitlines():
            try:
                note = json.loads(line)
            except json.JSONDecodeError:
                continue
            if "sent" in note:
                records[note["sent"]] = Record(note["sent"], note["t"], note["fields"])
            elif "first" in note:
                records[note["first"]].first_s = note["t"]
            else:
                record = records[note["ended"]]
                record.ends.append(note["t"])
                if len(record.ends) == 1:
                    record.code, record.message, record.report = note["code"], note["message"], note["report"]
    return records
