"""The action server and its client, for real: two processes, DDS between them, llama.cpp behind."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import rclpy
from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from rclpy.action import ActionClient, ActionServer
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.task import Future
from serving import READY_S, Peer, children_of, serving

from slice_ros import client, schemas
from slice_ros.client import GoalFailed, SliceClient
from slice_ros.goal import ChatMessage, ErrorCode, Sampling, joined
from slice_ros.ros import qos
from slice_ros.ros.interfaces import CheckSlo, Generate, GoalEvent, SloStatus
from slice_ros.scheduling.events import Progress
from slice_ros.scheduling.task import SloReport
from slice_ros.server.node import SliceServer
from slice_ros.slo import BestEffort, RealTime

pytestmark = pytest.mark.usefixtures("ros")


@pytest.fixture(scope="module")
def server():
    # Real tokens of the default model, at the speed of a profile: the same contention on any machine.
    with serving("llm", "--engine", "paced", "-p", "context.n_ctx:=2048") as process:
        yield process


@pytest.fixture(scope="module")
def module_peer(server):
    peer = Peer("llm")
    peer.client.wait_for_server(READY_S)
    yield peer
    peer.close()


@pytest.fixture
def peer(module_peer, server):
    yield module_peer
    assert server.poll() is None, server.stderr.read()


def test_a_goal_gets_text_and_a_report(peer):
    answer = peer.run(peer.client.generate("go to the dock", slo=RealTime(deadline_s=5.0), max_tokens=8))
    assert answer.finish_reason == "length"
    assert answer.report.output_tokens == 8
    assert answer.report.prompt_tokens > 0
    assert answer.report.attained
    assert 0.0 < answer.report.ttft_s < answer.report.e2e_s < 5.0


def test_the_pieces_of_a_stream_make_up_the_answer(peer):
    async def collect():
        generation = peer.client.stream("where are you?", max_tokens=12)
        pieces = [piece async for piece in generation]
        return pieces, await generation.result()

    pieces, answer = peer.run(collect())
    assert len(pieces) > 1
    assert "".join(pieces) == answer.text


def test_a_session_goes_on_from_what_it_has_computed(peer):
    history = "robot: I am at the dock.\nuser: go to the shelf\nrobot: "
    first = peer.run(peer.client.generate(history, max_tokens=8, session_id="shelf"))
    history += first.text + "\nuser: and back\nrobot: "
    second = peer.run(peer.client.generate(history, max_tokens=8, session_id="shelf"))
    assert second.report.cached_tokens >= first.report.prompt_tokens
    peer.spin_until(lambda: peer.status().kv_cached >= second.report.prompt_tokens)


def test_the_same_prompt_gives_the_same_greedy_text_alone_and_among_others(peer):
    prompt = "obstacle ahead at 0.6 m on the left, speed 0.8. Command:"

    async def alone_then_among_others():
        alone = await peer.client.generate(prompt, max_tokens=16)
        crowd = [peer.client.send(f"something else {i}", max_tokens=16) for i in range(5)]
        among = await peer.client.generate(prompt, max_tokens=16)
        for generation in crowd:
            await generation.result()
        return alone.text, among.text

    alone, among = peer.run(alone_then_among_others())
    assert alone == among == '{"linear":0.2,"angular":-0.6}'


def test_the_same_seed_gives_the_same_text():
    peer = Peer("seeded")

    async def twice():
        drawn = Sampling(temperature=1.5, seed=7)
        return [(await peer.client.generate("say something", max_tokens=16, sampling=drawn)).text for _ in range(2)]

    try:
        # A prefix from the cache is added up in another order, which now and then makes another token the likelier one.
        with serving("seeded", "--engine", "paced", "-p", "context.n_ctx:=2048", "-p", "context.prefix_cache:=0"):
            peer.client.wait_for_server(READY_S)
            first, second = peer.run(twice())
    finally:
        peer.close()
    assert first == second


@pytest.mark.parametrize("schema", ["velocity", schemas.velocity()], ids=["by name", "as data"])
def test_an_answer_with_a_json_schema_comes_as_data(peer, schema):
    command = peer.run(peer.client.generate("obstacle ahead", json_schema=schema, max_tokens=60)).json()
    assert command.keys() == {"linear", "angular"}
    assert all(-1.5 <= value <= 1.5 for value in command.values())


def test_a_goal_that_asks_gets_the_log_probability_of_each_token(peer):
    form = {"grammar": 'root ::= "go"', "max_tokens": 8}
    answer = peer.run(peer.client.generate("hello", logprobs=True, **form))
    assert [(rated.token, rated.data) for rated in answer.logprobs] == [("g", b"g"), ("o", b"o"), ("<|im_end|>", b"")]
    assert len(answer.logprobs) == answer.report.output_tokens
    assert all(-100.0 < rated.logprob <= 0.0 for rated in answer.logprobs)
    assert peer.run(peer.client.generate("hello", **form)).logprobs == ()


def test_an_answer_that_must_call_a_tool_is_calls_in_pieces_and_at_the_end(peer):
    async def deltas(generation):
        return [delta async for delta in generation.deltas()], await generation.result()

    tools = [{"name": "drive", "parameters": {"properties": {"fast": {"type": "boolean"}}, "required": ["fast"]}}]
    question = [ChatMessage("user", "go to the dock")]
    heard, answer = peer.run(deltas(peer.client.stream(question, tools=tools, tool_choice="drive", max_tokens=100)))
    (call,) = answer.tool_calls
    assert call.name == "drive"
    assert json.loads(call.arguments) in ({"fast": True}, {"fast": False})
    assert (answer.text, answer.finish_reason) == ("", "tool_calls")
    assert joined(piece for delta in heard for piece in delta.calls) == answer.tool_calls
    conversation = [*question, answer.message, ChatMessage("tool", "I am there.", tool_call_id=call.id)]
    assert peer.run(peer.client.generate(conversation, tools=tools, max_tokens=1)).report.prompt_tokens > answer.report.prompt_tokens


def test_tools_that_are_none_are_refused_with_a_sentence(peer):
    question = [ChatMessage("user", "go to the dock")]
    for fields, sentence in (
        ({"tools": "[{}]"}, "tools[0] has null for a name"),
        ({"tools": '[{"name": "stop"}]', "tool_choice": "go"}, "tool_choice is 'go'; it must be auto, none, required"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tools": '[{"name": "stop"}]', "regex": "a"}, "tools and regex are both given"),
    ):
        error = peer.fails(question, **fields)
        assert error.code is ErrorCode.INVALID_GOAL
        assert sentence in error.message
    assert "give messages" in peer.fails("go", tools='[{"name": "stop"}]').message


def test_messages_are_rendered_with_the_chat_template(peer):
    async def both():
        plain = await peer.client.generate("hello", max_tokens=2)
        chat = await peer.client.generate([ChatMessage("user", "hello")], max_tokens=2)
        return plain.report.prompt_tokens, chat.report.prompt_tokens

    plain, chat = peer.run(both())
    assert chat > plain


def test_a_blocking_client_needs_no_coroutine(server):
    node = rclpy.create_node("blocking")
    client = SliceClient(node, "/llm")
    client.wait_for_server(READY_S)
    assert client.generate_sync("hi", timeout_s=30.0, max_tokens=3).report.output_tokens == 3
    client.destroy()
    node.destroy_node()


def test_a_hundred_goals_at_once_all_end(peer):
    async def all_of_them():
        generations = [peer.client.send(f"goal {i}", max_tokens=2, label="burst") for i in range(100)]
        return [await generation.result() for generation in generations]

    answers = peer.run(all_of_them(), timeout_s=110.0)
    assert [answer.report.output_tokens for answer in answers] == [2] * 100


def test_a_canceled_goal_ends_with_canceled_and_keeps_its_text(peer):
    async def cancel_after_first_piece():
        generation = peer.client.send("tell me a long story", max_tokens=1000)
        async for _ in generation:
            generation.cancel()

    with pytest.raises(GoalFailed) as caught:
        peer.run(cancel_after_first_piece())
    assert caught.value.code is ErrorCode.CANCELED
    assert caught.value.text
    assert caught.value.report.output_tokens < 1000


def test_a_goal_that_supersedes_ends_earlier_ones_of_its_client_and_label_waiting_or_begun(peer):
    async def supersede():
        begun = peer.client.stream("go on", label="drive", max_tokens=1000)
        async for piece in begun:
            if piece:
                break
        other = peer.client.send("go on", label="look", max_tokens=4)
        waiting = peer.client.send("go on", label="drive", max_tokens=4, after=[begun])
        follower = peer.client.send("go on", label="tell", max_tokens=4, after=[waiting])
        answer = await peer.client.generate("stop", label="drive", supersede=True, max_tokens=4)
        await other.result()
        ends = {}
        for name, generation in (("begun", begun), ("waiting", waiting), ("follower", follower)):
            with pytest.raises(GoalFailed) as caught:
                await generation.result()
            ends[name] = caught.value
        return answer, ends

    answer, ends = peer.run(supersede())
    assert answer.report.output_tokens == 4
    assert {name: error.code for name, error in ends.items()} == {
        "begun": ErrorCode.SUPERSEDED, "waiting": ErrorCode.SUPERSEDED, "follower": ErrorCode.PREDECESSOR_FAILED
    }  # fmt: skip
    assert "same client and label 'drive' takes its place" in ends["begun"].message
    assert ends["begun"].text


def test_a_cancel_for_a_goal_that_has_ended_does_nothing(peer):
    generation = peer.client.send("short", max_tokens=1)
    peer.run(generation.result())
    generation.cancel()
    peer.run(peer.client.generate("next", max_tokens=1))
    assert generation.done


def test_every_goal_whose_cancel_was_accepted_is_canceled_however_early_it_came(peer):
    deep = {f"{name}_service_qos_profile": qos.SERVICE for name in ("goal", "result", "cancel")}  # services keep ten replies by default
    goals = ActionClient(peer.node, Generate, "/llm/generate", **deep)
    cancels = peer.node.create_client(CancelGoal, "/llm/generate/_action/cancel_goal", qos_profile=qos.SERVICE)
    assert goals.wait_for_server(timeout_sec=READY_S)
    assert cancels.wait_for_service(timeout_sec=READY_S)

    async def race():
        sent, answers = [], []
        for _ in range(16):  # the cancel for all goals is there before the goal's execution has begun
            sent.append(goals.send_goal_async(Generate.Goal(prompt="x", max_tokens=100)))
            answers.append(cancels.call_async(CancelGoal.Request()))
        handles = [await goal for goal in sent]
        accepted = {bytes(info.goal_id.uuid) for answer in answers for info in (await answer).goals_canceling}
        results = {bytes(handle.goal_id.uuid): await handle.get_result_async() for handle in handles}
        return [(results[goal_id].status, results[goal_id].result.error_code) for goal_id in accepted & results.keys()]

    ends = []
    try:
        for _ in range(5):  # now and then the server takes in all cancels before the goals
            ends += peer.run(race())
            if len(ends) > 8:
                break
    finally:
        goals.destroy()
        peer.node.destroy_client(cancels)
    assert len(ends) > 8
    assert set(ends) == {(GoalStatus.STATUS_CANCELED, Generate.Result.CANCELED)}


async def raises(_handle):
    raise RuntimeError("an error in the server")


async def aborts_for_a_reason_of_tomorrow(handle):
    handle.abort()
    return Generate.Result(error_code=999, error_msg="too windy")


async def succeeds(handle):
    handle.succeed()
    return Generate.Result()


@pytest.mark.parametrize(
    ("execute", "kept_s", "code", "says"),
    [
        (raises, 60, ErrorCode.INTERNAL, "gave no reason"),
        (aborts_for_a_reason_of_tomorrow, 60, ErrorCode.INTERNAL, "too windy"),
        (succeeds, 0, ErrorCode.ENGINE_DIED, "send the goal again"),  # as from a server that was started anew, which knows nothing of it
    ],
)
def test_a_client_takes_only_success_for_success(execute, kept_s, code, says):
    peer = Peer(f"wrong_{execute.__name__}")
    node = rclpy.create_node(peer.server)
    peer.executor.add_node(node)
    server = ActionServer(node, Generate, "~/generate", execute, result_timeout=kept_s)
    try:
        peer.client.wait_for_server(READY_S)
        error = peer.fails("x")
        assert error.code is code
        assert says in error.message
    finally:
        server.destroy()
        node.destroy_node()
        peer.close()


def test_a_flood_of_events_from_the_engine_lets_others_have_their_turn():
    server = SliceServer()
    executor = SingleThreadedExecutor()
    executor.add_node(server)
    left = []
    server.create_timer(0.0, lambda: left.append(len(server._events)))
    try:
        server._receive([Progress("of no goal", "", SloReport())] * 1000)
        while server._events:
            executor.spin_once(timeout_sec=1.0)
        assert len(set(left)) > 10
    finally:
        executor.shutdown()
        server.destroy_node()


def test_an_error_in_the_server_ends_the_goal_with_internal_and_the_next_is_served(monkeypatch):
    server = SliceServer(parameter_overrides=[Parameter("engine.kind", value="simulated")])
    peer = Peer("slice_server")
    peer.executor.add_node(server)
    try:
        peer.run(server.start())
        peer.client.wait_for_server(READY_S)
        monkeypatch.setattr(server._goals._labels, "known", lambda _: 1 / 0)
        error = peer.fails("x")
        assert error.code is ErrorCode.INTERNAL
        assert "ZeroDivisionError" in error.message
        monkeypatch.undo()
        monkeypatch.setattr(server._goals, "_tell", lambda *_, **__: 1 / 0)
        assert peer.fails("x").code is ErrorCode.INTERNAL
        monkeypatch.undo()
        assert peer.run(peer.client.generate("x", max_tokens=2)).report.output_tokens == 2
    finally:
        server.close(peer.executor)
        server.destroy_node()
        peer.close()


def test_on_miss_abort_ends_the_goal_at_its_deadline(peer):
    from slice_ros.slo import OnMiss

    error = peer.fails("a long story", max_tokens=1000, slo=RealTime(deadline_s=0.3, on_miss=OnMiss.ABORT))
    assert error.code is ErrorCode.SLO_MISSED
    assert error.report.e2e_s < 1.0


BAD_GOALS = {
    "empty prompt": (("",), {}, ErrorCode.INVALID_GOAL, "prompt and messages are both empty"),
    "too long": (("x",), {"max_tokens": 8_000}, ErrorCode.CONTEXT_EXCEEDED, "8000"),
    "empty stop": (("x",), {"stop": [""]}, ErrorCode.INVALID_GOAL, "stop"),
    "negative temperature": (("x",), {"sampling": "temperature"}, ErrorCode.INVALID_GOAL, "temperature"),
    "wrong grammar": (("x",), {"grammar": "root ::= ("}, ErrorCode.INVALID_GRAMMAR, ""),
    "wrong schema": (("x",), {"json_schema": "{"}, ErrorCode.INVALID_GRAMMAR, ""),
    "two forms": (("x",), {"json_schema": "{}", "grammar": 'root ::= "a"'}, ErrorCode.INVALID_GOAL, "both"),
}


def sent_raw(peer, change) -> Generate.Result:
    """The result of a goal whose message the test shapes itself, past the client's own checks."""
    goal = Generate.Goal(prompt="x", max_tokens=2)
    change(goal)

    async def send():
        handle = await client.send_goal_async(goal)
        assert handle.accepted
        return (await handle.get_result_async()).result

    client = ActionClient(peer.node, Generate, "/llm/generate")
    assert client.wait_for_server(timeout_sec=READY_S)
    try:
        return peer.run(send())
    finally:
        client.destroy()


