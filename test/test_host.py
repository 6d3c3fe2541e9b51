"""The engine process and its supervision, for real: spawned, killed, fed with goals."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from multiprocessing.connection import Connection

import pytest
from serving import is_alive, open_when_read

from slice_ros.goal import ErrorCode, FinishReason, GoalRequest
from slice_ros.parameters.table import check_all
from slice_ros.process import host as host_module
from slice_ros.process.host import EngineHost, EngineState
from slice_ros.process.protocol import Start, Status, Stop
from slice_ros.scheduling.engine import EngineError
from slice_ros.scheduling.events import Event, Finished, Progress, Snapshot
from slice_ros.slo import BestEffort

FAST = {"engine.kind": "simulated"}


def request(max_tokens: int = 5, prompt: str = "hello robot", **fields) -> GoalRequest:
    return GoalRequest(uuid.uuid4().hex, BestEffort(), max_tokens, prompt=prompt, submitted_s=time.monotonic(), **fields)


class Ends:
    """Collects events, and waits for ends."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = threading.Condition()

    def __call__(self, events: list[Event]) -> None:
        with self._news:
            self.events += events
            self._news.notify_all()

    @property
    def finished(self) -> list[Finished]:
        return [event for event in self.events if isinstance(event, Finished)]

    @property
    def progress(self) -> list[Progress]:
        return [event for event in self.events if isinstance(event, Progress)]

    def wait(self, condition, timeout_s: float = 20.0) -> None:
        with self._news:
            assert self._news.wait_for(lambda: condition(self), timeout_s), self.events


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def make_host(ends):
    hosts = []

    def make(**parameters) -> EngineHost:
        host = EngineHost(check_all({**FAST, **{name.replace("__", "."): value for name, value in parameters.items()}}), ends)
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        host.stop()


def test_a_goal_gets_its_tokens_and_one_end(make_host, ends):
    host = make_host()
    host.start()
    goal = request(max_tokens=5)
    host.submit(goal)
    ends.wait(lambda e: e.finished)
    (end,) = ends.finished
    assert (end.goal_id, end.reason, end.error_code) == (goal.goal_id, FinishReason.LENGTH, ErrorCode.NONE)
    assert end.report.output_tokens == len(ends.progress) == 5


@pytest.mark.parametrize("kind", ["simulated", "llama"])
def test_kill_9_ends_every_goal_within_a_second_and_the_next_goal_is_served(make_host, ends, kind):
    host = make_host(engine__kind=kind, cpu__n_threads=1, engine__device_profile="rtx4060ti-chatglm2-6b-int4")
    host.start()
    goals = [request(max_tokens=4000) for _ in range(2)]
    for goal in goals:
        host.submit(goal)
    ends.wait(lambda e: e.progress)
    killed, pid = time.monotonic(), host.pid
    os.kill(pid, signal.SIGKILL)
    ends.wait(lambda e: len(e.finished) == 2)
    assert time.monotonic() - killed < 1.0
    assert {end.goal_id for end in ends.finished} == {goal.goal_id for goal in goals}
    assert {end.error_code for end in ends.finished} == {ErrorCode.ENGINE_DIED}
    assert "SIGKILL" in ends.finished[0].error_msg
    after = request(max_tokens=3)
    host.submit(after)
    ends.wait(lambda e: len(e.finished) == 3)
    assert (ends.finished[2].goal_id, ends.finished[2].error_code) == (after.goal_id, ErrorCode.NONE)
    assert host.restarts == 1
    assert host.pid != pid


