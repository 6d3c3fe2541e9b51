"""The model in PyTorch, as llama.cpp computes the ``llama`` architecture: RMS norm, rotary positions, SwiGLU, no biases."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from slice_ros.engines.llama.architectures import NORM_EPSILON, ModelShape


def rotations(positions: Tensor, shape: ModelShape) -> tuple[Tensor, Tensor]:
    """Cosine and sine for each position and pair of a head's dimensions, shape (batch, length, 1, head length / 2) each."""
    pairs = torch.arange(0, shape.head_length, 2) / shape.head_length
    angles = positions[:, :, None, None] * shape.rope_freq_base**-pairs
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions; the first halves of the pairs come before the second halves."""
    (cos, sin), (first, second) = turns, x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


EMBEDDING_DEVIATION = 0.5
"""Large beside one step of the optimizer; the wiring below would not outlive shorter embeddings."""
EMBEDDING_CONSTANT = 1.7
"""All embeddings begin with the same first entry, so that heads have something to look with that does not depend on the token."""
OUTPUT_SCALE = 0.4
"""The last norm's first weights: a state that points to a token's embedding makes this token likely, but not certain."""
WIRED = 4
"""Heads of a block that begin wired, for gaps of up to so many tokens."""
NOTE = 16
"""Dimensions of what such a head notes of a token."""


@torch.no_grad()
def _wire(first: Block, second: Block, third: Block, shape: ModelShape) -> None:
    """Begin with heads that repeat what stood behind earlier copies of the last tokens; to find them takes thousands of steps.

    Heads of the first block look one, two, ... tokens back and note what is there. Those of the second look for notes that equal their
    own token, and keep what stands there: the token that came one, two, ... places after an earlier copy of this one. Those of the third
    look none, one, ... tokens back, and say what is kept there for the place to come (induction heads, arXiv 2209.11895, with gaps).
    Notes and what is kept have dimensions of their own, which embeddings leave empty at first.
    """
    length, tokens = shape.head_length, slice(1, _embedded(shape))
    fast = shape.rope_freq_base ** (-torch.arange(0, 8, 2) / length)  # what turns by a large angle from token to token
    still = slice(length - NOTE, length)  # and what hardly does
    for gap in range(1, WIRED + 1):
        head = slice((gap - 1) * length, gap * length)
        note = slice(tokens.stop + (gap - 1) * NOTE, tokens.stop + gap * NOTE)
        kept = slice(note.start + WIRED * NOTE, note.stop + WIRED * NOTE)
        sketch, copy = (torch.linalg.qr(torch.randn(tokens.stop - 1, NOTE))[0].T for _ in range(2))
        for block, back, sharpness in ((first, gap, 6.0), (third, gap - 1, 12.0)):
            look = torch.zeros(2, length)
            look[0, 0:8:2], look[0, 1:8:2], look[1, 0:8:2] = (fast * back).cos(), -(fast * back).sin(), 1.0
            for weights, direction in zip((block.attn_q.weight, block.attn_k.weight), look, strict=True):
                weights[head] *= 0.05
                weights[head, 0] = direction * sharpness
        for block, reads, writes, into, scale in (
            (first, sketch, torch.eye(NOTE), note, 0.33),
            (second, copy, torch.eye(NOTE), kept, 0.33),
            (third, torch.eye(NOTE), copy.T, tokens, 0.5),
        ):
            block.attn_v.weight[head] = 0.0
            block.attn_output.weight[:, head] = 0.0
            block.attn_v.weight[head][:NOTE, kept if block is third else tokens] = reads
            block.attn_output.weight[into, head.start : head.start + NOTE] = writes * scale
        second.attn_q.weight[head] = 0.0
        second.attn_k.weight[head] = 0.0
        second.attn_q.weight[head][still, tokens] = sketch * 2.5
        second.attn_k.weight[head][still, note] = torch.eye(NOTE) * 2.5


def _embedded(shape: ModelShape) -> int:
    """Dimensions that embeddings use at first; the others are for what the wired heads note and keep."""
    return shape.embedding_length - 2 * WIRED * NOTE


class Block(nn.Module):
    """Attention and feed-forward; the parts are named as GGUF names them."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        wide, ff, narrow = shape.embedding_length, shape.feed_forward_length, shape.head_length * shape.head_count_kv
        self.attn_norm = nn.RMSNorm(wide, NORM_EPSILON)
        self.attn_q = nn.Linear(wide, wide, bias=False)
        self.attn_k = nn.Linear(wide, narrow, bias=False)
        self.attn_v = nn.Linear(wide, narrow, bias=False)
        self.attn_output = nn.Linear(wide, wide, bias=False)
        self.ffn_norm = nn.RMSNorm(wide, NORM_EPSILON)
        self.ffn_gate = nn.Linear(wide, ff, bias=False)
        self.ffn_up = nn.Linear(wide, ff, bias=False)
        self.ffn_down = nn.Linear(ff, wide, bias=False)
        self.head_length = shape.head_length
        self.kv_groups = shape.head_count // shape.head_count_kv

    @torch.no_grad()
    def initialise(self) -> None:
        """Heads begin by looking for tokens like their own and passing them on, which most answers need (cf. arXiv 2305.09828)."""
        for part in (self.attn_k, self.attn_v, self.ffn_gate, self.ffn_up):
            nn.init.normal_(part.weight, std=part.in_features**-0.5)
        heads = (-1, self.head_length)
        self.attn_q.weight.copy_(self.attn_k.weight.unflatten(0, heads).repeat_interleave(self.kv_groups, 0).flatten(0, 1))
        self.attn_output.weight.copy_(self.attn_v.weight.unflatten(0, heads).repeat_interleave(self.kv_groups, 0).flatten(0, 1).T * 0.3)
        nn.init.zeros_(self.ffn_down.weight)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        normed = self.attn_norm(x)
        q, k = (
            rotate(F.linear(normed, self._halves(part.weight)).unflatten(-1, (-1, self.head_length)), turns)
            for part in (self.attn_q, self.attn_k)
        )
        v = self.attn_v(normed).unflatten(-1, (-1, self.head_length))
        q, k, v = (part.transpose(1, 2).float() for part in (q, k, v))
        with torch.autocast("cpu", enabled=False):  # its gradient is slower in bfloat16
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=self.kv_groups > 1)
        x = x + self.attn_output(attended.transpose(1, 2).flatten(2))
        normed = self.ffn_norm(x)
        return x + cast(Tensor, self.ffn_down(F.silu(self.ffn_gate(normed)) * self.ffn_up(normed)))

    def _halves(self, weights: Tensor) -> Tensor:
        """The rows in the order of ``rotate``. They are kept in llama.cpp's, where the two of a pair are neighbours."""
        return weights.unflatten(0, (-1, self.head_length // 2, 2)).transpose(1, 2).flatten(0, 2)


class Network(nn.Module):
    """A stack of blocks between an embedding and its transpose."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab_size, shape.embedding_length)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.block_count))
        self.output_norm = nn.RMSNorm(shape.embedding_length, NORM_EPSILON)
        nn.init.constant_(self.output_norm.weight, OUTPUT_SCALE)
        nn.init.normal_(self.token_embd.weight, std=EMBEDDING_DEVIATION)
        nn.init.zeros_(self.token_embd.weight[:, _embedded(shape) :])
        nn.init.constant_(self.token_embd.weight[:, 0], EMBEDDING_CONSTANT)
        for block in self.blk:
            block.initialise()
        if shape.block_count > 2 and shape.head_count == shape.head_count_kv > WIRED:
            _wire(self.blk[0], self.blk[1], self.blk[2], shape)

    def forward(self, tokens: Tensor, examples: Tensor, positions: Tensor) -> Tensor:
        """What the last norm makes of each token, shape (batch, length, width).

        Args:
            tokens: shape (batch, length); several examples may share a row.
            examples: the example that each token belongs to; tokens see the earlier ones of their own.
            positions: each token's position in its example.
        """
        length = tokens.shape[1]
        mask = (examples[:, None, :, None] == examples[:, None, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
        turns = rotations(positions, self.shape)
        x = self.token_embd(tokens)
        for block in self.blk:
            x = block(x, turns, mask)
        return cast(Tensor, self.output_norm(x))

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.token_embd.weight)

    def last_logits(self, tokens: list[int]) -> Tensor:
        """Logits behind the last of some tokens."""
        row = torch.tensor([tokens])
        return self.logits(self(row, torch.zeros_like(row), torch.arange(len(tokens))[None]))[0, -1]