@pytest.mark.parametrize("case", BAD_GOALS)
def test_a_bad_goal_ends_with_its_code_and_a_sentence_while_another_goes_on(peer, case):
    prompt, options, code, says = BAD_GOALS[case]
    good = peer.client.send("a good goal", max_tokens=20)
    if options.get("sampling"):
        result = sent_raw(peer, lambda goal: setattr(goal.sampling, options["sampling"], -1.0))
        error = GoalFailed(ErrorCode(result.error_code), result.error_msg)
    else:
        error = peer.fails(*prompt, **options)
    assert error.code is code, str(error)
    assert says in error.message
    assert error.message
    assert peer.run(good.result()).report.output_tokens == 20


def negative_ttft(goal):
    goal.slo.ttft.sec = -1


def nan_utility(goal):
    goal.slo.utility = math.nan


def real_time_without_bound(goal):
    goal.slo.service_class = 1


def unknown_class(goal):
    goal.slo.service_class = 7


def ttft_after_deadline(goal):
    goal.slo.ttft.sec = 3
    goal.slo.deadline.sec = 2


@pytest.mark.parametrize("change", [negative_ttft, nan_utility, real_time_without_bound, unknown_class, ttft_after_deadline])
def test_a_bad_slo_ends_with_invalid_slo_and_a_sentence(peer, change):
    result = sent_raw(peer, change)
    assert result.error_code == Generate.Result.INVALID_SLO
    assert result.error_msg
    assert result.text == ""


