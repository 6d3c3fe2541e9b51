"""The server's parameters: names, defaults, ranges and descriptions in one table, for ROS, YAML and the command line alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any

from slice_ros.scheduling.admission import Admission
from slice_ros.scheduling.drafts import LONGEST_DRAFT, MAX_DRAFT
from slice_ros.scheduling.policies import DEFAULT_POLICY, POLICIES

Value = bool | int | float | str


class ParameterError(ValueError):
    """A parameter is unknown, of the wrong type, or out of range."""


class Change(Enum):
    """When a parameter may be changed."""

    NEVER = "fixed at start"
    UNCONFIGURED = "changed while the node is unconfigured"
    LIVE = "changed at any time"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter; its type is that of its default.

    Args:
        name: grouped by a dotted prefix.
        default: used where nobody sets it.
        description: what it does, with its unit and what zero or empty means.
        minimum, maximum: range of a number, both inclusive.
        choices: what a string may be.
        change: when it may be changed.
    """

    name: str
    default: Value
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    change: Change = Change.UNCONFIGURED

    def check(self, value: Any) -> Value:
        """The value, an integer made a float where one is meant.

        Raises:
            ParameterError: it has the wrong type or is out of range.
        """
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ParameterError(f"parameter {self.name} is {value!r}, a {type(value).__name__}; it must be a {kind.__name__}")
        if self.choices and value not in self.choices:
            raise ParameterError(f"parameter {self.name} is {value!r}; it must be one of {', '.join(self.choices)}")
        checked: Value = value
        if not isinstance(checked, str):
            below = self.minimum is not None and not checked >= self.minimum  # so written, NaN is out of range, too
            above = self.maximum is not None and not checked <= self.maximum
            if below or above:
                raise ParameterError(f"parameter {self.name} is {checked}; it must be {self.range_text}")
        return checked

    @property
    def range_text(self) -> str:
        if self.maximum is None:
            return f"{self.minimum:g} or more"
        return f"in {self.minimum:g} to {self.maximum:g}"


KV_TYPES = ("f16", "f32", "q8_0", "q4_0")

