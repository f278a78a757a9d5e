"""A subject from a network that tells people from what is behind them: looked at twice, its doubts settled by colours and edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from .background import not_reached
from .control_map import reduced
from .grabcut import sharpened
from .mask import DOUBT, Subject, around, as_guess, main_body, overlap, subject_of
from .pixels import AlignError, Mask, Pixels, as_rgb, checked_image

PIXELS = 1 << 18
ROOM, CLOSE = 0.15, 0.85  # room round a body for the second look, and the share of the picture from which on there is none
SEEN, FEWEST = 0.002, 1 / 3  # a look that sees less of the picture sees nobody; so many looks must see somebody
SPOTS, CLEAR = 6, 0.6  # so many places are looked at closely where nobody is seen, and how far from 0.5 the chances there must be

Looks = NDArray[np.float32]  # (look, height, width): how likely each pixel is the subject's, from 0 to 1
Segmenter = Callable[[Pixels], Looks]  # from RGB bytes


def segmented(image: object, segmenter: Segmenter, source: str) -> Subject:
    """The subject as a segmenter sees it; AlignError where it sees nobody, or somebody in several places."""
    rgb = as_rgb(checked_image(image, "the reference"))
    small, grow = reduced(rgb, PIXELS)
    seen, looks = _first_look(small, segmenter)
    crop = around(seen, ROOM)
    if seen[crop].size < CLOSE * seen.size:
        closer = _within(small, crop, segmenter)
        looks = closer if (closer.mean(0) > 0.5).any() else looks
    found = main_body(sharpened(small, looks.mean(0)))
    agreed = float(np.mean([overlap(look > 0.5, found) for look in looks]))
    subject = subject_of(grow(found), source)
    return replace(subject, sure=agreed) if agreed > DOUBT else as_guess(subject, agreed)


def _first_look(image: Pixels, segmenter: Segmenter) -> tuple[Mask, Looks]:
    """The body and the looks that see it: on the whole picture, or at the place in which a tiny figure shows most clearly."""
    looks = _seeing(segmenter(image))
    try:
        return main_body(looks.mean(0) > 0.5), looks
    except AlignError:
        looks = max((_within(image, spot, segmenter) for spot in _spots(image)), key=_clear, default=looks)
        if _clear(looks) < CLEAR:
            raise AlignError("The segmenter sees nobody.") from None
        return main_body(looks.mean(0) > 0.5), looks


def _within(image: Pixels, crop: tuple[slice, slice], segmenter: Segmenter) -> Looks:
    """Looks at a part of the picture, as looks at all of it."""
    looks = _seeing(segmenter(np.ascontiguousarray(image[crop])))
    whole = np.zeros((len(looks), *image.shape[:2]), np.float32)
    whole[(slice(None), *crop)] = looks
    return whole


def _seeing(looks: Looks) -> Looks:
    """Those that see somebody, where these are not a few only."""
    seeing = looks[(looks > 0.5).mean((1, 2)) > SEEN]
    return seeing if len(seeing) > FEWEST * len(looks) else np.zeros_like(looks[:1])


def _clear(looks: Looks) -> float:
    """How far the chances are from a half, where there are any."""
    chances = looks.mean(0)
    return float(np.abs(2 * chances - 1)[chances > 0.2].mean()) if (chances > 0.5).any() else 0.0


def _spots(image: Pixels) -> list[tuple[slice, slice]]:
    """The surroundings of what an edge separates from the frame, largest first: a tiny figure is one of them."""
    apart = cv2.morphologyEx(not_reached(image).astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    stats = cv2.connectedComponentsWithStats(apart, connectivity=8)[2][1:]
    spots, size = [], len(image) / len(apart)
    for left, top, width, height, _ in stats[np.argsort(-stats[:, cv2.CC_STAT_AREA])[:SPOTS]]:
        x, y, reach = (left + width / 2) * size, (top + height / 2) * size, 1.1 * size * max(width, height)
        spots.append((slice(max(0, round(y - reach)), round(y + reach) + 1), slice(max(0, round(x - reach)), round(x + reach) + 1)))
    return spots
