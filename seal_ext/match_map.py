"""The match map: a picture of what a run found in the reference, and where."""

from __future__ import annotations

import numpy as np
import torch

from .core.matching import Match, subject_tokens, token_grid
from .layers import Site
from .reference import Reference
from .run import CONDITIONAL, Step

PAPER = 96  # grey level of what was not taken from the reference


class MatchWatch:
    """Remembers what the finest layer found in the reference at the last step."""

    def __init__(self) -> None:
        self.index: torch.Tensor | None = None
        self.amount: torch.Tensor | None = None
        self.images: list[int] = []

    def __call__(self, step: Step, site: Site, match: Match, amount: torch.Tensor) -> None:
        tokens = amount.shape[-1]
        if self.index is not None and tokens < self.index.shape[-1]:
            return
        taking = [row for row, weight in zip(step.rows, step.weights, strict=True) if weight]
        rows = [i for i, row in enumerate(taking) if row.kind == CONDITIONAL]
        self.index, self.amount = match.index[rows, 0, :, 0], amount[rows].mean(1)
        self.images = [taking[i].image for i in rows]

    def maps(self, reference: Reference, height: int, width: int) -> list[np.ndarray]:
        """What every image of this size found in the reference, as `match_map` draws it; nothing where nobody looked."""
        if self.index is None or self.amount is None:
            return []
        seen, mask, _ = reference.on_canvas(height, width)
        found = dict(zip(self.images, zip(self.index, self.amount, strict=True), strict=True))
        return [match_map(seen[0], mask, *found[image]) for image in sorted(found)]


def match_map(reference: torch.Tensor, mask: torch.Tensor | None, index: torch.Tensor, amount: torch.Tensor) -> np.ndarray:
    """What each place found in the reference: its patch of the reference, fading to grey the less of it was taken.

    reference: (3, height, width) in [0, 1], as the U-Net saw it. index, amount: (tokens,) of the finest layer; `index` counts
    the reference's tokens that the mask left.
    """
    height, width = reference.shape[-2:]
    grid = token_grid(len(index), height // 8, width // 8)
    if grid is None:
        return np.full((height, width, 3), PAPER, np.uint8)
    kept = torch.arange(grid[0] * grid[1]) if mask is None else subject_tokens(mask[None].float(), grid)[0].cpu().nonzero()[:, 0]
    source = kept[index.cpu().clamp(max=len(kept) - 1)]
    tall, wide = height // grid[0], width // grid[1]
    patches = reference[:, : tall * grid[0], : wide * grid[1]].cpu().reshape(3, grid[0], tall, grid[1], wide)
    patches = patches.permute(1, 3, 2, 4, 0).flatten(0, 1)  # (tokens, tall, wide, 3)
    share = amount.cpu().float().clamp(0, 1)[:, None, None, None]
    shown = (patches[source] * share + PAPER / 255 * (1 - share)).unflatten(0, grid)
    return (shown.permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1, 2) * 255).round().byte().numpy()