PARAMETERS: dict[str, Parameter] = {
    p.name: p
    for p in (
        Parameter(
            "model.path",
            "",
            "the model: a GGUF file, the first of a split one, a folder with one, a name as `slice-ros models` lists them, or "
            "hf:OWNER/REPO/FILE.gguf; empty = the small one that comes with this package",
        ),
        Parameter(
            "model.chat_template",
            "",
            "Jinja template of conversations instead of the model's own: a file, or a family of chatml, gemma, granite, lfm2, llama3, "
            "mistral, qwen; empty = its own",
        ),
        Parameter(
            "model.adapters", "", "LoRA adapters that goals may name, as in 'polite=/models/polite.gguf'; comma-separated; empty = none"
        ),
        Parameter("context.n_ctx", 8192, "KV cells that all goals share, in tokens", 64, 4194304),
        Parameter("context.n_batch", 512, "prompt tokens and decodes in one step at most", 1, 16384),
        Parameter("context.n_seq_max", 64, "goals that can hold KV cells at once", 1, 255),
        Parameter(
            "context.prefix_cache",
            2048,
            "KV cells kept of goals that have ended, at most, so that a prompt with the same beginning need not compute it again; they "
            "give way at once to goals; a CPU keeps less of what nobody has asked for; 0 = off",
            0,
            4194304,
        ),
        Parameter(
            "context.checkpoint_tokens",
            128,
            "recurrent and hybrid models: a copy of a prompt's state is kept after so many of its tokens, so that a prompt with the same "
            "beginning goes on from there; each takes one of n_seq_max; 0 = off",
            0,
            4194304,
        ),
        Parameter(
            "context.swa_full",
            True,
            "models with a sliding window: their layers keep all of the context, so that any beginning can be shared; false saves memory",
        ),
        Parameter(
            "context.host_cache_mib",
            256,
            "host memory for the KV cells of goals that gave theirs up to others, MiB; what does not fit is computed again; 0 = off",
            0,
            1048576,
        ),
        Parameter("context.flash_attn", True, "let llama.cpp use flash attention where the device has it"),
        Parameter("context.type_k", "f16", "type of the KV cache's keys", choices=KV_TYPES),
        Parameter("context.type_v", "f16", "type of the KV cache's values; a quantised one needs flash attention", choices=KV_TYPES),
        Parameter(
            "gpu.n_gpu_layers", -1, "layers computed on the GPU; -1 = all, 0 = none; without a GPU build it has no effect", -1, 10000
        ),
        Parameter("gpu.main_gpu", 0, "index of the GPU that computes all of the model; 0 or a tensor_split spreads it over all", 0, 64),
        Parameter("gpu.tensor_split", "", "share of the model on each GPU, as in '0.6,0.4'; empty = llama.cpp's own choice"),
        Parameter(
            "gpu.cuda_graphs",
            False,
            "let llama.cpp record the kernels of steps as CUDA graphs: up to 5 % faster, but 0.3.36 crashed with them on an H200",
        ),
        Parameter(
            "gpu.rpc_servers",
            "",
            "other computers that take a share of the model, as in '10.0.0.2:50052'; comma-separated; for a build with RPC=1; empty = none",
        ),
        Parameter("cpu.n_threads", 0, "threads of one step; 0 = the machine's physical cores", 0, 1024),
        Parameter(
            "engine.kind",
            "llama",
            "llama = as fast as this machine can; paced = real tokens at the device profile's speed; "
            "simulated = no model, the device profile's speed",
            choices=("llama", "paced", "simulated"),
        ),
        Parameter(
            "engine.device_profile",
            "",
            "step times: a name in config/devices or a YAML file; empty = measured at the first start "
            "(llama) or rtx4060ti-chatglm2-6b-int4 (paced, simulated)",
        ),
        Parameter("engine.restart", True, "start a new engine process when one dies"),
        Parameter(
            "engine.hang_timeout_s",
            3.0,
            "an engine process that has goals and is silent for so long, and for ten times its longest step, is killed, s; 0 = never",
            0.0,
            3600.0,
            change=Change.LIVE,
        ),
        Parameter("scheduler.policy", DEFAULT_POLICY, "who takes part in the coming steps", choices=tuple(POLICIES), change=Change.LIVE),
        Parameter("scheduler.max_batch", 16, "goals in one step at most", 1, 256, change=Change.LIVE),
        Parameter(
            "scheduler.max_draft",
            MAX_DRAFT,
            "tokens guessed ahead for one goal in a step at most, where that gains time; 0 = none; for the policy slack",
            0,
            LONGEST_DRAFT,
            change=Change.LIVE,
        ),
        Parameter(
            "scheduler.admission",
            Admission.ALWAYS.value,
            "always = every goal runs; strict = one ends with INFEASIBLE if its SLO, or that of a real-time goal in hand, could not be met",
            choices=tuple(admission.value for admission in Admission),
            change=Change.LIVE,
        ),
        Parameter(
            "scheduler.max_queued",
            2000,
            "goals that may wait for their first token; one more ends at once with OVERLOADED",
            1,
            100000,
            change=Change.LIVE,
        ),
        Parameter(
            "scheduler.max_in_hand",
            2500,
            "goals that may be in hand, waiting or begun; one more ends at once with OVERLOADED",
            1,
            100000,
            change=Change.LIVE,
        ),
        Parameter(
            "scheduler.client_share",
            0.5,
            "share of scheduler.max_queued, and of scheduler.max_in_hand, that one client's goals may be; goals that name no client count "
            "as one",
            0.0,
            1.0,
            change=Change.LIVE,
        ),
        Parameter("limits.max_tokens", 8192, "max_tokens of a goal at most", 1, 1048576, change=Change.LIVE),
        Parameter(
            "limits.prompt_bytes",
            262144,
            "prompt, messages, answer_prefix and stop strings of a goal together at most, bytes",
            1,
            2**26,
            change=Change.LIVE,
        ),
        Parameter(
            "limits.grammar_bytes",
            65536,
            "grammar, json_schema, regex or tools of a goal at most, bytes; 0 = none is taken",
            0,
            1048576,
            change=Change.LIVE,
        ),
        Parameter(
            "generation.max_tokens",
            256,
            "output tokens of a goal that does not say, or as many as fit beside its prompt, where these are fewer",
            1,
            1048576,
            change=Change.LIVE,
        ),
        Parameter(
            "status.rate_hz", 2.0, "how often ~/slo_status is published; clients take it for a heartbeat", 2.0, 50.0, change=Change.NEVER
        ),
        Parameter(
            "lifecycle.autostart",
            True,
            "configure and activate the node at start; without it, a lifecycle manager or `ros2 lifecycle set` does",
            change=Change.NEVER,
        ),
        Parameter(
            "lifecycle.drain_s",
            5.0,
            "how long goals may go on when the node is deactivated, s; then, or with 0 at once, they end with SHUTTING_DOWN",
            0.0,
            3600.0,
            change=Change.LIVE,
        ),
        Parameter(
            "lifecycle.bond_period_s",
            0.1,
            "period of the heartbeat that Nav2's lifecycle manager expects, s, where bondpy is installed; 0 = none",
            0.0,
            10.0,
        ),
        Parameter(
            "diagnostics.attainment_warn",
            0.95,
            "share of real-time goals that met their SLO in the last minute under which /diagnostics warns",
            0.0,
            1.0,
            change=Change.LIVE,
        ),
        Parameter(
            "slo.clock",
            "real",
            "what SLOs count in: real = real time; ros = the node's clock, with use_sim_time the simulation's: bounds are converted when a "
            "goal is submitted, by the rate that the clock had in the two seconds before, and while it stands still no bound is missed",
            choices=("real", "ros"),
            change=Change.NEVER,
        ),
        Parameter(
            "diagnostics.step_ratio_warn",
            1.5,
            "measured / calibrated step time of the last minute above which /diagnostics warns; a hot machine is a slow one",
            1.0,
            100.0,
            change=Change.LIVE,
        ),
    )
}


def known(name: str, table: Mapping[str, Parameter] = PARAMETERS) -> Parameter:
    """The parameter of that name.

    Raises:
        ParameterError: there is none.
    """
    if name not in table:
        near = get_close_matches(name, table, 1)
        raise ParameterError(f"there is no parameter {name!r}; " + (f"is {near[0]!r} meant?" if near else f"there are: {', '.join(table)}"))
    return table[name]


def check_all(values: Mapping[str, Any], table: Mapping[str, Parameter] = PARAMETERS) -> dict[str, Value]:
    """Every parameter's value: the given ones checked, the others at their defaults.

    Raises:
        ParameterError: one is unknown or wrong.
    """
    for name in values:
        known(name, table)
    return {name: p.check(values.get(name, p.default)) for name, p in table.items()}
