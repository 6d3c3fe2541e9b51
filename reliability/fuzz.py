"""Sends wrong input of every kind: ``python -m reliability.fuzz``. A goal that runs beside it must always give the same answer.

To a running server: goals with any fields, grammars and schemas, and bytes that are no messages on its topics and ports. To a loader:
damaged GGUF files. In this process: parameters, presets, workloads, device profiles and command lines; what rcl reads is left to rcl.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import rclpy
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from reliability.attacker import Attacker
from reliability.inputs import ADAPTERS, TEXTS, damaged, goals, messages_of
from reliability.isolation import isolate
from reliability.processes import Fronted, LoadClient, Server, wait_until
from reliability.records import read
from reliability.report import Check, conclude
from slice_ros.bench.workload import WorkloadError
from slice_ros.bench.workload_file import load_workload
from slice_ros.cli import COMMANDS, make_parser
from slice_ros.client import Answer, Generation, GoalFailed, SliceClient
from slice_ros.commands import serve
from slice_ros.engines.llama.shapes import make_adapter, make_start_model
from slice_ros.latency.model import LatencyError, LatencyModel
from slice_ros.parameters.presets import PREFIX, presets_of
from slice_ros.parameters.table import PARAMETERS, ParameterError, check_all
from slice_ros.process.host import EngineHost
from slice_ros.ros.conversions import uuid_msg
from slice_ros.scheduling.engine import EngineError

NAME = "fuzz"
CLIENT = "load_0_0"
"""Node of the client that is attacked beside the server."""
READY_S = 90.0
END_S = 60.0
"""Any goal has ended after this, on a busy machine, too."""
MEMORY = 4 * 2**30
"""Bytes that the server, and its engine, may have: input that makes one of them grow without end is to end it, not the machine."""
WITNESS_TOKENS = 64
TAKEN = 0.4
"""Share of the wrong goals that a field or two do not give away, so that what is behind is tried as well."""
AT_ONCE = 20
"""Goals between two looks at the server, ..."""
CHUNK = 2000
"""... and samples or packets."""
EXAMPLES = 30
"""Right messages of each type, which are damaged."""
SHARES = {"texts": 0.60, "bytes": 0.34, "goals": 0.05, "models": 0.01}


class Target:
    """A server, and a client of it. One and the same goal of the client is always under way, and must always get the same answer."""

    def __init__(self, folder: Path, *, dispatcher: bool) -> None:
        make_start_model(folder / "model.gguf")
        for number, name in enumerate(ADAPTERS):
            make_adapter(folder / f"{name}.gguf", seed=number)
        adapters = ",".join(f"{name}={folder / name}.gguf" for name in ADAPTERS)
        arguments = (
            "--model",
            str(folder / "model.gguf"),
            "-p",
            f"model.adapters:={adapters}",
            "--n-ctx",
            "4096",
            "-p",
            "limits.max_tokens:=300",
        )
        kind = Fronted if dispatcher else Server
        self.server: Server | Fronted = kind(NAME, folder / "server.log", (*arguments, "--device-profile", "rtx4060ti-chatglm2-6b-int4"))
        self.server.start()
        resource.prlimit(self.server.pid, resource.RLIMIT_DATA, (MEMORY, MEMORY))
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("fuzzer")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.client = SliceClient(self.node, f"/{NAME}")
        self.client.wait_for_server(READY_S)
        wait_until(lambda: self.server.engine_pid is not None, READY_S)
        self.engine_pid = self.server.engine_pid
        self.broken: list[str] = []
        self.doing = "at the beginning"
        self.answers: Counter[str] = Counter()
        self._sent_s = 0.0
        self._executor.create_task(self._witness())
        wait_until(lambda: bool(self.answers), END_S, self.turn)
        self.expected = next(iter(self.answers), "")

    async def _witness(self) -> None:
        while True:
            self._sent_s = time.monotonic()
            try:
                text = (await self.client.generate("where is the dock?", max_tokens=WITNESS_TOKENS, label="witness")).text
            except GoalFailed as error:
                text = f"failed: {error}"
            if self.answers and text != self.expected:
                self.broken.append(f"{self.doing}: the goal beside it got {text[:80]!r}")
            self.answers[text] += 1

    def turn(self, timeout_s: float = 0.05) -> None:
        self._executor.spin_once(timeout_sec=timeout_s)

    def look(self) -> None:
        """Is the server what it was?"""
        answered = self.answers.total()
        wait_until(lambda: self.answers.total() > answered, END_S, self.turn)
        if time.monotonic() - self._sent_s > END_S:
            self.broken.append(f"{self.doing}: the goal beside it did not end")
        if not self.server.is_running or self.server.engine_pid != self.engine_pid:
            self.broken.append(f"{self.doing}: {'the engine' if self.server.is_running else 'the node'} died")
            self.engine_pid = self.server.engine_pid

    def close(self) -> None:
        self.client.destroy()
        self.node.destroy_node()
        rclpy.try_shutdown()
        self.server.stop()


def run_cases(strategy: st.SearchStrategy[Any], count: int, seed_: int, case: Callable[[Any], None]) -> None:
    """Call with so many examples."""

    @seed(seed_)
    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(value: Any) -> None:
        case(value)

    run()


# ---- goals


def fuzz_goals(target: Target, cases: int, seed_: int, codes: Counter[str]) -> int:
    """Goals without an end."""
    lost = 0
    sent: list[Generation] = []

    def settle() -> None:
        nonlocal lost
        if not wait_until(lambda: all(generation.done for generation in sent), END_S, target.turn):
            lost += sum(not generation.done for generation in sent)
            target.client.cancel_all()
        for generation in sent:
            codes["NONE" if isinstance(generation.end, Answer) else generation.end.code.name if generation.end else "no end"] += 1
        target.look()
        sent.clear()
        target.doing = "goals"

    def case(drawn: tuple[Any, list[int]]) -> None:
        goal, predecessors = drawn
        goal.after = [*goal.after, *(uuid_msg(sent[i].goal_id) for i in predecessors if i < len(sent))]
        target.doing = f"{target.doing} {goal}"[-4000:]
        sent.append(target.client._send(goal))
        if len(sent) == AT_ONCE:
            settle()

    run_cases(st.tuples(goals(), st.lists(st.integers(0, 2 * AT_ONCE), max_size=1)), cases, seed_, case)
    settle()
    return lost


# ---- bytes


def fuzz_bytes(target: Target, cases: int, rng: random.Random, records: Path) -> tuple[list[Check], dict[str, object]]:
    """Wrong bytes on all topics to which the server listens, and another client."""

    def examples(kind: Any) -> list[Any]:
        found: list[Any] = []
        run_cases(messages_of(kind), EXAMPLES, rng.getrandbits(32), found.append)
        return found

    client = LoadClient(NAME, records, "--rate", "4", "--patience", str(END_S))
    try:
        wait_until(records.exists, READY_S, target.turn)
        member = target.server.member if isinstance(target.server, Fronted) else ""
        attacker = Attacker(rng, examples, (NAME, CLIENT), (target.server.pid, client.pid), believed=member)
        silent = attacker.unanswered()
        for done in range(cases):
            attacker.say()
            target.turn(0.001)
            if done % CHUNK == CHUNK - 1:
                target.doing = f"after {done + 1} cases of bytes"
                target.look()
                attacker.go()
                attacker.come()
        attacker.close()
        target.look()
        lived, ended = client.is_running, client.finish(2 * END_S)
    finally:
        client.kill()
    goals = read([records]).values()
    codes = Counter(record.code for record in goals if len(record.ends) == 1)
    wrong = [f"a goal had {len(record.ends)} ends" for record in goals if len(record.ends) != 1]
    if not (lived and ended):
        wrong.append("it did not live to its end")
    checks = [
        Check("a client whose replies are forged lives, and each of its goals ends once", not wrong, "; ".join(wrong[:5]) or "yes"),
        Check("what is forged arrives: every service answers a right request", not silent, ", ".join(silent) or "yes"),
    ]
    return checks, {"topics attacked": ", ".join(sorted(attacker.topics)), "goals of the attacked client": _counted(codes)}


# ---- models


def fuzz_models(folder: Path, cases: int, rng: random.Random, found: Counter[str]) -> list[str]:
    """Damaged files to a loader; those that end it go to a host, which must say so in a sentence. What went wrong."""
    whole = (folder / "model.gguf").read_bytes()
    header = whole.index(b"token_embd") + 2000
    path, wrong = folder / "damaged.gguf", []
    loader = _loader()
    for _ in range(cases):
        path.write_bytes(damaged(whole[:header], rng) + whole[header:])
        assert loader.stdin is not None
        assert loader.stdout is not None
        said = ""
        with suppress(BrokenPipeError):
            loader.stdin.write(f"{path}\n")
            loader.stdin.flush()
            said = loader.stdout.readline()
        found[said.partition(":")[0].strip() or "llama.cpp ended the process"] += 1
        if not said:
            loader.wait()
            loader = _loader()
            if found["llama.cpp ended the process"] <= 5:
                wrong += _host_says(path)
    loader.kill()
    loader.wait()
    return wrong


def _loader() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "reliability.loader"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _host_says(path: Path) -> list[str]:
    host = EngineHost(check_all({"model.path": str(path), "cpu.n_threads": 1}), lambda _events: None)
    try:
        host.start(READY_S)
    except EngineError as error:
        return [] if "engine process" in str(error) else [f"the host said: {error}"]
    finally:
        host.stop()
    return []


# ---- texts


def fuzz_texts(folder: Path, cases: int, seed_: int) -> tuple[int, list[str]]:
    """Parameters, presets, workloads, profiles, command lines: each is read, or refused by its own error. How many, and those neither."""
    scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
    trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8)
    names = st.sampled_from(tuple(PARAMETERS)) | TEXTS
    fields = st.sampled_from(("service_class", "ttft_ms", "tpot_ms", "deadline_s", "utility", "on_miss", "x"))
    presets = st.dictionaries(st.builds((PREFIX + "{}.{}").format, st.sampled_from(("a", "b")), fields), scalars, max_size=4)
    workload_keys = st.sampled_from(
        ("classes", "arrivals", "name", "share", "slo", "prompt_tokens", "output_tokens", "rate", "poisson", "x")
    )
    workloads = st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(workload_keys, inner, max_size=5), max_leaves=12
    )
    profile_keys = st.sampled_from(("decode_ms", "chunk_ms", "prompt_token_ms", "kv_token_ms", "description", "x"))
    profiles = st.dictionaries(profile_keys, trees, max_size=5)
    words = st.one_of(st.sampled_from((*COMMANDS, "--policy", "--n-ctx", "12", "-p", "a:=b", "--params-file", "--ros-args", "--")), TEXTS)
    path = folder / "text.yaml"
    parser = make_parser()

    def read_command_line(given: list[str]) -> None:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            parsed = parser.parse_args(given)
        if parsed.command == "serve":
            serve.ros_arguments(parsed)

    def from_file(load: Callable[[Path], Any]) -> Callable[[Any], None]:
        def case(value: Any) -> None:
            path.write_text(value if isinstance(value, str) else yaml.safe_dump(value), errors="replace")
            load(path)

        return case

    kinds: list[tuple[str, st.SearchStrategy[Any], Callable[[Any], Any], type[BaseException]]] = [
        ("parameters", st.dictionaries(names, scalars, max_size=3), check_all, ParameterError),
        ("presets", presets, presets_of, ParameterError),
        ("workload", TEXTS | workloads, from_file(lambda file: load_workload(str(file))), WorkloadError),
        ("device profile", TEXTS | profiles, from_file(lambda file: LatencyModel.profile(str(file))), LatencyError),
        ("command line", st.lists(words, max_size=5), read_command_line, SystemExit),
    ]
    wrong: list[str] = []
    done = 0

    def loads(what: str, load: Callable[[Any], Any], refusal: type[BaseException]) -> Callable[[Any], None]:
        def case(value: Any) -> None:
            nonlocal done
            done += 1
            try:
                load(value)
            except refusal:
                pass
            except Exception as error:
                wrong.append(f"{what} {value!r} raised {error!r}"[:300])

        return case

    for what, strategy, load, refusal in kinds:
        run_cases(strategy, max(1, cases // len(kinds)), seed_, loads(what, load, refusal))
    return done, wrong


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{what} {count}" for what, count in found.most_common())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dispatcher", action="store_true", help="through a dispatcher, whose only member the server is")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="folder for the log and files; default is a temporary one")
    arguments = parser.parse_args(argv)
    isolate(arguments.seed)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="fuzz"))
    folder.mkdir(parents=True, exist_ok=True)
    counts = {kind: max(1, round(arguments.cases * share)) for kind, share in SHARES.items()}
    rng = random.Random(arguments.seed)
    codes: Counter[str] = Counter()
    loads: Counter[str] = Counter()
    try:
        counts["texts"], wrong = fuzz_texts(folder, counts["texts"], arguments.seed)
        target = Target(folder, dispatcher=arguments.dispatcher)
        try:
            lost = fuzz_goals(target, counts["goals"], arguments.seed, codes)
            counts["goals"] = codes.total()
            attack, attacked = fuzz_bytes(target, counts["bytes"], rng, folder / "client.jsonl")
            unsaid = fuzz_models(folder, counts["models"], rng, loads)
        finally:
            target.close()
        tracebacks = target.server.said().count("Traceback")
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder)
    checks = [
        Check("texts are read, or refused with a sentence of their own", not wrong, "; ".join(wrong[:5]) or f"{counts['texts']} texts"),
        Check(
            f"{TAKEN:.0%} of the wrong goals and more are right enough to be looked into",
            codes["INVALID_GOAL"] <= (1.0 - TAKEN) * codes.total(),
            f"{codes['INVALID_GOAL']} of {codes.total()} were refused for one field",
        ),
        Check("every goal ends", not lost, f"{sum(codes.values())} goals, {lost} without an end"),
        Check(
            "node and engine live, and the goal beside it is not disturbed",
            not target.broken,
            "; ".join(target.broken[:5]) or f"{target.answers.total()} answers",
        ),
        *attack,
        Check("no traceback in the log", not tracebacks, f"{tracebacks}"),
        Check("a model that llama.cpp does not survive is a sentence", not unsaid, "; ".join(unsaid[:3]) or f"{counts['models']} files"),
    ]
    figures = {
        "cases": f"{sum(counts.values())}: " + ", ".join(f"{kind} {count}" for kind, count in counts.items()),
        **attacked,
        "goals ended with": _counted(codes),
        "damaged models": _counted(loads),
    }
    return conclude("fuzz", checks, figures, arguments.json, {"seed": arguments.seed})


if __name__ == "__main__":
    sys.exit(main())