def test_a_name_that_is_too_long_is_not_told_on(peer):
    events = []
    subscription = peer.node.create_subscription(GoalEvent, "/llm/goal_events", events.append, 100)
    peer.spin_until(lambda: peer.node.count_publishers("/llm/goal_events"))

    def lengthen(goal):
        goal.label = goal.slo.preset = "x" * 100_000

    result = sent_raw(peer, lengthen)
    assert result.error_code == Generate.Result.INVALID_SLO
    assert len(result.error_msg) < 500
    peer.spin_until(lambda: any(event.label.startswith("xxx") for event in events))
    (event,) = (event for event in events if event.label.startswith("xxx"))
    peer.node.destroy_subscription(subscription)
    assert max(len(event.label), len(event.slo.preset), len(event.error_msg)) < 500


def test_a_client_that_vanishes_leaves_the_server_serving(peer, tmp_path):
    script = tmp_path / "vanishing.py"
    script.write_text(
        "from slice_ros.client import SliceClient\n"
        "import rclpy\n"
        "rclpy.init(args=[])\n"
        "node = rclpy.create_node('vanishing')\n"
        "client = SliceClient(node, '/llm')\n"
        "client.wait_for_server(30.0)\n"
        "client.send('never heard of again', max_tokens=200)\n"
        "import time, sys\n"
        "until = time.monotonic() + 1.0\n"
        "while time.monotonic() < until: rclpy.spin_once(node, timeout_sec=0.1)\n"
        "print('sent', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as vanishing:
        assert vanishing.stdout.readline() == "sent\n"
        vanishing.kill()
    assert peer.run(peer.client.generate("still there?", max_tokens=5)).report.output_tokens == 5


def test_a_client_has_its_servers_status_while_it_comes(peer, monkeypatch):
    peer.spin_until(lambda: peer.client.status is not None)
    assert peer.client.status.engine_state == "ready"
    monkeypatch.setattr("slice_ros.client.STALE_S", 0.0)
    assert peer.client.status is None


def test_the_status_tells_of_classes_model_and_mask(peer):
    running = peer.client.send("a longer answer, please", max_tokens=150, label="story", slo=BestEffort(tpot_ms=500))
    peer.spin_until(lambda: (s := peer.status()).mask.goals and any(c.label == "story" and c.running for c in s.classes))
    status = peer.status()
    assert status.engine_state == "ready"
    assert status.kv_total == 2048
    assert status.kv_used > 0
    assert status.steps > 0
    assert len(status.mask.cells) == len(status.mask.goals) * status.mask.columns
    running.cancel()
    with pytest.raises(GoalFailed):
        peer.run(running.result())
    peer.spin_until(lambda: all(c.running == 0 for c in peer.status().classes if c.label == "story"))


def checked(peer, **fields):
    return peer.call(CheckSlo, "/llm/check_slo", **fields)


def test_check_slo_predicts_and_judges(peer):
    from slice_ros.ros.conversions import slo_msg

    easy = checked(peer, prompt_tokens=32, max_tokens=20, slo=slo_msg(RealTime(deadline_s=10.0)))
    hard = checked(peer, prompt_tokens=32, max_tokens=2000, slo=slo_msg(RealTime(deadline_s=0.02)))
    assert easy.error_code == 0
    assert easy.feasible
    assert 0.0 < easy.ttft_ms < easy.e2e_ms
    assert not hard.feasible


def test_check_slo_refuses_a_bad_slo_with_a_sentence(peer):
    request = CheckSlo.Request(prompt_tokens=1)
    request.slo.service_class = 1
    answer = checked(peer, prompt_tokens=1, slo=request.slo)
    assert answer.error_code == Generate.Result.INVALID_SLO
    assert "bound" in answer.error_msg


def test_a_second_server_of_the_same_name_refuses_to_start(peer):
    with serving("llm", "--engine", "simulated") as second:
        assert second.wait(30) == 1
        assert "running already" in second.stderr.read()


def test_of_two_servers_of_one_name_that_start_together_one_stays():
    with serving("twin", "--engine", "simulated") as one, serving("twin", "--engine", "simulated") as other:
        until_s = time.monotonic() + READY_S
        while one.poll() is None and other.poll() is None and time.monotonic() < until_s:
            time.sleep(0.05)
        time.sleep(1.0)  # for the other one to give way as well, if it would
        staying, gone = (one, other) if other.poll() is not None else (other, one)
        assert (staying.poll(), gone.poll()) == (None, 1)
        assert "running already" in gone.stderr.read()
        peer = Peer("twin")
        peer.client.wait_for_server(READY_S)
        assert peer.run(peer.client.generate("x", max_tokens=2)).report.output_tokens == 2
        peer.close()


def test_a_server_gives_way_to_an_older_one_alone():
    server = SliceServer()
    try:
        started = server._telling.instance
        for newer_or_itself in (started + 1, started):
            server._meet(SloStatus(instance=newer_or_itself))
            assert not server.conflict
        server._meet(SloStatus(instance=started - 1))
        assert "running already" in server.conflict
    finally:
        server.destroy_node()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "/nowhere/model.gguf"], "/nowhere/model.gguf"),
        (["-p", "context.n_ctx:=many"], "context.n_ctx"),
        (["-p", "status.rate_hz:=-1.0"], "status.rate_hz"),
        (["--engine", "paced", "--device-profile", "toaster"], "toaster"),
    ],
)
def test_a_server_that_cannot_start_says_why_and_ends_with_status_1(arguments, says):
    with serving("stillborn", *arguments) as server:
        assert server.wait(60) == 1
        error = server.stderr.read()
    assert says in error
    assert "Traceback" not in error


