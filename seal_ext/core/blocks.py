"""Which self-attention layers are infused, and how strongly."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Blocks:
    """Layers by their part of the U-Net and their number in it, counted as the U-Net runs them; the paper infuses the middle and `up`."""

    terms: tuple[tuple[str, float, float, float], ...]  # part, first, last, weight; a later term has the last word

    @classmethod
    def parse(cls, text: str) -> Blocks:
        """From `mid up`, `up:0.8` or `mid up.0-3:0.5 up.4-`: part, layers, weight; what is not named is left alone."""
        terms: list[tuple[str, float, float, float]] = []
        for word in re.split(r"[\s,]+", text.strip().lower()):
            read = re.fullmatch(r"(down|mid|up)(?:\.(\d{1,3})(?:(-)(\d{1,3})?)?)?(?::(\d+(?:\.\d*)?|\.\d+))?", word)
            if read is None:
                raise ValueError(f'{word!r} is not a block; write "mid", "up", "up.3", "up.0-3:0.5" or "up.4-"')
            part, first, dash, last, weight = read.groups()
            low = float(first or 0)
            high = math.inf if first is None or (dash and not last) else float(last or first)
            if low > high or float(weight or 1) > 2:
                raise ValueError(f"{word!r} must name its lower layer first, and a weight of at most 2")
            terms.append((part, low, high, float(weight or 1)))
        return cls(tuple(terms))

    def weight(self, part: str, index: int) -> float:
        """How strongly this layer is infused, 0 when it is left alone."""
        return next((w for name, first, last, w in reversed(self.terms) if name == part and first <= index <= last), 0.0)
