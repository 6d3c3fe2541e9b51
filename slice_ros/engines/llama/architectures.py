"""The shapes of public models: the numbers that decide their speed, and the tensors that follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import gguf

FULL_PRECISION = ("ssm_conv1d", "ssm_a", "ssm_d", "ssm_norm", "shortconv.conv.", "ffn_gate_inp")
"""Matrices that no quantised model quantises, by a part of their names; vectors are never quantised."""

NORM_EPSILON = 1e-5
ATTENTION_INTERVAL = 4
"""Of the blocks of Qwen3-Next, each so many-th attends."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers that decide a transformer's speed, named as in GGUF metadata.

    Args:
        architecture: ``llama``, ``qwen2``, ``chatglm`` or ``gemma3``, as llama.cpp names them.
        tied: the output matrix is the embedding matrix.
        rope_dimensions: of each head, how many are rotated; ``None`` is all.
        key_length: of a head; ``None`` shares the embedding length out among the heads.
        sliding_window: positions that all layers but each sixth look back on; 0 is all of them.
    """

    name: str
    architecture: str
    vocab_size: int
    embedding_length: int
    block_count: int
    head_count: int
    head_count_kv: int
    feed_forward_length: int
    context_length: int
    rope_freq_base: float = 10000.0
    tied: bool = False
    rope_dimensions: int | None = None
    key_length: int | None = None
    sliding_window: int = 0

    @property
    def head_length(self) -> int:
        return self.key_length or self.embedding_length // self.head_count

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of all tensors, rows first."""
        yield "token_embd.weight", (self.vocab_size, self.embedding_length)
        for i in range(self.block_count):
            yield from ((f"blk.{i}.{name}", dimensions) for name, dimensions in self.block(i))
        yield "output_norm.weight", (self.embedding_length,)
        if not self.tied:
            yield "output.weight", (self.vocab_size, self.embedding_length)

    def block(self, number: int) -> Iterator[tuple[str, tuple[int, ...]]]:  # noqa: ARG002
        """Those of one block, named within it."""
        wide = self.embedding_length
        yield "attn_norm.weight", (wide,)
        yield from self._attention()
        if self.architecture == "gemma3":
            yield "post_attention_norm.weight", (wide,)
        yield from self._feed_forward()
        if self.architecture == "gemma3":
            yield "post_ffw_norm.weight", (wide,)

    def _attention(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        wide, all_heads, narrow = self.embedding_length, self.head_length * self.head_count, self.head_length * self.head_count_kv
        if self.architecture == "chatglm":  # query, key and value in one matrix
            yield "attn_qkv.weight", (all_heads + 2 * narrow, wide)
            yield "attn_qkv.bias", (all_heads + 2 * narrow,)
        else:
            queries = 2 * all_heads if self.architecture == "qwen3next" else all_heads  # each with a gate
            for letter, rows in (("q", queries), ("k", narrow), ("v", narrow)):
                yield f"attn_{letter}.weight", (rows, wide)
                if self.architecture == "qwen2":
                    yield f"attn_{letter}.bias", (rows,)
        if self.architecture in ("gemma3", "lfm2", "qwen3next"):
            yield "attn_q_norm.weight", (self.head_length,)
            yield "attn_k_norm.weight", (self.head_length,)
        yield "attn_output.weight", (wide, all_heads)

    def _feed_forward(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        wide, ff = self.embedding_length, self.feed_forward_length
        yield "ffn_norm.weight", (wide,)
        if self.architecture == "chatglm":  # gate and up in one matrix
            yield "ffn_up.weight", (2 * ff, wide)
        else:
            yield "ffn_gate.weight", (ff, wide)
            yield "ffn_up.weight", (ff, wide)
        yield "ffn_down.weight", (wide, ff)

    def describe(self, writer: gguf.GGUFWriter) -> None:
        """Write the numbers as metadata."""
        writer.add_vocab_size(self.vocab_size)
        writer.add_context_length(self.context_length)
        writer.add_embedding_length(self.embedding_length)
        writer.add_block_count(self.block_count)
        writer.add_feed_forward_length(self.feed_forward_length)
        writer.add_head_count(self.head_count)
        writer.add_layer_norm_rms_eps(NORM_EPSILON)
        if self.head_count:
            writer.add_head_count_kv(self.kv_heads())
            writer.add_rope_freq_base(self.rope_freq_base)
            writer.add_rope_dimension_count(self.rope_dimensions or self.head_length)
        if self.key_length:
            writer.add_key_length(self.key_length)
            writer.add_value_length(self.key_length)
        if self.sliding_window:
            writer.add_sliding_window(self.sliding_window)

    def kv_heads(self) -> int | list[int]:
        """Heads of keys and values, where they differ in each block."""
        return self.head_count_kv


@dataclass(frozen=True, slots=True)
class RecurrentShape(ModelShape):
    """A model most of whose blocks remember one state for a sequence, and not a cell for each token.

    Args:
        architecture: ``mamba2``, ``lfm2`` (short convolutions), ``granitehybrid`` (Mamba 2 with attention, without rotations) or
            ``falcon-h1`` (all blocks do both, one beside the other).
        attention: the blocks that attend.
        conv: tokens that a convolution sees.
        inner, state, state_heads: width of a Mamba 2 block, numbers of its state for each of these, and heads; 0 without.
    """

    attention: tuple[int, ...] = ()
    conv: int = 4
    inner: int = 0
    state: int = 0
    state_heads: int = 0

    def block(self, number: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "attn_norm.weight", (self.embedding_length,)
        attends = number in self.attention
        if attends:
            yield from self._attention()
        if self.state and (not attends or self.architecture == "falcon-h1"):
            yield from self._mamba()
        elif not attends:
            wide = self.embedding_length
            yield "shortconv.conv.weight", (wide, self.conv)
            yield "shortconv.in_proj.weight", (3 * wide, wide)
            yield "shortconv.out_proj.weight", (wide, wide)
        if self.feed_forward_length:
            yield from self._feed_forward()

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for name, dimensions in ModelShape.tensors(self):
            if (self.architecture, name) == ("lfm2", "output_norm.weight"):
                yield "token_embd_norm.weight", dimensions
            elif self.architecture == "falcon-h1" and name.endswith("ffn_norm.weight"):
                yield name.removesuffix(".weight"), dimensions
            else:
                yield name, dimensions

    def _mamba(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        wide, mixed, heads = self.embedding_length, self.inner + 2 * self.state, self.state_heads
        yield "ssm_in.weight", (self.inner + mixed + heads, wide)
        yield "ssm_conv1d.weight", (mixed, self.conv)
        yield "ssm_conv1d.bias", (mixed,)
        yield "ssm_dt.bias", (heads,)
        yield "ssm_a", (heads, 1)
        yield "ssm_d", (heads, 1)
        if self.architecture != "falcon-h1":
            yield "ssm_norm.weight", (1, self.inner)
        yield "ssm_out.weight", (wide, self.inner)

    def describe(self, writer: gguf.GGUFWriter) -> None:
        ModelShape.describe(self, writer)
        if not self.state:
            writer.add_shortconv_l_cache(self.conv)
            return
        writer.add_ssm_conv_kernel(self.conv)
        writer.add_ssm_inner_size(self.inner)
        writer.add_ssm_state_size(self.state)
        writer.add_ssm_time_step_rank(self.state_heads)
        writer.add_ssm_group_count(1)
        if self.architecture == "granitehybrid":
            writer.add_rope_scaling_finetuned(False)
            writer.add_embedding_scale(12.0)
            writer.add_residual_scale(0.246)
            writer.add_attention_scale(1 / self.head_length)
            writer.add_logit_scale(3.0)

    def kv_heads(self) -> int | list[int]:
        return [self.head_count_kv if i in self.attention else 0 for i in range(self.block_count)]


@dataclass(frozen=True, slots=True)
class DeltaNetShape(ModelShape):
    """A mixture of experts each fourth block of which attends; the others keep a state by the gated delta rule.

    Args:
        architecture: ``qwen3next``.
        feed_forward_length: of a model without experts; decides nothing here.
        conv, state: tokens that a convolution sees, and width of a head of the state.
        state_key_heads, state_heads: heads of the state's keys, and of its values.
        experts, used_experts: in each block, and of these for a token; one more is shared by all tokens.
        expert_length: feed forward length of each.
    """

    conv: int = 4
    state: int = 128
    state_key_heads: int = 16
    state_heads: int = 32
    experts: int = 512
    used_experts: int = 10
    expert_length: int = 512

    def block(self, number: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        wide, length = self.embedding_length, self.expert_length
        yield "attn_norm.weight", (wide,)
        yield from self._attention() if number % ATTENTION_INTERVAL == ATTENTION_INTERVAL - 1 else self._delta_net()
        yield "post_attention_norm.weight", (wide,)
        yield "ffn_gate_inp.weight", (self.experts, wide)
        yield "ffn_gate_inp_shexp.weight", (wide,)
        for part, dimensions in (("gate", (length, wide)), ("up", (length, wide)), ("down", (wide, length))):
            yield f"ffn_{part}_exps.weight", (self.experts, *dimensions)
            yield f"ffn_{part}_shexp.weight", dimensions

    def _delta_net(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        wide, values = self.embedding_length, self.state * self.state_heads
        mixed = values + 2 * self.state * self.state_key_heads
        yield "attn_qkv.weight", (mixed, wide)
        yield "attn_gate.weight", (values, wide)
        yield "ssm_conv1d.weight", (mixed, self.conv)
        yield "ssm_dt.bias", (self.state_heads,)
        yield "ssm_a", (self.state_heads,)
        yield "ssm_ba.weight", (2 * self.state_heads, wide)
        yield "ssm_norm.weight", (self.state,)
        yield "ssm_out.weight", (wide, values)

    def describe(self, writer: gguf.GGUFWriter) -> None:
        ModelShape.describe(self, writer)
        writer.add_full_attention_interval(ATTENTION_INTERVAL)
        writer.add_ssm_conv_kernel(self.conv)
        writer.add_ssm_inner_size(self.state * self.state_heads)
        writer.add_ssm_state_size(self.state)
        writer.add_ssm_time_step_rank(self.state_heads)
        writer.add_ssm_group_count(self.state_key_heads)
        writer.add_expert_count(self.experts)
        writer.add_expert_used_count(self.used_experts)
        writer.add_expert_feed_forward_length(self.expert_length)
        writer.add_expert_shared_feed_forward_length(self.expert_length)


SHAPES = {
    shape.name: shape
    for shape in (
        ModelShape("smollm2-135m", "llama", 49152, 576, 30, 9, 3, 1536, 8192, 1e5, tied=True),
        ModelShape("qwen2.5-0.5b", "qwen2", 151936, 896, 24, 14, 2, 4864, 32768, 1e6, tied=True),
        ModelShape("llama-3.2-1b", "llama", 128256, 2048, 16, 32, 8, 8192, 131072, 5e5, tied=True),
        ModelShape("chatglm2-6b", "chatglm", 65024, 4096, 28, 32, 2, 13696, 32768, rope_dimensions=64),
        ModelShape("llama-3.1-8b", "llama", 128256, 4096, 32, 32, 8, 14336, 131072, 5e5),
        ModelShape("gemma-3-270m", "gemma3", 262144, 640, 18, 4, 1, 2048, 32768, 1e6, tied=True, key_length=256, sliding_window=512),
        RecurrentShape("mamba2-130m", "mamba2", 50288, 768, 24, 0, 0, 0, 2**20, tied=True, inner=1536, state=128, state_heads=24),
        RecurrentShape(
            "lfm2-350m", "lfm2", 65536, 1024, 16, 16, 8, 4608, 128000, 1e6, tied=True, attention=(2, 5, 8, 10, 12, 14), conv=3
        ),
        RecurrentShape(
            "granite-4.0-h-350m", "granitehybrid", 100352, 768, 32, 12, 4, 2048, 32768, tied=True,
            attention=(10, 13, 17, 27), inner=1536, state=128, state_heads=48,
        ),
        RecurrentShape(
            "falcon-h1-0.5b", "falcon-h1", 32784, 1024, 36, 8, 2, 2048, 16384, 1e11, key_length=64,
            attention=tuple(range(36)), inner=1536, state=128, state_heads=24,
        ),
        DeltaNetShape("qwen3-next-80b-a3b", "qwen3next", 151936, 2048, 48, 16, 2, 5120, 262144, 1e7, rope_dimensions=64, key_length=256),
    )
}  # fmt: skip
"""Public models by name; the shapes are those of their published configuration files."""


def is_quantized(name: str, dimensions: tuple[int, ...]) -> bool:
    """Whether a quantised model has this tensor in its quantised type, and not as F32."""
    return len(dimensions) > 1 and not any(part in name for part in FULL_PRECISION)
