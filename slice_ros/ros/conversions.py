"""Between ROS messages and the plain data of goals, reports and status: the only place that knows both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from builtin_interfaces.msg import Duration as DurationMsg
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from unique_identifier_msgs.msg import UUID

from slice_ros.dispatch.member import MemberReport, MemberState
from slice_ros.goal import ChatMessage, ErrorCode, FinishReason, GoalError, GoalRequest, Sampling, TokenLogprob, ToolCall
from slice_ros.latency.model import COSTS, LatencyModel
from slice_ros.metrics.health import Diagnosis
from slice_ros.metrics.statistics import ClassFigures, percentile
from slice_ros.ros.interfaces import ChatMessage as ChatMessageMsg
from slice_ros.ros.interfaces import ClassStatus as ClassStatusMsg
from slice_ros.ros.interfaces import Generate
from slice_ros.ros.interfaces import LoadStatus as LoadStatusMsg
from slice_ros.ros.interfaces import MaskStatus as MaskStatusMsg
from slice_ros.ros.interfaces import MemberStatus as MemberStatusMsg
from slice_ros.ros.interfaces import Sampling as SamplingMsg
from slice_ros.ros.interfaces import Slo as SloMsg
from slice_ros.ros.interfaces import SloReport as SloReportMsg
from slice_ros.ros.interfaces import TokenLogprob as TokenLogprobMsg
from slice_ros.ros.interfaces import ToolCall as ToolCallMsg
from slice_ros.scheduling.events import Checked, Snapshot
from slice_ros.scheduling.policies.base import Limits
from slice_ros.scheduling.task import SloReport, TaskState
from slice_ros.slo import OnMiss, ServiceClass, Slo, SloError

TIMES = ("ttft_s", "tpot_s", "e2e_s", "queue_s", "predicted_ttft_s", "predicted_tpot_s", "predicted_e2e_s")
REST = ("attained", "ttft_met", "tpot_met", "deadline_met", "prompt_tokens", "cached_tokens", "output_tokens", "steps")


def duration_s(msg: Any) -> float | None:
    """Seconds of a ``builtin_interfaces/Duration``; zero is no bound."""
    seconds = float(msg.sec + msg.nanosec * 1e-9)
    return None if seconds == 0.0 else seconds


def duration_msg(seconds: float | None) -> Any:
    """Message of a bound; ``None`` is zero."""
    nanoseconds = round((seconds or 0.0) * 1e9)
    return DurationMsg(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def slo_of(msg: Any, presets: Mapping[str, Slo] = MappingProxyType({}), label: str = "") -> Slo:
    """Plain SLO of a ``slice_ros/Slo``; its preset, or the one that bears the label of a goal without an SLO, fills in what is zero.

    Raises:
        GoalError: INVALID_SLO with the field, its value and what would be right.
    """
    try:
        if msg.service_class not in tuple(ServiceClass):
            raise SloError(f"service_class is {msg.service_class}; it must be 0 (BEST_EFFORT) or 1 (REAL_TIME)")
        if msg.on_miss not in tuple(OnMiss):
            raise SloError(f"on_miss is {msg.on_miss}; it must be 0 (DEFAULT), 1 (ABORT) or 2 (CONTINUE)")
        if msg.preset and msg.preset not in presets:
            raise SloError(f"preset is {msg.preset[:40]!r}; this server has: {', '.join(sorted(presets)) or 'none'}")
        preset = msg.preset or (label if label in presets and msg == SloMsg() else "")
        base = presets[preset] if preset else Slo()
        return Slo(
            ServiceClass(msg.service_class or base.service_class),
            duration_s(msg.ttft) or base.ttft_s,
            duration_s(msg.tpot) or base.tpot_s,
            duration_s(msg.deadline) or base.deadline_s,
            float(msg.utility) or base.utility,
            OnMiss(msg.on_miss or base.on_miss),
        )
    except SloError as error:
        raise GoalError(ErrorCode.INVALID_SLO, str(error)) from error


def slo_msg(slo: Slo, preset: str = "") -> Any:
    return SloMsg(
        preset=preset,
        service_class=int(slo.service_class),
        ttft=duration_msg(slo.ttft_s),
        tpot=duration_msg(slo.tpot_s),
        deadline=duration_msg(slo.deadline_s),
        utility=float(slo.utility or 0.0),
        on_miss=int(slo.on_miss),
    )


def request_of(
    goal_id: str, goal: Any, *, submitted_s: float, default_max_tokens: int, presets: Mapping[str, Slo] = MappingProxyType({})
) -> GoalRequest:
    """Plain goal of a ``slice_ros/Generate`` goal.

    Raises:
        GoalError: a field has an impossible value.
    """
    drawn = goal.sampling
    return GoalRequest(
        goal_id,
        slo_of(goal.slo, presets, goal.label),
        goal.max_tokens or default_max_tokens,
        is_default=not goal.max_tokens,
        prompt=goal.prompt,
        messages=tuple(ChatMessage(m.role, m.content, tool_calls_of(m.tool_calls), m.tool_call_id) for m in goal.messages),
        tools=goal.tools,
        tool_choice=goal.tool_choice,
        reasoning=goal.reasoning,
        submitted_s=submitted_s,
        label=goal.label,
        supersede=goal.supersede,
        sampling=Sampling(drawn.temperature, drawn.top_k, drawn.top_p, drawn.min_p, drawn.repeat_penalty, drawn.seed),
        stop=tuple(goal.stop),
        grammar=goal.grammar,
        json_schema=goal.json_schema,
        regex=goal.regex,
        logprobs=goal.logprobs,
        adapter=goal.adapter,
        session_id=goal.session_id,
        client=goal.client,
        after=tuple(uuid_hex(uuid) for uuid in goal.after),
        chain_deadline_s=duration_s(goal.chain_deadline),
        model=goal.model,
        answer_prefix=goal.answer_prefix,
        hedge=goal.hedge,
    )


def goal_msg(request: GoalRequest) -> Any:
    """The ``slice_ros/Generate`` goal that asks for the same, whatever presets its server has."""
    slo = replace(request.slo, utility=request.slo.weight)  # of a goal without an SLO, the label's preset would be taken
    return Generate.Goal(
        prompt=request.prompt,
        messages=[message_msg(message) for message in request.messages],
        tools=request.tools,
        tool_choice=request.tool_choice,
        reasoning=request.reasoning,
        slo=slo_msg(slo),
        label=request.kind,
        after=[uuid_msg(goal_id) for goal_id in request.after],
        chain_deadline=duration_msg(request.chain_deadline_s),
        supersede=request.supersede,
        max_tokens=0 if request.is_default else request.max_tokens,
        sampling=sampling_msg(request.sampling),
        stop=list(request.stop),
        grammar=request.grammar,
        json_schema=request.json_schema,
        regex=request.regex,
        logprobs=request.logprobs,
        adapter=request.adapter,
        session_id=request.session_id,
        client=request.client,
        model=request.model,
        answer_prefix=request.answer_prefix,
        hedge=request.hedge,
    )


def sampling_msg(sampling: Sampling) -> Any:
    return SamplingMsg(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repeat_penalty=sampling.repeat_penalty,
        seed=sampling.seed,
    )


def message_msg(message: ChatMessage) -> Any:
    calls = tool_calls_msg(message.tool_calls)
    return ChatMessageMsg(role=message.role, content=message.content, tool_calls=calls, tool_call_id=message.tool_call_id)


def tool_calls_msg(calls: Iterable[ToolCall]) -> list[Any]:
    return [ToolCallMsg(id=call.id, name=call.name, arguments=call.arguments) for call in calls]


def tool_calls_of(msgs: Iterable[Any]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(msg.id, msg.name, msg.arguments) for msg in msgs)


def logprobs_of(msgs: Iterable[Any]) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(msg.token, msg.logprob, bytes(msg.data)) for msg in msgs)


def uuid_hex(msg: Any) -> str:
    return bytes(msg.uuid).hex()


def uuid_msg(goal_id: str) -> Any:
    return UUID(uuid=list(bytes.fromhex(goal_id)))


def report_msg(report: SloReport) -> Any:
    fields: dict[str, Any] = {name: getattr(report, name) for name in REST}
    fields.update({f"{name[:-2]}_ms": getattr(report, name) * 1e3 for name in TIMES})
    return SloReportMsg(**fields)


def report_of(msg: Any) -> SloReport:
    fields: dict[str, Any] = {name: getattr(msg, name) for name in REST}
    fields.update({name: getattr(msg, f"{name[:-2]}_ms") / 1e3 for name in TIMES})
    return SloReport(**fields)


def diagnostic_msg(diagnosis: Diagnosis, node: str, hardware_id: str) -> Any:
    return DiagnosticStatus(
        level=bytes((diagnosis.level,)),
        name=f"{node}: {diagnosis.name}",
        message=diagnosis.message,
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=value) for key, value in diagnosis.values.items()],
    )


def fill_result(
    result: Any,
    text: str,
    reason: FinishReason | None,
    code: ErrorCode,
    message: str,
    report: SloReport,
    logprobs: Sequence[TokenLogprob] = (),
    tool_calls: Sequence[ToolCall] = (),
    reasoning: str = "",
) -> Any:
    """The result message of a goal's end."""
    result.text = text
    result.finish_reason = reason.value if reason else ""
    result.error_code = int(code)
    result.error_msg = message
    result.report = report_msg(report)
    result.reasoning = reasoning
    result.tool_calls = tool_calls_msg(tool_calls)
    result.logprobs = [TokenLogprobMsg(token=token, logprob=logprob, data=data) for token, logprob, data in logprobs]
    return result


