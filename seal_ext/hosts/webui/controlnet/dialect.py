"""How ControlNet's units are read and made: the extension has one way, and the ControlNet built into Forge another."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from seal_ext.core.pixels import Pixels

from . import builtin, extension


class Dialect(Protocol):
    """What both modules say of their units."""

    MODULE: str  # if it is loaded, this ControlNet is there
    BATCHWISE: tuple[str, ...]  # words in the names of units beside which SeAl cannot add rows

    def own(self, given: Any) -> Any:
        """A unit of ControlNet's own class, whatever the API sent; never the user's object."""

    def picture(self, unit: Any) -> Pixels | None:
        """What the unit shows, RGB."""

    def resize_mode(self, value: Any) -> str: ...

    def preprocessed(self, unit: Any, rgb: Pixels, canvas: tuple[int, int], mode: str) -> Any:
        """What the unit's preprocessor makes of a picture."""

    def ready(self, unit: Any, image: Pixels) -> Any:
        """The unit with a map that is made already and fits the canvas."""

    def told(self, unit: Any) -> str:
        """The unit as an infotext has it."""


DIALECTS: tuple[Dialect, ...] = (extension, builtin)


def spoken() -> Dialect | None:
    """Of the ControlNet that is there; None for one that is neither the extension's nor Forge's."""
    return next((one for one in DIALECTS if one.MODULE in sys.modules), None)
