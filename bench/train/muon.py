"""Muon: momentum whose every matrix is replaced by the nearest orthogonal one, so that weak directions learn as fast as strong ones.

A network this narrow, trained with so few pictures, spends most of its steps on directions that Adam hardly moves. The orthogonal factor
comes from a few steps of Newton and Schulz's iteration, which are plain products and run in bfloat16.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# An odd polynomial applied a few times: it drives singular values from 0 … 1 to about 1, the small ones fast.
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
LIKE_ADAM = 0.2  # the root mean square of an update, times the rate, as Adam's typically is: one rate then serves both


class Muon(torch.optim.Optimizer):
    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                kept = state.setdefault("momentum", torch.zeros_like(parameter))
                kept.lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(kept, group["momentum"]).flatten(1)
                alike[ahead.shape].append((parameter, ahead))
            for (rows, columns), members in alike.items():
                turned = orthogonal(torch.stack([ahead for _, ahead in members]))
                for (parameter, _), update in zip(members, turned, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    size = group["lr"] * LIKE_ADAM * max(rows, columns) ** 0.5
                    parameter.sub_(update.view(parameter.shape).to(parameter.dtype), alpha=size)


def orthogonal(matrices: Tensor) -> Tensor:
    """About the orthogonal factor of each (batch, rows, columns)."""
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        square = x @ x.transpose(1, 2)
        x = a * x + (b * square + c * square @ square) @ x
    return x.transpose(1, 2) if tall else x