def test_killing_the_engine_aborts_goals_within_a_second_and_the_next_is_served():
    with serving("fragile", "--engine", "paced") as server:
        peer = Peer("fragile")
        try:
            peer.client.wait_for_server(READY_S)
            generation = peer.client.send("a long story", max_tokens=1000)
            pieces = []

            async def read():
                try:
                    async for piece in generation:
                        pieces.append(piece)
                except GoalFailed as error:
                    return error

            reading = peer.executor.create_task(read())
            peer.spin_until(lambda: pieces)
            (engine,) = children_of(server.pid)
            os.kill(engine, signal.SIGKILL)
            killed = time.monotonic()
            peer.spin_until(reading.done)
            assert time.monotonic() - killed < 1.0
            assert reading.result().code is ErrorCode.ENGINE_DIED
            assert peer.run(peer.client.generate("again", max_tokens=3)).report.output_tokens == 3
            assert peer.status().engine_restarts == 1
        finally:
            peer.close()


def test_a_cancel_does_not_wait_for_the_step_under_way(tmp_path):
    (tmp_path / "slow.yaml").write_text("decode_ms: [3000]\n")
    with serving("slow", "--engine", "simulated", "-p", f"engine.device_profile:={tmp_path / 'slow.yaml'}"):
        peer = Peer("slow")
        try:
            peer.client.wait_for_server(READY_S)
            goal = peer.client.send("x", max_tokens=5)
            peer.spin_until(lambda: goal._is_taken)
            asked = time.monotonic()
            goal.cancel()
            with pytest.raises(GoalFailed) as caught:
                peer.run(goal.result())
            assert caught.value.code is ErrorCode.CANCELED
            assert time.monotonic() - asked < 1.0
        finally:
            peer.close()