def fill_check(response: Any, checked: Checked, rate: float = 1.0) -> Any:
    """The answer of ``~/check_slo``; ``rate``: seconds of the SLO's clock in a second of real time."""
    response.error_code, response.error_msg = int(checked.error_code), checked.error_msg
    if checked.prediction is not None:
        prediction = checked.prediction
        response.feasible, response.safe = prediction.is_feasible, prediction.is_safe
        ms = 1e3 * rate
        response.ttft_ms, response.tpot_ms, response.e2e_ms = prediction.ttft_s * ms, prediction.tpot_s * ms, prediction.e2e_s * ms
        response.fits_in_ms = math.nan if math.isinf(prediction.fits_in_s) else prediction.fits_in_s * ms
    return response


def class_msg(figures: ClassFigures) -> Any:
    return ClassStatusMsg(
        label=figures.kind,
        service_class=int(figures.service_class),
        submitted=figures.submitted,
        queued=figures.queued,
        running=figures.running,
        completed=figures.completed,
        failed=figures.failed,
        attained=figures.attained,
        attainment=figures.attainment,
        **{
            f"{name}_ms_p{round(share * 100)}": percentile(values, share) * 1e3
            for name, values in (("ttft", figures.ttft_s), ("tpot", figures.tpot_s), ("e2e", figures.e2e_s))
            for share in (0.5, 0.99)
        },
    )


