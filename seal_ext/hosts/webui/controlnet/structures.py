"""What ControlNet's units said of a generation: one value, answered once and never changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from seal_ext.core.pixels import Mask, Pixels
from seal_ext.core.skeleton import Skeleton


@dataclass(frozen=True, eq=False)
class Structures:
    aligned: tuple[Pixels, ...] = ()  # the maps that were moved, for whoever wants to see them
    figures: tuple[Mask, ...] = ()  # where the maps' figures are, on the canvas
    joints: Skeleton | None = None  # a pose's, in shares of the canvas
    poses: Mapping[int, Skeleton] = field(default_factory=dict)  # the joints of references, by their numbers and in their own pixels
    units: tuple[Any, ...] = ()  # the user's enabled units, as ControlNet has them
    bridge_refused: str = ""  # why Delta-Bridge cannot work beside something the user switched on
    restore: Callable[[], None] = lambda: None  # gives the user's own units back to the generation
