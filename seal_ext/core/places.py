"""Which tokens of the picture may take from the reference: only those look for a match."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 0.9  # of the tokens: where more may take, telling them apart costs more than it saves


@dataclass(frozen=True, eq=False)
class Places:
    """The numbers of the tokens that may take, and of all others."""

    asking: Tensor
    others: Tensor

    @property
    def tokens(self) -> int:
        """Of the whole picture."""
        return len(self.asking) + len(self.others)

    @classmethod
    def of(cls, open_: Tensor) -> Places | None:
        """From booleans (tokens,); None where it is not worth telling them apart."""
        if open_.float().mean() > MOST:
            return None
        if not open_.any():  # a figure that is nowhere: one token asks, and what it may take is nothing
            open_ = torch.arange(len(open_), device=open_.device) == 0
        return cls(open_.nonzero()[:, 0], (~open_).nonzero()[:, 0])


def asking(x: Tensor, places: Places | None, dim: int = 2) -> Tensor:
    """Of those that may take."""
    return x if places is None else x.index_select(dim, places.asking)


def beside(seen: Tensor, others: Tensor, places: Places, dim: int = 2) -> Tensor:
    """Those that may take and all others in one tensor again."""
    shape = list(seen.shape)
    shape[dim] += others.shape[dim]
    whole = seen.new_empty(shape)
    return whole.index_copy_(dim, places.asking, seen).index_copy_(dim, places.others, others)
