"""Sends wrong input of every kind: ``python -m reliability.fuzz``. A goal that runs beside it must always give the same answer.

To a running server: goals with any fields, grammars and schemas, and bytes that are no messages on its topics and ports. To a loader:
damaged GGUF files. In this process: parameters, presets, workloads, device profiles and command lines.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from reliability.inputs import GRAMMARS, SCHEMAS, TEXTS, damaged
from reliability.isolation import isolate
from reliability.processes import Server
from reliability.report import Check, conclude
from reliability.rtps import Forger
from slice_ros.bench.workload import WorkloadError
from slice_ros.bench.workload_file import load_workload
from slice_ros.client import Answer, Generation, SliceClient
from slice_ros.engines.base import EngineError
from slice_ros.host import EngineHost
from slice_ros.interfaces import CheckSlo, Generate, GetParameters
from slice_ros.latency import LatencyError, LatencyModel
from slice_ros.models import make_start_model
from slice_ros.parameters import PARAMETERS, ParameterError, check_all
from slice_ros.presets import PREFIX, presets_of
from slice_ros.rclpy_dds import messages
from slice_ros.rclpy_dds.arguments import parse, read_params_file
from slice_ros.rclpy_dds.exceptions import UnknownROSArgsError
from slice_ros.rclpy_dds.service import RequestId, endpoints
from slice_ros.ros import QoSProfile, SignalHandlerOptions, SingleThreadedExecutor, rclpy

NAME = "fuzz"
READY_S = 90.0
END_S = 60.0
"""Any goal has ended after this, on a busy machine, too."""
AT_ONCE = 20
"""Goals between two looks at the server, ..."""
CHUNK = 500
"""... and samples or packets."""
SHARES = {"texts": 0.60, "bytes": 0.34, "goals": 0.05, "models": 0.01}


class Target:
    """A server, a client of it, and a goal that must not be disturbed."""

    def __init__(self, folder: Path) -> None:
        make_start_model(folder / "model.gguf")
        profile = ("--device-profile", "rtx4060ti-chatglm2-6b-int4", "--n-ctx", "4096")
        self.server = Server(NAME, folder / "server.log", ("--model", str(folder / "model.gguf"), *profile))
        self.server.start()
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("fuzzer")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.client = SliceClient(self.node, f"/{NAME}")
        self.client.wait_for_server(READY_S)
        self.expected = self._witness()
        self.engine_pid = self.server.engine_pid
        self.broken: list[str] = []
        self.witnesses = 0

    def _witness(self) -> str:
        generation = self.client.send("where is the dock?", max_tokens=12, label="witness")
        self.wait([generation])
        return generation.end.text if isinstance(generation.end, Answer) else f"failed: {generation.end}"

    def wait(self, generations: list[Generation]) -> bool:
        """Whether all of them ended."""
        deadline = time.monotonic() + END_S
        while not all(generation.done for generation in generations) and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.05)
        return all(generation.done for generation in generations)

    def look(self, at: str) -> None:
        """Is the server what it was?"""
        text = self._witness()
        self.witnesses += 1
        if text != self.expected:
            self.broken.append(f"{at}: the goal beside it got {text[:80]!r}")
        if not self.server.is_running or self.server.engine_pid != self.engine_pid:
            self.broken.append(f"{at}: {'the engine' if self.server.is_running else 'the node'} died")
            self.engine_pid = self.server.engine_pid

    def close(self) -> None:
        self.client.destroy()
        self.node.destroy_node()
        rclpy.try_shutdown()
        self.server.stop()


def run_cases(strategy: st.SearchStrategy[Any], count: int, seed_: int, case: Callable[[Any], None]) -> None:
    """Call with so many examples."""
    quiet = settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    seed(seed_)(quiet(given(strategy)(case)))()


# ---- goals


def goal_messages() -> st.SearchStrategy[Any]:
    """Goals with any fields that the message can hold; most are near enough to right ones to get far."""
    small, text = st.integers(0, 50), st.one_of(st.just("go to the dock"), TEXTS)
    durations = st.tuples(st.sampled_from((0, 0, 1, 5, -1, 2**31 - 1)), st.sampled_from((0, 0, 10**6, 10**9, 2**32 - 1)))
    return st.fixed_dictionaries(
        {"prompt": text},
        optional={
            "messages": st.lists(st.tuples(TEXTS, TEXTS), max_size=3),
            "slo": st.tuples(TEXTS, st.integers(0, 255), durations, durations, durations, st.floats(width=32), st.integers(0, 255)),
            "label": TEXTS,
            "after": st.lists(st.binary(min_size=16, max_size=16), max_size=2),
            "chain_deadline": durations,
            "max_tokens": small | st.integers(0, 2**32 - 1),
            "sampling": st.tuples(st.floats(width=32), st.integers(-(2**31), 2**31 - 1), st.floats(width=32), st.floats(width=32)),
            "stop": st.lists(TEXTS, max_size=3),
            "grammar": GRAMMARS,
            "json_schema": SCHEMAS.map(repr) | SCHEMAS.map(yaml.safe_dump) | SCHEMAS.map(json.dumps),
            "session_id": TEXTS,
            "client": TEXTS,
        },
    )


def goal_of(fields: dict[str, Any]) -> Any:
    goal = Generate.Goal(prompt=fields["prompt"], max_tokens=8)
    for name in ("label", "max_tokens", "stop", "grammar", "json_schema", "session_id", "client"):
        if name in fields:
            setattr(goal, name, fields[name])
    for role, content in fields.get("messages", ()):
        message = messages.message("slice_ros/msg/ChatMessage")(role=role, content=content)
        goal.messages.append(message)
    if "slo" in fields:
        goal.slo.preset, goal.slo.service_class = fields["slo"][:2]
        for bound, (sec, nanosec) in zip((goal.slo.ttft, goal.slo.tpot, goal.slo.deadline), fields["slo"][2:5], strict=True):
            bound.sec, bound.nanosec = sec, nanosec
        goal.slo.utility, goal.slo.on_miss = fields["slo"][5:]
    if "chain_deadline" in fields:
        goal.chain_deadline.sec, goal.chain_deadline.nanosec = fields["chain_deadline"]
    if "sampling" in fields:
        goal.sampling.temperature, goal.sampling.top_k, goal.sampling.top_p, goal.sampling.min_p = fields["sampling"]
    goal.after = [messages.message("unique_identifier_msgs/msg/UUID")(uuid=list(uuid)) for uuid in fields.get("after", ())]
    return goal


def fuzz_goals(target: Target, cases: int, seed_: int, codes: Counter[str]) -> int:
    """Goals without an end."""
    lost = 0

    def case(batch: list[dict[str, Any]]) -> None:
        nonlocal lost
        sent = [target.client._send(goal_of(fields)) for fields in batch]
        if not target.wait(sent):
            lost += sum(not generation.done for generation in sent)
            target.client.cancel_all()
        for generation in sent:
            codes["NONE" if isinstance(generation.end, Answer) else generation.end.code.name if generation.end else "no end"] += 1
        target.look(f"after goals {batch!r}"[:400])

    run_cases(st.lists(goal_messages(), min_size=AT_ONCE, max_size=AT_ONCE), max(1, cases // AT_ONCE), seed_, case)
    return lost


# ---- bytes


def fuzz_bytes(target: Target, cases: int, rng: random.Random) -> None:
    """Damaged and random requests on the topics of services and of the action, and damaged packets on the ports."""
    impl = Generate.Impl
    goal = goal_of({"prompt": "go", "slo": ("", 0, (1, 0), (0, 0), (2, 0), 0.0, 0), "stop": ["x"], "messages": [("user", "hi")]})
    requests = [
        (impl.SendGoalService, f"/{NAME}/generate/_action/send_goal", impl.SendGoalService.Request(goal=goal)),
        (impl.GetResultService, f"/{NAME}/generate/_action/get_result", impl.GetResultService.Request()),
        (CheckSlo, f"/{NAME}/check_slo", CheckSlo.Request(prompt="go", max_tokens=4)),
        (GetParameters, f"/{NAME}/get_parameters", GetParameters.Request(names=["scheduler.policy"])),
    ]
    for begin in range(0, cases, CHUNK):
        # A packet that is lost leaves a gap in its writer's numbers, and readers then wait for it: new writers, now and then.
        ends = [endpoints(target.node, service, name, QoSProfile(depth=10), server=False) for service, name, _ in requests]
        forgers = [
            (Forger(writer), messages.codec(service.Request.__msgtype__).encode(request, RequestId(rng.getrandbits(63), 1).prefix()))
            for (_, writer), (service, _, request) in zip(ends, requests, strict=True)
        ]
        time.sleep(1.0)  # discovery
        for _ in range(min(CHUNK, cases - begin)):
            forger, data = rng.choice(forgers)
            if rng.random() < 0.9:
                forger.send(damaged(data, rng) if rng.random() < 0.8 else rng.randbytes(rng.randint(0, 200)))
            else:
                packet = b"RTPS\x02\x03\x01\x10" + rng.randbytes(12) + rng.randbytes(rng.randint(0, 300))
                forger.send_packet(packet if rng.random() < 0.5 else damaged(packet, rng))
            time.sleep(0.001)
        target.look(f"after {begin + CHUNK} cases of bytes")
        for (reader, writer), (forger, _) in zip(ends, forgers, strict=True):
            forger.close()
            reader.close()
            writer.close()


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


def fuzz_texts(folder: Path, cases: int, seed_: int) -> list[str]:
    """Parameters, presets, workloads, profiles, command lines: each is read, or refused by its own error. Those that are neither."""
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
    words = st.one_of(st.sampled_from(("--ros-args", "-r", "-p", "--log-level", "a:=b", "__node:=x", "a.b:=[1", "--")), TEXTS)
    path = folder / "text.yaml"

    def from_file(read: Callable[[Path], Any]) -> Callable[[Any], None]:
        def case(value: Any) -> None:
            path.write_text(value if isinstance(value, str) else yaml.safe_dump(value), errors="replace")
            read(path)

        return case

    kinds: list[tuple[str, st.SearchStrategy[Any], Callable[[Any], Any], type[Exception]]] = [
        ("parameters", st.dictionaries(names, scalars, max_size=3), check_all, ParameterError),
        ("presets", presets, presets_of, ParameterError),
        ("workload", TEXTS | workloads, from_file(lambda file: load_workload(str(file))), WorkloadError),
        (
            "device profile",
            st.dictionaries(profile_keys, trees, max_size=5),
            lambda value: LatencyModel.from_dict("x", value),
            LatencyError,
        ),
        ("parameter file", TEXTS | trees, from_file(read_params_file), UnknownROSArgsError),
        ("command line", st.lists(words, max_size=5), parse, UnknownROSArgsError),
    ]
    wrong: list[str] = []

    def reads(what: str, read: Callable[[Any], Any], refusal: type[Exception]) -> Callable[[Any], None]:
        def case(value: Any) -> None:
            try:
                read(value)
            except refusal:
                pass
            except Exception as error:
                wrong.append(f"{what} {value!r} raised {error!r}"[:300])

        return case

    for what, strategy, read, refusal in kinds:
        run_cases(strategy, max(1, cases // len(kinds)), seed_, reads(what, read, refusal))
    return wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
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
        wrong = fuzz_texts(folder, counts["texts"], arguments.seed)
        target = Target(folder)
        try:
            target.look("before")
            lost = fuzz_goals(target, counts["goals"], arguments.seed, codes)
            fuzz_bytes(target, counts["bytes"], rng)
            unsaid = fuzz_models(folder, counts["models"], rng, loads)
        finally:
            target.close()
        tracebacks = (folder / "server.log").read_text(errors="replace").count("Traceback")
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder)
    checks = [
        Check("texts are read, or refused with a sentence of their own", not wrong, "; ".join(wrong[:5]) or f"{counts['texts']} texts"),
        Check("every goal ends", not lost, f"{sum(codes.values())} goals, {lost} without an end"),
        Check(
            "node and engine live, and the goal beside it is not disturbed",
            not target.broken,
            "; ".join(target.broken[:5]) or f"{target.witnesses} looks",
        ),
        Check("no traceback in the log", not tracebacks, f"{tracebacks}"),
        Check("a model that llama.cpp does not survive is a sentence", not unsaid, "; ".join(unsaid[:3]) or f"{counts['models']} files"),
    ]
    figures = {
        "cases": ", ".join(f"{kind} {count}" for kind, count in counts.items()),
        "goals ended with": ", ".join(f"{code} {count}" for code, count in codes.most_common()),
        "damaged models": ", ".join(f"{what} {count}" for what, count in loads.most_common()),
    }
    return conclude("fuzz", checks, figures, arguments.json, {"seed": arguments.seed})


if __name__ == "__main__":
    sys.exit(main())
