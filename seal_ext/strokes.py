"""Strokes that somebody paints over the preview: what they add to the character's outline, and what they take away."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from .core.control_map import WORK_PIXELS, within
from .core.pixels import AlignError, Mask

MOST_TEXT = 1 << 18
MOST_STROKES, MOST_POINTS = 500, 1 << 13  # the page's brush sets points apart: so many go 30 times across the picture
FURTHEST = 4.0  # shares of the picture's sides: nobody paints beyond that
UNREADABLE = "is no list of strokes."


@dataclass(frozen=True, eq=False)
class Strokes:
    """Where somebody painted, on a picture of known shape. Of two strokes over one place the later one counts."""

    add: Mask
    away: Mask


def strokes_on(size: tuple[int, int], given: object) -> Strokes | None:
    """From the page's text, for a picture of this size (height, width): `[{"away": false, "radius": 0.03, "points": [[0.5, 0.4], …]}, …]`.

    Points are in shares of width and height, a radius is a share of the longer side. On a large picture they are painted at reduced size,
    which is fine enough for a rough stroke. AlignError says what follows the name in a sentence.
    """
    if given is None or given == "":
        return None
    if not isinstance(given, str) or len(given) > MOST_TEXT:
        raise AlignError(UNREADABLE if not isinstance(given, str) else f"is longer than {MOST_TEXT >> 10} kilobytes.")
    try:
        strokes = json.loads(given)
    except (ValueError, RecursionError):
        raise AlignError(UNREADABLE) from None
    if not isinstance(strokes, list) or not all(isinstance(stroke, Mapping) for stroke in strokes):
        raise AlignError(UNREADABLE)
    lines = [_points(stroke.get("points")) for stroke in strokes]
    if len(strokes) > MOST_STROKES or sum(map(len, lines)) > MOST_POINTS:
        raise AlignError("has too many strokes.")
    height, width = size = within(size, WORK_PIXELS)
    painted = np.zeros(size, np.uint8)
    for stroke, line in zip(strokes, lines, strict=True):
        wide = max(1, round(2 * _number(stroke.get("radius"), 0.5) * max(height, width)))
        places = np.round(line[[*range(len(line)), -1]] * (width, height) - 0.5).astype(np.int32)  # a click is a line to itself
        cv2.polylines(painted, [places], False, 2 if stroke.get("away") is True else 1, wide)
    return Strokes(painted == 1, painted == 2) if strokes else None


def _points(given: Any) -> np.ndarray:
    if not isinstance(given, list) or not given or not all(isinstance(point, list) and len(point) == 2 for point in given):
        raise AlignError(UNREADABLE)
    return np.array([[_number(share, FURTHEST, -FURTHEST) for share in point] for point in given])


def _number(given: Any, most: float, least: float = 0.0) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not least <= given <= most:
        raise AlignError(UNREADABLE)
    return float(given)
