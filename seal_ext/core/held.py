"""A match that is made once and serves many: all layers that see the picture on one grid, and the steps until the picture has changed.

Neighbouring layers and steps find the same places, and the layer that comes first on a grid finds them best: later ones are about to draw
what is there, and know less of what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .matching import Match

ALIKE = 0.9  # the mean cosine of the picture's features then and now, below which the reference is looked through again


@dataclass(frozen=True)
class Found:
    """What tokens of the picture resemble of the reference's subject, and of what surrounds it."""

    matched: Match
    rival: Match | None = None


Query = Callable[[], Tensor]
Look = Callable[[Tensor], Found]


class HeldMatch:
    """Of one grid and the same rows: made by the layer that asks first, which from then on looks whether it still holds."""

    def __init__(self) -> None:
        self.leader = ""
        self.made = 0  # how many times the reference was looked through
        self._query: Tensor | None = None
        self._found: Found | None = None

    def find(self, layer: str, query: Query, look: Look) -> Found:
        """What is found for a layer, whose features `query` makes; `look` looks through the reference for those."""
        self.leader = self.leader or layer
        if self._found is None or layer == self.leader:
            now = query()
            if self._found is None or self._query is None or _drifted(self._query, now):
                self._query, self._found, self.made = now, look(now), self.made + 1
        return self._found


def _drifted(before: Tensor, now: Tensor) -> bool:
    """Features (rows, groups, tokens, width) of unit length."""
    return before.shape != now.shape or bool((before * now).sum(-1).mean() < ALIKE)
