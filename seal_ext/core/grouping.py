"""Which places of a picture the U-Net takes for one thing: how much its self-attention looks from each to the others.

Words find a character here and there, mostly its head. From there the whole of it is found: every place takes on what the places have
that it looks at, some times over. What lies behind the character is found the same way, from the picture's edges, and the two compete.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .cross_attention import widened
from .matching import BUDGET, FLOAT, to_tokens, token_grid

ROUNDS = 8  # how often places take on what those have that they look at
PEAK = 0.5  # deviations above the mean from which on a place counts that words see
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

    def apart(self, heat: Tensor, inside: Tensor) -> Tensor:
        """How much more each place belongs to what is hot than to the edges of what is inside, from 0 to 1; maps (height, width) both.

        The lower edge is left out: it cuts half figures. The same as came where no layer says anything.
        """
        mean, deviation = heat[inside].mean(), heat[inside].std()
        hot = (heat - mean - PEAK * deviation).clamp(min=0) * inside
        if not self.grids or not hot.any():
            return heat
        ours, theirs = (self.spread(seeds / seeds.sum()) for seeds in (hot, _edges(inside)))
        return ours / (ours + theirs).clamp(min=torch.finfo(ours.dtype).tiny)

    def spread(self, heat: Tensor) -> Tensor:
        """A map in which places that belong together have nearly the same."""
        layers = sum(count for _, count in self.grids.values())
        for _ in range(ROUNDS):
            taken = torch.zeros(self.latent)
            for grid, (total, _) in self.grids.items():
                tokens = to_tokens(heat[None], grid)[0].to(total.device)
                taken += widened((total @ tokens).reshape(grid).cpu(), self.latent)
            heat = taken / layers
        return heat


def _edges(inside: Tensor) -> Tensor:
    """The outermost places on the left, above and on the right."""
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    edges = torch.zeros(inside.shape)
    edges[rows[0], columns] = 1.0
    edges[rows[0] : rows[-1] + 1, columns[[0, -1]]] = 1.0
    return edges
