"""Which ControlNet units are aligned: `all`, `all but 1`, or their numbers such as `0 2`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MOST = 64  # ControlNet offers far fewer
NO_CONTROLNET = "No ControlNet is installed here, so SeAl works from the prompt alone. For poses install sd-webui-controlnet."


@dataclass(frozen=True)
class Units:
    """Numbers of units, or all units except these. `all but` includes units that are added later."""

    numbers: frozenset[int] = frozenset()
    but: bool = True

    def wants(self, number: int) -> bool:
        return (number in self.numbers) != self.but

    @classmethod
    def parse(cls, text: str) -> Units:
        words = text.replace(",", " ").lower().split()
        but = words[:1] == ["all"]
        if words == ["all"]:
            return cls()
        numbers = words[2:] if words[:2] == ["all", "but"] else words
        if not numbers or not all(word.isascii() and word.isdecimal() and len(word) < 3 and int(word) < MOST for word in numbers):
            raise ValueError('write "all", "all but 1", or the units\' numbers such as "0 2"')
        return cls(frozenset(map(int, numbers)), but)

    def ticked(self, shown: Iterable[int], ticks: Iterable[int]) -> Units:
        """With the ticks that somebody set on the units shown; all others stay as they were."""
        left = {number for number in shown if number not in set(ticks)}
        others = {number for number in range(MOST) if not self.wants(number)} - set(shown) if self.but else set()
        return Units(frozenset(left | others))

    def __str__(self) -> str:
        listed = " ".join(map(str, sorted(self.numbers)))
        return listed if not self.but else f"all but {listed}" if self.numbers else "all"


def is_ready(unit: Any) -> bool:
    """Whether a unit's picture is the map already, without a preprocessor; the two ControlNets spell that differently."""
    return str(unit.module).lower() == "none"