def fill_status(status: Any, snapshot: Snapshot) -> Any:
    """Put what the scheduler says into a ``slice_ros/SloStatus``."""
    mask = snapshot.mask
    status.policy = snapshot.policy
    status.queued = snapshot.queued
    status.running = snapshot.running
    status.steps = snapshot.steps
    status.step_ms = snapshot.step_s * 1e3
    status.step_predicted_ms = snapshot.step_predicted_s * 1e3
    status.tokens_per_s = snapshot.tokens_per_s
    status.tokens_per_step = snapshot.tokens_per_step
    status.drafted_per_step = snapshot.drafted_per_step
    status.draft_acceptance = snapshot.draft_acceptance
    status.kv_used = snapshot.kv_used
    status.kv_cached = snapshot.kv_cached
    status.kv_parked_bytes = snapshot.kv_parked_bytes
    status.kv_total = snapshot.kv_total
    status.mask = MaskStatusMsg(
        goals=list(mask.goal_ids),
        labels=list(mask.kinds),
        service_classes=[int(real_time) for real_time in mask.real_time],
        slack_ms=[slack * 1e3 for slack in mask.slack_s],
        columns=mask.cells.shape[1],
        cursor=mask.cursor,
        cells=mask.cells.ravel().tolist(),
    )
    return status