def test_a_goal_whose_answers_were_lost_ends_all_the_same(server, monkeypatch):
    peer = Peer("llm")
    monkeypatch.setattr(client, "UNHEARD_S", 1.0)
    try:
        peer.client.wait_for_server(READY_S)
        with monkeypatch.context() as lossy:
            lossy.setattr(peer.client._goals, "call_async", lambda *_, **__: Future())
            assert peer.fails("x").message == "the server /llm did not say whether it takes the goal; send it again"
        asked, ask = [], client.SliceClient._ask
        monkeypatch.setattr(client.SliceClient, "_ask", lambda self, goal: asked.append(goal) or (len(asked) > 1 and ask(self, goal)))
        assert peer.run(peer.client.generate("x", max_tokens=3)).report.output_tokens == 3
        assert len(asked) == 2
    finally:
        peer.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly_and_its_goals_with_an_error(number):
    with serving("mortal", "--engine", "paced") as server:
        peer = Peer("mortal")
        try:
            peer.client.wait_for_server(READY_S)
            generation = peer.client.send("a long story", max_tokens=1000)
            peer.spin_until(lambda: generation._pieces)
            (engine,) = children_of(server.pid)
            server.send_signal(number)
            with pytest.raises(GoalFailed) as caught:
                peer.run(generation.result())
            assert caught.value.code is ErrorCode.SHUTTING_DOWN
            assert server.wait(3) == 0
            with pytest.raises(ProcessLookupError):
                os.kill(engine, 0)
        finally:
            peer.close()


