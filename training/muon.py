"""The Muon optimizer, in single precision where the CPU would have to imitate bfloat16: PyTorch's own computes in it everywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor


@cache
def has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16, twice as fast as in single precision."""
    return bool(torch.cpu._is_avx512_bf16_supported())


class Muon(torch.optim.Optimizer):
    """Momentum whose every update is made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

    Args:
        matrices: weights of two dimensions.
        lr: root mean square of an update's entries, as with Adam, times 5 (Liu et al. 2025, arXiv 2502.16982).
        momentum: Nesterov momentum.
        weight_decay: times ``lr``, at each step.
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(list(matrices), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, _closure: None = None) -> None:
        """Update all matrices; those of one shape together."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for weights in group["params"]:
                alike[tuple(weights.shape)].append(weights)
            for (rows, columns), matrices in alike.items():
                scale = 0.2 * max(rows, columns) ** 0.5 * group["lr"]
                for weights, update in zip(
                    matrices, orthogonal(torch.stack([self._moved(weights, group["momentum"]) for weights in matrices])), strict=True
                ):
                    weights.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=scale)

    def _moved(self, weights: Tensor, momentum: float) -> Tensor:
        """The gradient with Nesterov momentum."""
        gradient = weights.grad
        assert gradient is not None
        state = self.state[weights]
        if not state:
            state["mean"] = torch.zeros_like(weights)
        mean: Tensor = state["mean"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly orthogonal matrices of the same singular vectors, by five Newton-Schulz steps; shape (count, rows, columns)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if has_bfloat16():
        x = x.bfloat16()
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.mT if tall else x).float()