def test_a_goal_sent_while_the_engine_restarts_waits_for_it(make_host, ends):
    host = make_host()
    host.start()
    os.kill(host.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5.0
    while host.state is not EngineState.RESTARTING and time.monotonic() < deadline:
        time.sleep(0.001)
    host.submit(request())
    ends.wait(lambda e: e.finished)
    assert ends.finished[0].error_code is ErrorCode.NONE


def test_cancel_ends_a_goal_once_and_a_second_cancel_does_nothing(make_host, ends):
    host = make_host()
    host.start()
    goal = request(max_tokens=2000)
    host.submit(goal)
    ends.wait(lambda e: e.progress)
    host.cancel(goal.goal_id)
    host.cancel(goal.goal_id)
    ends.wait(lambda e: e.finished)
    host.cancel(goal.goal_id)
    host.cancel("unknown")
    other = request()
    host.submit(other)
    ends.wait(lambda e: len(e.finished) == 2)
    assert [end.error_code for end in ends.finished] == [ErrorCode.CANCELED, ErrorCode.NONE]


def test_a_goal_that_cannot_be_served_ends_with_the_reason_and_the_others_go_on(make_host, ends):
    host = make_host(context__n_ctx=512)
    host.start()
    good, bad = request(max_tokens=20), request(max_tokens=1_000_000)
    host.submit(good)
    host.submit(bad)
    ends.wait(lambda e: len(e.finished) == 2)
    by_id = {end.goal_id: end for end in ends.finished}
    assert by_id[good.goal_id].error_code is ErrorCode.NONE
    assert by_id[bad.goal_id].error_code is ErrorCode.CONTEXT_EXCEEDED
    assert "1000000" in by_id[bad.goal_id].error_msg


def test_the_policy_changes_while_a_goal_runs(make_host, ends):
    host = make_host(scheduler__policy="orca")
    host.start()
    host.submit(request(max_tokens=100))
    ends.wait(lambda e: e.progress)
    host.set_parameters({"scheduler.policy": "fastserve", "scheduler.max_batch": 1})
    ends.wait(lambda e: e.finished)
    assert ends.finished[0].error_code is ErrorCode.NONE
    assert ends.finished[0].report.output_tokens == 100


def test_a_parameter_changed_while_the_engine_starts_is_not_lost(make_host, ends):
    host = make_host(scheduler__policy="orca")
    starting = threading.Thread(target=host.start)
    starting.start()
    while host.pid is None:
        time.sleep(0.01)
    time.sleep(0.1)  # what the process is started with has been sent
    host.set_parameters({"scheduler.policy": "fastserve"})
    starting.join()
    host.submit(request())
    ends.wait(lambda e: any(isinstance(event, Snapshot) and event.policy == "fastserve" for event in e.events))


def test_stop_ends_goals_with_shutting_down_and_leaves_no_process(make_host, ends):
    host = make_host()
    host.start()
    pid = host.pid
    host.submit(request(max_tokens=5000))
    ends.wait(lambda e: e.progress)
    began = time.monotonic()
    host.stop()
    assert time.monotonic() - began < 2.0
    assert [end.error_code for end in ends.finished] == [ErrorCode.SHUTTING_DOWN]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_engine_that_is_stopped_while_it_reads_prompts_ends_in_peace(make_host, ends):
    for _ in range(4):  # what else happens at that moment differs
        host = make_host(engine__kind="llama", engine__device_profile="rtx4060ti-chatglm2-6b-int4", cpu__n_threads=1)
        host.start()
        before = len(ends.finished)
        for _ in range(50):
            host.submit(request(prompt="x" * 240_000))
        ends.wait(lambda e, before=before: len(e.finished) > before)  # the first one is too long
        time.sleep(0.1)
        process = host._process
        host.stop()
        assert process.returncode == 0
        assert len(ends.finished) == before + 50


def test_signals_to_all_processes_of_a_terminal_or_service_are_the_nodes_to_answer(make_host, ends):
    host = make_host()
    host.start()
    host.submit(request(max_tokens=100))
    ends.wait(lambda e: e.progress)
    os.kill(host.pid, signal.SIGINT)
    os.kill(host.pid, signal.SIGTERM)
    ends.wait(lambda e: e.finished)
    assert (ends.finished[0].error_code, host.restarts) == (ErrorCode.NONE, 0)


def test_a_goal_after_stop_ends_with_an_error(make_host, ends):
    host = make_host()
    host.start()
    host.stop()
    host.submit(request())
    ends.wait(lambda e: e.finished)
    assert ends.finished[0].error_code is not ErrorCode.NONE


def test_a_missing_model_is_a_sentence_at_start(make_host, tmp_path):
    host = make_host(engine__kind="llama", model__path=str(tmp_path / "none.gguf"))
    with pytest.raises(EngineError, match=r"none\.gguf"):
        host.start()


def test_a_corrupt_model_is_a_sentence_at_start(make_host, tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    host = make_host(engine__kind="llama", model__path=str(path))
    with pytest.raises(EngineError, match=r"bad\.gguf"):
        host.start()


def test_an_unknown_device_profile_is_a_sentence_at_start(make_host):
    host = make_host(engine__device_profile="toaster")
    with pytest.raises(EngineError, match="toaster"):
        host.start()


def test_an_error_that_nobody_foresaw_is_a_sentence_at_start(make_host):
    host = make_host(engine__kind="llama", model__path="~nobody-of-that-name/model.gguf")
    with pytest.raises(EngineError, match=r"the engine cannot be built: RuntimeError: .*home directory"):
        host.start()
    assert host.state is EngineState.FAILED


@pytest.fixture
def breaking(tmp_path, monkeypatch):
    """Engine processes that run some code before their own."""

    def run_first(code: str) -> None:
        lines = ["import sys", "if 'slice_ros.process.main' in sys.orig_argv:", *(f"    {line}" for line in code.splitlines())]
        (tmp_path / "sitecustomize.py").write_text("\n".join(lines) + "\n")

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return run_first


def test_a_process_that_ends_without_a_word_is_a_sentence_at_start(make_host, breaking):
    breaking("import os; os._exit(1)")
    with pytest.raises(EngineError, match=r"ended with status 1$"):
        make_host().start()


def test_a_process_that_python_ends_at_start_is_told_by_its_last_line(make_host, breaking):
    breaking("sys.modules['slice_ros.goal'] = None")
    with pytest.raises(EngineError, match=r"ended with status 1; the last it said was: ModuleNotFoundError: .*slice_ros\.goal"):
        make_host().start()


FALL_SILENT = """
import os, pathlib, signal, socket, sys
os.kill(os.getppid(), signal.SIGSTOP)
while any(") T " not in thread.read_text() for thread in pathlib.Path(f"/proc/{os.getppid()}/task").glob("*/stat")):
    pass
socket.socket(fileno=int(sys.argv[1])).shutdown(1)
"""
"""What a child of the engine process does: its parent stands still, each thread of it, and then the pipe has an end."""


@pytest.mark.parametrize(
    ("attribute", "code", "cause"),
    [
        ("Scheduler.turn", "raise RuntimeError('broken')", r"the engine process cannot go on: RuntimeError: broken;"),
        ("Scheduler.turn", "raise EngineError('the GPU fell off the bus')", r"^the GPU fell off the bus;"),
        ("Preparation.put", "raise RuntimeError('broken')", r"cannot go on: RuntimeError: broken \(in its thread of commands\);"),
        ("Preparation._submit", "raise RuntimeError('broken')", r"cannot go on: RuntimeError: broken \(in its thread of preparation\);"),
        ("Scheduler.turn", "self._emit([lambda: None])", r"cannot go on: .*pickle.* \(in its thread of answers\);"),
        ("Scheduler.turn", "os._exit(0)", r"the engine process \d+ ended with status 0;"),
        ("Scheduler.turn", "os.kill(os.getpid(), signal.SIGSEGV)", r"the engine process \d+ was ended by SIGSEGV;"),
        ("Scheduler.turn", "os.kill(os.getpid(), signal.SIGRTMIN + 1)", r"the engine process \d+ was ended by signal 35;"),
        ("Scheduler.turn", "os.write(2, b'cells < 7\\n'); os.abort()", r"was ended by SIGABRT; the last it said was: cells < 7;"),
        (
            "Scheduler.turn",
            f"subprocess.run([sys.executable, '-c', {FALL_SILENT!r}, sys.argv[1]], pass_fds=[int(sys.argv[1])])",
            r"could not be heard any more \(.*\) and was killed;",
        ),
    ],
)
def test_whatever_ends_the_engine_its_goals_are_told(make_host, ends, breaking, attribute, code, cause):
    breaking(
        "import os, signal, subprocess, sys\n"
        "from slice_ros.process.preparation import Preparation\n"
        "from slice_ros.scheduling.engine import EngineError\n"
        "from slice_ros.scheduling.scheduler import Scheduler\n"
        f"whole = {attribute}\n"
        f"def broken(self, *arguments):\n    if arguments or self.tasks:\n        {code}\n    return whole(self, *arguments)\n"
        f"{attribute} = broken"
    )
    host = make_host(engine__restart=False)
    host.start()
    host.submit(request(max_tokens=4000))
    ends.wait(lambda e: e.finished)
    assert ends.finished[0].error_code is ErrorCode.ENGINE_DIED
    assert re.search(cause, ends.finished[0].error_msg)
    assert ends.finished[0].error_msg.endswith("; send the goal again")


def test_a_command_that_cannot_be_sent_ends_the_engine_and_is_named(make_host, ends):
    host = make_host(engine__restart=False)
    host.start()
    host.submit(request(label=threading.Lock()))
    ends.wait(lambda e: e.finished)
    assert re.match(r"a Submit could not be sent to the engine process \d+ \(.*pickle.*\);", ends.finished[0].error_msg)


def test_the_engine_does_not_end_because_who_receives_its_events_fails(ends):
    failures = []

    def fail_once(events):
        if not failures and any(isinstance(event, Progress) for event in events):
            failures.append(OSError("no space left"))
            raise failures[0]
        ends(events)

    host = EngineHost(check_all(FAST), fail_once)
    host.start()
    try:
        host.submit(request(max_tokens=20))
        ends.wait(lambda e: e.finished)
        assert (ends.finished[0].error_code, host.restarts, len(failures)) == (ErrorCode.NONE, 0, 1)
    finally:
        host.stop()


@pytest.mark.parametrize(
    ("commands", "status"),
    [
        ([], Status.ABANDONED),
        ([Start(check_all(FAST))], Status.ABANDONED),
        ([Start(check_all(FAST)), Stop()], Status.STOPPED),
        ([Start(check_all({**FAST, "engine.device_profile": "toaster"}))], Status.FAILED),
        (["who is there?"], Status.FAILED),
    ],
)
def test_the_status_of_an_engine_process_says_how_it_ended(commands, status):
    ours, theirs = socket.socketpair()
    with theirs, Connection(ours.detach()) as connection:
        process = subprocess.Popen([sys.executable, "-m", "slice_ros.process.main", str(theirs.fileno())], pass_fds=[theirs.fileno()])
        for command in commands:
            connection.send(command)
        if status is not Status.ABANDONED:
            assert process.wait(20.0) == status
    assert process.wait(20.0) == status


COUNT_WHAT_IS_COLLECTED = """
import gc, socket
from multiprocessing.connection import Connection
from slice_ros.parameters.table import check_all
from slice_ros.process.main import EngineProcess
from slice_ros.process.protocol import Start
ours, theirs = socket.socketpair()
EngineProcess(Connection(ours.detach()))._build(Start(check_all({"engine.kind": "simulated"})))
print(gc.get_freeze_count(), len(gc.get_objects()))
"""


def test_pythons_collector_does_not_look_through_what_an_engine_process_keeps():
    counted = subprocess.run([sys.executable, "-c", COUNT_WHAT_IS_COLLECTED], capture_output=True, text=True, check=True, timeout=60.0)
    kept, looked_through = map(int, counted.stdout.split())
    assert looked_through < 0.1 * kept


@contextmanager
def no_file_descriptors():
    """Nobody in this process can open anything, as where too many processes run."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_where_no_process_can_be_started_that_is_a_sentence_at_start(make_host):
    host = make_host()
    with no_file_descriptors(), pytest.raises(EngineError, match=r"no process can be started for the engine: .*Too many open files"):
        host.start(timeout_s=10.0)
    assert host.state is EngineState.FAILED


def test_where_no_thread_can_be_started_that_is_a_sentence_at_start(make_host, monkeypatch):
    def refuse(_stderr):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(host_module, "LastWords", refuse)
    with pytest.raises(EngineError, match=r"no process can be started for the engine: can't start new thread"):
        make_host().start(timeout_s=10.0)


def test_where_no_process_can_be_started_goals_end_until_one_can(make_host, ends):
    host = make_host()
    host.start()
    with no_file_descriptors():
        os.kill(host.pid, signal.SIGKILL)
        while host.state is EngineState.READY:
            time.sleep(0.01)
        host.submit(request())
        ends.wait(lambda e: e.finished)
        assert ends.finished[0].error_code is ErrorCode.ENGINE_DIED
    while host.state is not EngineState.READY:
        time.sleep(0.01)
    host.submit(request())
    ends.wait(lambda e: len(e.finished) == 2)
    assert ends.finished[1].error_code is ErrorCode.NONE


@pytest.mark.parametrize("engine", ["serves", "loads"])
def test_the_engine_process_does_not_outlive_a_killed_node(engine, tmp_path):
    model = tmp_path / "model.gguf"
    os.mkfifo(model)  # nobody writes anything: the load takes for ever
    parameters = {"engine.kind": "simulated"} if engine == "serves" else {"engine.kind": "llama", "model.path": str(model)}
    script = tmp_path / "node.py"
    script.write_text(
        "import threading, time\n"
        "from slice_ros.process.host import EngineHost\n"
        "from slice_ros.parameters.table import check_all\n"
        f"host = EngineHost(check_all({parameters}), print)\n"
        "threading.Thread(target=host.start, daemon=True).start()\n"
        f"while host.pid is None or ({engine == 'serves'} and host.ready is None): time.sleep(0.01)\n"
        "print(host.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as node:
        pid = int(node.stdout.readline())
        writer = open_when_read(model) if engine == "loads" else -1
        node.kill()
    deadline = time.monotonic() + 5.0
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    outlived = is_alive(pid)
    if writer >= 0:
        os.close(writer)
    assert not outlived
