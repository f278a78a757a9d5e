"""Which self-attention layers are infused, and how strongly."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Protocol

GRIDS = (1, 2, 4, 8)  # how many cells of the latent a token is wide


class Layer(Protocol):
    """What a layer is known by."""

    @property
    def part(self) -> str: ...

    @property
    def index(self) -> int: ...

    @property
    def grid(self) -> int: ...


@dataclass(frozen=True)
class Term:
    """Layers of a part of the U-Net: those on a grid, or some by their numbers."""

    part: str
    weight: float = 1.0
    grid: int | None = None  # every grid
    first: float = 0
    last: float = math.inf

    def names(self, layer: Layer) -> bool:
        return self.part == layer.part and self.grid in (None, layer.grid) and self.first <= layer.index <= self.last


@dataclass(frozen=True)
class Blocks:
    """Layers by what they are: their part of the U-Net and their grid beside the latent's, so that the same words mean the same in every
    U-Net; or by their number in the part, counted as the U-Net runs them. The paper infuses the middle and `up`."""

    terms: tuple[Term, ...]  # a later one has the last word

    @classmethod
    def parse(cls, text: str) -> Blocks:
        """From `mid up`, `up@1/2 up@1/1:0.8` or `mid up.0-3:0.5 up.4-`: part, grid or numbers, weight; what is not named is left alone."""
        terms: list[Term] = []
        for word in re.split(r"[\s,]+", text.strip().lower()):
            read = re.fullmatch(r"(down|mid|up)(?:@1/(\d)|\.(\d{1,3})(?:(-)(\d{1,3})?)?)?(?::(\d+(?:\.\d*)?|\.\d+))?", word)
            if read is None:
                raise ValueError(f'{word!r} is not a block; write "mid", "up", "up@1/2", "up.3", "up.0-3:0.5" or "up.4-"')
            part, grid, first, dash, last, weight = read.groups()
            low = float(first or 0)
            high = math.inf if first is None or (dash and not last) else float(last or first)
            if low > high or float(weight or 1) > 2:
                raise ValueError(f"{word!r} must name its lower layer first, and a weight of at most 2")
            if grid is not None and int(grid) not in GRIDS:
                raise ValueError(f"{word!r} must name the grid 1/1, 1/2, 1/4 or 1/8 of the latent's")
            terms.append(Term(part, float(weight or 1), None if grid is None else int(grid), low, high))
        return cls(tuple(terms))

    def weight(self, layer: Layer) -> float:
        """How strongly this layer is infused, 0 when it is left alone."""
        return next((term.weight for term in reversed(self.terms) if term.names(layer)), 0.0)