def test_a_killed_server_ends_its_clients_goals_within_two_seconds():
    with serving("doomed", "--engine", "paced") as server:
        peer = Peer("doomed")
        try:
            peer.client.wait_for_server(READY_S)
            generation = peer.client.send("a long story", max_tokens=1000)
            peer.spin_until(lambda: generation._pieces)
            peer.status()  # one that dies in its first half second, before DDS has told of its life, is missed later
            server.kill()
            killed = time.monotonic()
            with pytest.raises(GoalFailed) as caught:
                peer.run(generation.result())
            assert caught.value.code is ErrorCode.ENGINE_DIED
            assert time.monotonic() - killed < 2.0
        finally:
            peer.close()


def test_a_client_that_blocks_in_every_callback_learns_that_its_server_died():
    with serving("missed", "--engine", "paced") as server:
        peer = Peer("missed")
        try:
            peer.client.wait_for_server(READY_S)
            generation = peer.client.send("a long story", max_tokens=1000)
            peer.spin_until(lambda: generation._pieces)
            peer.node.create_timer(0.1, lambda: time.sleep(1.0))
            blocked = time.monotonic()
            peer.spin_until(lambda: time.monotonic() - blocked > 5.0)
            assert not generation.done  # a server that lives is not taken for dead
            server.kill()
            with pytest.raises(GoalFailed) as caught:
                peer.run(generation.result(), timeout_s=15.0)
            assert caught.value.code is ErrorCode.ENGINE_DIED
        finally:
            peer.close()


def test_goals_of_a_server_that_was_started_anew_unnoticed_end_and_those_of_the_new_one_do_not():
    peer, other = Peer("reborn"), Peer("reborn", "other")
    try:
        with serving("reborn", "--engine", "paced") as server:
            peer.client.wait_for_server(READY_S)
            peer.status()
            lost = peer.client.send("a long story", max_tokens=1000)
            peer.spin_until(lambda: lost._pieces)
            server.kill()
            server.wait()
        with serving("reborn", "--engine", "paced", "-p", "status.rate_hz:=50.0"):
            other.status()  # meanwhile the peer's node does nothing
            time.sleep(3.0)  # discovery, also on a machine that is busy
            new = peer.client.send("another long story", max_tokens=100)
            with pytest.raises(GoalFailed) as caught:
                peer.run(lost.result(), timeout_s=10.0)
            assert caught.value.code is ErrorCode.ENGINE_DIED
            assert peer.run(new.result()).report.output_tokens == 100
    finally:
        peer.close()
        other.close()
