"""The OpenAI-compatible door, through OpenAI's own client and through bare sockets, before servers that are real and scripted."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import Literal

import pytest

pytest.importorskip("uvicorn", reason="slice_ros[gateway] is not installed")
pytest.importorskip("openai")

import openai
import rclpy
from pydantic import BaseModel
from serving import READY_S, Peer, door, serving
from test_security import assert_allowed, opened_by

from slice_ros.gateway.guard import Keys
from slice_ros.gateway.limits import Limits
from slice_ros.gateway.link import Link
from slice_ros.gateway.main import Config, http_server
from slice_ros.goal import ChatMessage, ErrorCode
from slice_ros.ros.interfaces import GoalEvent
from slice_ros.testing import MockServer, Script

ANSWERS = {
    "hello": "hello robot",
    "fast": Script(" ".join(map(str, range(60))), after_s=1.0),
    "slow": Script(" ".join(["word"] * 600), after_s=120.0),
    "never": Script("", after_s=600.0),
    "late": Script(error=ErrorCode.SLO_MISSED, error_msg="too late"),
    "full": Script(error=ErrorCode.OVERLOADED, error_msg="too many"),
    "gone": Script(error=ErrorCode.ENGINE_DIED, error_msg="it is gone"),
    "broken": Script("one two", error=ErrorCode.ENGINE_DIED, error_msg="it broke off"),
}
HELLO = [{"role": "user", "content": "hello"}]


def says(text: str):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def scripted(ros):
    with MockServer(ANSWERS, name="scripted_server") as server:
        yield server


@pytest.fixture(scope="module")
def url(scripted):
    with door("scripted_server") as (url, _):
        until_open(url)
        yield url


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=url, api_key="none") as client:
        yield client


def until_open(url: str, timeout_s: float = READY_S) -> None:
    """Wait until the server behind a gateway has been found and is ready."""
    deadline_s = time.monotonic() + timeout_s
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        while time.monotonic() < deadline_s:
            with suppress(openai.InternalServerError):
                client.models.list()
                client.completions.create(model="default", prompt="hello", max_tokens=1)
                return
            time.sleep(0.2)
    raise AssertionError("timed out")


def until(condition, timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "timed out"
        time.sleep(0.02)


# ---- requests and answers


def test_an_answer_tells_what_became_of_its_slo(client):
    raw = client.chat.completions.with_raw_response.create(
        model="default:control", messages=HELLO, extra_headers={"x-slo-deadline-ms": "30000"}
    )
    answer = raw.parse()
    assert answer.choices[0].message.content == "hello robot"
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("stop", 2)
    assert raw.headers["x-slo-attained"] == "true"
    assert answer.usage.slo["attained"]
    assert answer.id == f"chatcmpl-{raw.headers['x-request-id']}"


def test_tags_arrive_with_the_goal_wherever_they_are_put(client, scripted):
    body = {"slo": {"tpot_ms": 100, "label": "dialogue"}, "priority": -2, "prompt_cache_key": "talk"}
    client.chat.completions.create(
        model="default:voice", messages=HELLO, extra_headers={"x-slo-ttft-ms": "250", "x-slo-class": "real-time"}, extra_body=body
    )
    goal = scripted.goals[-1]
    assert (goal.slo.preset, goal.slo.service_class, goal.slo.ttft.nanosec, goal.slo.tpot.nanosec) == ("voice", 1, 250_000_000, 100_000_000)
    assert (goal.label, goal.session_id, goal.slo.utility, goal.client) == ("dialogue", "talk", 4.0, "/scripted_gateway")
    assert goal.silent, "nobody else is to hear feedback that nobody wants"
    client.chat.completions.create(model="default:control", messages=HELLO)
    assert (scripted.goals[-1].slo.preset, scripted.goals[-1].label) == ("control", "control")


def test_a_stream_comes_as_it_is_generated(client):
    stream = client.chat.completions.create(model="default", messages=says("slow"), stream=True)
    began_s = time.monotonic()
    pieces = [next(stream) for _ in range(4)]
    assert time.monotonic() - began_s < 60.0, "long before its end"
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content for piece in pieces).startswith("word")
    stream.close()


def test_a_stream_ends_with_its_reason_and_on_request_with_what_it_took(client):
    with client.chat.completions.create(
        model="default", messages=says("fast"), stream=True, stream_options={"include_usage": True}
    ) as stream:
        *pieces, last, usage = list(stream)
    assert "".join(piece.choices[0].delta.content for piece in pieces) == ANSWERS["fast"].text
    assert last.choices[0].finish_reason == "stop"
    assert (usage.choices, usage.usage.completion_tokens, usage.usage.slo["attained"]) == ([], 60, True)


def test_two_hundred_streams_at_once_each_get_all_of_theirs(url):
    async def one(client):
        stream = await client.completions.create(model="default", prompt="fast", stream=True)
        return "".join([piece.choices[0].text async for piece in stream])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=100.0) as client:
            return await asyncio.gather(*(one(client) for _ in range(200)))

    assert set(asyncio.run(all_of_them())) == {ANSWERS["fast"].text}


def test_models_are_the_default_and_one_for_each_preset(client):
    names = [model.id for model in client.models.list()]
    assert names == ["default", "default:control", "default:qa", "default:voice", "scripted"]
    assert client.models.retrieve("default").id == "default"
    with pytest.raises(openai.NotFoundError, match="there are: default"):
        client.chat.completions.create(model="gpt-4o", messages=HELLO)


@pytest.mark.parametrize(
    ("prompt", "kind", "status"),
    [("full", openai.RateLimitError, 429), ("late", openai.InternalServerError, 504), ("gone", openai.InternalServerError, 503)],
)
def test_a_goal_that_fails_is_an_error_of_its_status(url, prompt, kind, status):
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        for stream in (False, True):
            with pytest.raises(kind) as caught:
                client.chat.completions.create(model="default", messages=says(prompt), stream=stream)
            assert caught.value.status_code == status
            assert ("retry-after" in caught.value.response.headers) == (prompt != "late")
            assert caught.value.body["message"] == ANSWERS[prompt].error_msg


def test_a_late_question_is_not_asked_again_by_the_client(client, scripted):
    before = len(scripted.goals)
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="default", messages=says("late"))
    assert len(scripted.goals) == before + 1


def test_a_stream_that_breaks_off_ends_with_an_error(client):
    stream = client.chat.completions.create(model="default", messages=says("broken"), stream=True)
    with pytest.raises(openai.APIError, match="it broke off"):
        list(stream)


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_hangs_up_ends_its_goal(url, scripted, is_streamed):
    before = len(scripted.goals)
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=1.0) as client, pytest.raises(openai.APITimeoutError):
        client.completions.create(model="default", prompt="never", stream=is_streamed)
    assert len(scripted.goals) > before
    until(lambda: not scripted._in_hand)


# ---- a real server


class Drive(BaseModel):
    """What structured output is asked for."""

    direction: Literal["left", "right"]
    speed: Literal[0.1, 0.2]


@pytest.fixture(scope="module")
def real(ros):
    """(URL, peer of the server)"""
    with serving("slice_server"), door("slice_server") as (url, _):
        peer = Peer("slice_server")
        peer.client.wait_for_server(2 * READY_S)
        until_open(url)
        yield url, peer
        peer.close()


def test_text_is_the_same_through_either_door(real):
    url, peer = real
    messages = [ChatMessage("system", "be brief"), ChatMessage("user", "go to the dock")]
    expected = peer.run(peer.client.generate(messages, max_tokens=12)).text
    with openai.OpenAI(base_url=url, api_key="none") as client:
        asked = {"model": "default", "messages": [{"role": m.role, "content": m.content} for m in messages], "max_tokens": 12}
        assert client.chat.completions.create(**asked).choices[0].message.content == expected
        streamed = client.chat.completions.create(**asked, stream=True, logprobs=True)
        chunks = list(streamed)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    logprobs = chunks[-1].choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in logprobs).decode() == expected


def test_presets_are_models(real):
    with openai.OpenAI(base_url=real[0], api_key="none") as client:
        assert {"default", "default:control", "default:voice", "default:qa"} <= {model.id for model in client.models.list()}
        assert client.chat.completions.create(model="default:qa", messages=says("go"), max_tokens=2).usage.slo["attained"] in (True, False)


def test_structured_output_parses(real):
    with openai.OpenAI(base_url=real[0], api_key="none") as client:
        answer = client.chat.completions.parse(model="default", messages=says("drive"), response_format=Drive, max_tokens=60)
        assert isinstance(answer.choices[0].message.parsed, Drive)
        free = client.chat.completions.create(
            model="default", messages=says("drive"), response_format={"type": "json_object"}, max_tokens=200, seed=3, temperature=1.0
        )
        if free.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(free.choices[0].message.content), dict)


def test_what_the_server_refuses_is_told_with_its_sentence(real):
    with openai.OpenAI(base_url=real[0], api_key="none") as client:
        with pytest.raises(openai.BadRequestError, match=r"limits\.max_tokens") as caught:
            client.completions.create(model="default", prompt="go", max_tokens=10**6)
        assert caught.value.code == "invalid_goal"
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="default", prompt="go " * 7000, max_tokens=8000)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="default", prompt="go", extra_body={"regex": "("})
        assert caught.value.code == "invalid_grammar"


def test_it_tells_of_its_health_and_its_figures(real):
    base = real[0].removesuffix("/v1")
    until_s = time.monotonic() + READY_S
    while request(base, "/health")[0] != 200 and time.monotonic() < until_s:  # it has yet to hear the server's status
        time.sleep(0.1)
    assert request(base, "/health")[0] == 200
    with openai.OpenAI(base_url=real[0], api_key="none") as client:
        client.completions.create(model="default", prompt="go", max_tokens=2)
    status, text = request(base, "/metrics")
    while 'label="http"' not in text and time.monotonic() < until_s:  # the server tells of a goal twice a second
        time.sleep(0.2)
        status, text = request(base, "/metrics")
    assert status == 200
    assert "slice_up 1.0" in text
    assert 'slice_gateway_requests_total{route="/v1/completions",status="200"}' in text
    assert 'slice_goals_attained_total{class="best_effort",label="http"}' in text


def request(base: str, path: str, **headers: str) -> tuple[int, str]:
    """Status and body of a GET."""
    host, port = base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in ({"host": host} | headers).items())
        connection.sendall(f"GET {path} HTTP/1.1\r\n{lines}connection: close\r\n\r\n".encode())
        head, _, body = connection.makefile("rb").read().decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


def test_sros2s_policy_allows_all_that_the_gateway_opens(real):
    _, peer = real
    peer.spin_until(lambda: "/slice_server/list_parameters" in opened_by(peer.node, "slice_gateway")["request"])
    assert_allowed("gateway", opened_by(peer.node, "slice_gateway"))


# ---- hanging up during a prompt, restarts, ends


def test_a_client_that_hangs_up_while_its_prompt_is_computed_ends_its_goal(ros):
    slow = ("--engine", "simulated", "--device-profile", "rtx4060ti-chatglm2-6b-int4")
    with serving("slow_server", *slow), door("slow_server") as (url, _):
        peer = Peer("slow_server")
        ends = []
        peer.node.create_subscription(GoalEvent, "/slow_server/goal_events", ends.append, 100)
        peer.client.wait_for_server(READY_S)
        while not ends:  # from now on events are heard
            peer.run(peer.client.generate("hello", max_tokens=1))
        until_open(url)
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=1.0) as client, pytest.raises(openai.APITimeoutError):
            client.completions.create(model="default", prompt="word " * 25_000, max_tokens=10)
        peer.spin_until(lambda: any(end.event == GoalEvent.FINISHED and end.error_code == ErrorCode.CANCELED for end in ends))
        assert next(end for end in ends if end.error_code == ErrorCode.CANCELED).report.output_tokens == 0
        peer.close()


def test_a_server_that_is_away_is_503_and_the_gateway_lives_on(ros):
    with door("coming_server") as (url, gateway):
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                client.chat.completions.create(model="default", messages=HELLO)
            assert (caught.value.status_code, "retry-after" in caught.value.response.headers) == (503, True)
        for _ in range(2):
            with MockServer(ANSWERS, name="coming_server"):
                until_open(url)
        assert gateway.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_streams_with_an_error_and_goals_with_them(scripted, number):
    with door("scripted_server") as (url, gateway), openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        until_open(url)
        stream = client.completions.create(model="default", prompt="slow", stream=True)
        next(stream)
        gateway.send_signal(number)
        with pytest.raises(openai.APIError, match="being stopped"):
            list(stream)
        assert gateway.wait(20) == 0
    until(lambda: not scripted._in_hand)


# ---- the door


@contextmanager
def small_door(limits: Limits, keys: Keys | None = None, origins=()):
    """A gateway in this process, with limits of its own; (port, link)."""
    node = rclpy.create_node("small_gateway")
    link = Link(node, "/scripted_server")
    listening = socket.create_server(("127.0.0.1", 0))
    server = http_server(Config(limits=limits, origins=origins), keys or Keys(), link)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    port = listening.getsockname()[1]
    try:
        until_open(f"http://127.0.0.1:{port}/v1") if keys is None else None
        until(lambda: not link.in_flight)  # an answer is there before its request has been forgotten
        yield port, link
    finally:
        server.should_exit = True
        thread.join()
        link.close()
        node.destroy_node()


def talk(port: int, *pieces: bytes, until_closed: bool = True) -> bytes:
    """Send bytes, and what comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for piece in pieces:
            connection.sendall(piece)
        heard = b""
        while (until_closed or not heard) and (more := connection.recv(65536)):
            heard += more
        return heard


