"""Which places of a picture the U-Net takes for one thing: how much its self-attention looks from each to the others.

Words find a character here and there, mostly its head. From there the whole of it is found: every place takes on what the places have
that it looks at, some times over.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .cross_attention import widened
from .matching import BUDGET, FLOAT, to_tokens, token_grid

ROUNDS = 5  # how often places take on what those have that they look at
COARSEST = 12  # tokens a side; coarser layers see the character and what is beside it as one


def looks(q: Tensor, k: Tensor) -> Tensor | None:
    """How much every token of the first row looks at every other, in all heads: (tokens, tokens); None where that is too large to keep.

    q, k: (rows, heads, tokens, dim).
    """
    tokens = q.shape[2]
    if tokens**2 * FLOAT > BUDGET:
        return None
    total = torch.zeros(tokens, tokens, device=q.device)
    for asks, answers in zip(q[0].float(), k[0].float(), strict=True):
        total += (asks @ answers.T * q.shape[-1] ** -0.5).softmax(-1)
    return total / q.shape[1]


class Groups:
    """What the layers of one look at a picture say, layers of one grid together; the picture's latent is height × width."""

    def __init__(self, latent: tuple[int, int]):
        self.latent = latent
        self.grids: dict[tuple[int, int], tuple[Tensor, int]] = {}  # grid → the sum of its layers, and how many they are

    def add(self, q: Tensor, k: Tensor) -> None:
        grid = token_grid(q.shape[2], *self.latent)
        if grid is None or min(grid) < COARSEST:
            return
        seen = looks(q, k)
        if seen is not None:
            total, count = self.grids.get(grid, (torch.zeros_like(seen), 0))
            self.grids[grid] = total + seen, count + 1

    def spread(self, heat: Tensor) -> Tensor:
        """A map on the latent's grid in which places that belong together have nearly the same; itself where no layer says anything."""
        layers = sum(count for _, count in self.grids.values())
        for _ in range(ROUNDS if layers else 0):
            taken = torch.zeros(self.latent)
            for grid, (total, _) in self.grids.items():
                tokens = to_tokens(heat[None], grid)[0].to(total.device)
                taken += widened((total @ tokens).reshape(grid).cpu(), self.latent)
            heat = taken / layers
        return heat