def load_msg(snapshot: Snapshot, context_tokens: int) -> Any:
    """What predictions are made from."""
    latency, limits, tasks = snapshot.latency, snapshot.limits, snapshot.in_hand
    return LoadStatusMsg(
        decode_ms=[seconds * 1e3 for seconds in latency.decode_s],
        **{f"{name}_ms": getattr(latency, f"{name}_s") * 1e3 for name in COSTS},
        tile=latency.tile,
        window=latency.window,
        windowed=latency.windowed,
        margin=latency.margin,
        max_batch=limits.max_batch,
        max_step_tokens=limits.max_step_tokens,
        cells=limits.cells,
        sequences=limits.sequences,
        context_tokens=context_tokens,
        goals=[task.goal_id for task in tasks],
        labels=[task.kind for task in tasks],
        adapters=[task.adapter for task in tasks],
        service_classes=[int(task.slo.service_class) for task in tasks],
        ttft_ms=[(task.slo.ttft_s or 0.0) * 1e3 for task in tasks],
        tpot_ms=[(task.slo.tpot_s or 0.0) * 1e3 for task in tasks],
        deadline_ms=[(task.slo.deadline_s or 0.0) * 1e3 for task in tasks],
        utilities=[task.slo.utility or 0.0 for task in tasks],
        max_tokens=[task.max_tokens for task in tasks],
        prompt_tokens=[task.prompt_tokens for task in tasks],
        prompt_left=[max(0, task.prompt_left) for task in tasks],
        tokens=[task.tokens for task in tasks],
        age_ms=[task.age_s * 1e3 for task in tasks],
        first_age_ms=[task.first_age_s * 1e3 for task in tasks],
    )


def member_report_of(status: Any) -> MemberReport | None:
    """What a ``slice_ros/SloStatus`` tells a dispatcher; ``None`` where its server has no engine that could serve.

    Raises:
        ValueError: its numbers are impossible.
    """
    load = status.load
    if not load.decode_ms:
        return None
    costs_s = {f"{name}_s": getattr(load, f"{name}_ms") / 1e3 for name in COSTS}
    others = {name: getattr(load, name) for name in ("tile", "window", "windowed", "margin")}
    latency = LatencyModel(status.device, tuple(ms / 1e3 for ms in load.decode_ms), **costs_s, **others)
    return MemberReport(
        status.active and status.engine_state == "ready",
        status.model,
        status.device,
        tuple(status.adapters),
        load.context_tokens,
        latency,
        Limits(load.max_batch, load.max_step_tokens, load.cells, load.sequences),
        status.steps,
        tuple(_task_states(load)),
        status.chat_template,
    )


def _task_states(load: Any) -> Iterator[TaskState]:
    for i, goal_id in enumerate(load.goals):
        ttft_s, tpot_s, deadline_s = (getattr(load, f"{name}_ms")[i] / 1e3 or None for name in ("ttft", "tpot", "deadline"))
        slo = Slo(ServiceClass(load.service_classes[i]), ttft_s, tpot_s, deadline_s, load.utilities[i] or None)
        numbers = (load.max_tokens[i], load.prompt_tokens[i], load.prompt_left[i], load.tokens[i])
        yield TaskState(goal_id, slo, load.labels[i], load.adapters[i], *numbers, load.age_ms[i] / 1e3, load.first_age_ms[i] / 1e3)


def member_msg(member: MemberState) -> Any:
    return MemberStatusMsg(
        name=member.name,
        state=member.state,
        model=member.model,
        device=member.device,
        quality=member.quality,
        in_hand=member.in_hand,
        sent=member.sent,
        moved=member.moved,
        network_ms=member.network_s * 1e3,
        why=member.why,
    )