def post(body: bytes, *headers: str, path: str = "/v1/completions") -> bytes:
    lines = ["host: localhost", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return f"POST {path} HTTP/1.1\r\n".encode() + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


ASK = json.dumps({"model": "default", "prompt": "hello"}).encode()
CHUNKED = post(b"", "transfer-encoding: chunked", "connection: close").replace(b"content-length: 0\r\n", b"")
NEVER = json.dumps({"model": "default", "prompt": "never"}).encode()


def test_half_open_connections_slow_bodies_and_long_answers_end(scripted):
    with small_door(Limits(head_s=0.5, body_s=0.5, request_s=0.5)) as (port, link):
        assert talk(port) == b""
        assert talk(port, b"POST /v1/comp") == b""
        assert talk(port, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET") != b""
        assert b" 408 " in talk(port, post(ASK, "connection: close")[:-5]).splitlines()[0]
        assert b" 504 " in talk(port, post(NEVER, "connection: close")).splitlines()[0]
        until(lambda: not link.in_flight and not scripted._in_hand)


def test_a_reader_that_does_not_read_is_hung_up_on(scripted):
    with small_door(Limits(write_s=0.5)) as (port, _), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(40_000):  # pipelined, so that there is more to say than buffers take
            connection.settimeout(0.2)
            try:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n" * 20)
            except (TimeoutError, OSError):
                break
        connection.settimeout(30)
        with pytest.raises(OSError, match=r"reset|aborted"):
            while connection.recv(1024 * 1024):
                time.sleep(0.01)
            raise OSError("reset: closed before all was said")
        assert b" 200 " in talk(port, post(ASK, "connection: close")).splitlines()[0]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(b"x" * 5000, "connection: close"), 413),
        (CHUNKED + b"1388\r\n" + b"x" * 5000 + b"\r\n0\r\n\r\n", 413),
        (post(ASK, *("x-filler: y",) * 200, "connection: close"), 431),
        (post(ASK, "x-filler: " + "y" * 100_000, "connection: close"), 431),
        (post(ASK, "connection: close").replace(b"application/json", b"text/plain"), 415),
        (post(ASK, "connection: close").replace(b"localhost", b"evil.example"), 403),
        (post(ASK, "connection: close", path="/v1/responses"), 404),
        (post(b"{", "connection: close"), 400),
        (b"GET /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)  # fmt: skip
def test_what_is_too_much_or_nothing_at_all_gets_its_status(narrow, sent, status):
    assert int(talk(narrow, sent).split()[1]) == status


@pytest.fixture(scope="module")
def narrow(scripted):
    with small_door(Limits(body_bytes=1000)) as (port, _):
        yield port


def test_more_requests_than_are_served_at_once_are_asked_to_come_again(scripted):
    with small_door(Limits(requests=1)) as (port, link), socket.create_connection(("127.0.0.1", port)) as first:
        first.sendall(post(NEVER))
        until(lambda: link.in_flight == 1)
        answer = talk(port, post(ASK, "connection: close"))
        assert b" 429 " in answer.splitlines()[0]
        assert b"retry-after: 1" in answer


def test_more_connections_than_there_may_be_are_closed(scripted):
    with small_door(Limits(connections=5)) as (port, _):
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        until(lambda: talk_or_nothing(port) == b"")
        for connection in held:
            connection.close()
        until(lambda: b" 200 " in talk_or_nothing(port))


def talk_or_nothing(port: int) -> bytes:
    try:
        return talk(port, post(ASK, "connection: close"))
    except OSError:
        return b""


def test_with_keys_only_who_has_one_comes_in(scripted, tmp_path):
    file = tmp_path / "keys"
    file.write_text("sesame\n")
    with door("scripted_server", "--host", "0.0.0.0", "--api-key-file", str(file)) as (bound, _):
        url = bound.replace("0.0.0.0", "127.0.0.1")
        with openai.OpenAI(base_url=url, api_key="open", max_retries=0) as stranger, pytest.raises(openai.AuthenticationError):
            stranger.chat.completions.create(model="default", messages=HELLO)
        assert request(url.removesuffix("/v1"), "/health")[0] in (200, 503)
        assert request(url.removesuffix("/v1"), "/metrics")[0] == 401
        assert request(url.removesuffix("/v1"), "/metrics", authorization="Bearer sesame")[0] == 200
        with openai.OpenAI(base_url=url, api_key="sesame") as client:
            assert client.chat.completions.create(model="default", messages=HELLO).choices[0].message.content == "hello robot"


def test_web_pages_may_use_it_only_where_they_are_named(scripted):
    lines = ("host: localhost", "origin: https://{}", "access-control-request-method: POST", "connection: close")
    asks = "OPTIONS /v1/completions HTTP/1.1\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    with small_door(Limits(), origins=("https://robot.example",)) as (port, _):
        assert b"access-control-allow-origin: https://robot.example" in talk(port, asks.format("robot.example").encode())
        assert b"access-control-allow-origin" not in talk(port, asks.format("evil.example").encode())
    with small_door(Limits()) as (port, _):
        assert b"access-control-allow-origin" not in talk(port, asks.format("robot.example").encode())
