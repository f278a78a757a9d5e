"""A character before a plain background: what one cannot reach from the frame without crossing an edge."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .control_map import Grow, reduced
from .mask import Scattered, Subject, around, as_guess, filled, main_body, subject_of
from .pixels import AlignError, Mask, Pixels, as_rgb, checked_image

PIXELS = 1 << 14  # on which the background grows
FINE = 1 << 18  # on which its edge is found
SMALLEST = 8  # pixels a side
NOISIEST = 20  # levels of 255 of a background's noise
WAVERS = 10  # levels of 255 by which a background without noise may change from place to place
MOST_OF_FRAME = 0.85  # of the picture's left, upper and right edge: ground that covers more of them would count as the figure
MOST_OF_GROUND, PLAIN = 0.9, 0.6  # so much of a plain background is within this share of what it may waver by
ROOM, CLOSE = 0.3, 0.5  # room round a small figure for a second look, and the share of the picture from which on there is none
SEAM = 5  # pixels that a floor's edge may take on each side
FLOOR = 0.35  # of the picture's width: a floor's line is visible along more than this

Colours = NDArray[np.floating[Any]]  # (height, width, channels)


def before_background(rgb: object) -> Subject:
    """What stands before a plain, graded or noisy background; AlignError where the background is none of these."""
    image = as_rgb(checked_image(rgb, "the reference"))
    several, grow = _stands_out(image)
    try:
        seen = grow(main_body(several))
    except Scattered:  # a sheet with several views
        return as_guess(subject_of(grow(filled(several)), "background"), 0.5)
    crop = around(seen, ROOM)
    if seen[crop].size < CLOSE * seen.size:  # a small figure's outline is coarse until it is looked at by itself
        try:
            closer, (near, grow) = np.zeros_like(seen), _stands_out(np.ascontiguousarray(image[crop]))
            closer[crop] = grow(main_body(near))
            seen = closer if (closer & seen).sum() > 0.5 * seen.sum() else seen
        except AlignError:
            pass  # what was seen at first still stands
    return subject_of(seen, "background")


def _stands_out(image: Pixels) -> tuple[Mask, Grow]:
    """What differs from a plain background, at no more pixels than its edge needs, and the way back for a mask."""
    even, frame, wavers, behind = _reached(image)
    line = _floor(behind)
    above = np.arange(len(behind))[:, None] < (len(behind) if line is None else line)
    if line is not None:
        behind |= _grown(even, frame & ~behind & ~above, wavers) & ~above
        seam = np.abs(np.arange(len(behind))[:, None] - line) < 2 * SEAM
        behind |= seam & (cv2.morphologyEx(behind.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((2 * SEAM + 1, 1), np.uint8)) > 0)
    parts = [part for part in (behind & above, behind & ~above) if part.any()]
    off = np.concatenate([np.abs(even - _surface(even, part)).max(2)[part] for part in parts] or [np.full(1, np.inf)])
    if wavers > WAVERS + 3 * NOISIEST or behind[frame].mean() < MOST_OF_FRAME or (off < PLAIN * wavers).mean() < MOST_OF_GROUND:
        raise AlignError("The reference's background is not plain.")
    fine, grow = reduced(image, FINE)
    size = fine.shape[1::-1]
    paper = cv2.resize(_around(even, behind, SEAM)[0], size, interpolation=cv2.INTER_LINEAR)
    edge = cv2.morphologyEx((~behind).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
    at_edge, inside = (cv2.resize(one.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for one in (edge, ~behind))
    return np.where(at_edge, np.abs(fine - paper).max(2) > wavers, inside), grow


def not_reached(image: Pixels) -> Mask:
    """What an edge separates from the frame, whatever the background is like: a coarse hint."""
    return ~_reached(image)[-1]


def _reached(image: Pixels) -> tuple[Colours, Mask, float, Mask]:
    """The picture at a coarse size, its frame, how much its background wavers, and what is reached from the frame."""
    small, _ = reduced(image, PIXELS)
    if min(small.shape[:2]) < SMALLEST:
        raise AlignError("The picture is too small to tell its subject from its background.")
    even = cv2.medianBlur(small, 3).astype(np.float32)
    frame = _frame(even.shape[:2])
    noise = float(np.median(np.abs(small - cv2.blur(small.astype(np.float32), (5, 5))).max(2)[frame]))
    wavers = WAVERS + 3 * noise
    like = frame & (np.abs(even - _surface(even, frame)).max(2) < wavers)
    return even, frame, wavers, _grown(even, like, wavers)


def _frame(size: tuple[int, int]) -> Mask:
    """The picture's left, upper and right edge."""
    thick, frame = max(2, round(0.02 * max(size))), np.ones(size, bool)
    frame[thick:, thick:-thick] = False
    return frame


def _surface(image: Colours, where: Mask) -> Colours:
    """The gentle slope of colours that most of these places lie on: light that fades, a vignette."""
    y, x = (axis.astype(np.float32) for axis in np.mgrid[-1 : 1 : image.shape[0] * 1j, -1 : 1 : image.shape[1] * 1j])
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], -1)
    known, values = terms[where], image[where]
    weights = np.ones(len(known), np.float32)
    for _ in range(8):
        slope = np.linalg.lstsq(known * weights[:, None], values * weights[:, None], rcond=None)[0]
        weights = 1 / np.maximum(np.abs(known @ slope - values).max(1), 4)  # who lies far off counts little
    surface: Colours = terms @ slope
    return surface


def _around(image: Colours, where: Mask, reach: int) -> tuple[Colours, Mask]:
    """The mean colour of these places round every place, and where there are any within reach."""
    window, weight = (2 * reach + 1, 2 * reach + 1), where.astype(np.float32)
    near = cv2.blur(weight, window, borderType=cv2.BORDER_REPLICATE)
    mean = cv2.blur(image * weight[..., None], window, borderType=cv2.BORDER_REPLICATE) / np.maximum(near, 1e-6)[..., None]
    return mean, near > 1e-4


def _grown(image: Colours, start: Mask, wavers: float) -> Mask:
    """From these places on, step by step, to all that looks like what is already there. It leaks through no gap of two pixels."""
    grown, block, reach = start, np.ones((3, 3), np.uint8), max(image.shape[:2]) // 32 + 2
    while True:
        mean, near = _around(image, grown, reach)
        strange = (np.abs(image - mean).max(2) > wavers) | ~near
        free = cv2.dilate(strange.astype(np.uint8), block) == 0
        further = grown | (free & (cv2.dilate(grown.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0))
        if (further == grown).all():
            reached: Mask = grown | ((cv2.dilate(grown.astype(np.uint8), block) > 0) & ~strange)
            return reached
        grown = further


def _floor(behind: Mask) -> NDArray[np.float64] | None:
    """Where a floor begins: a straight line from the left edge to the right one, at which what was reached ends."""
    height, width = behind.shape
    tops = np.where(behind.all(0), height, (~behind).argmax(0))
    line = np.linspace(tops[1], tops[-2], width)
    level = tops[[1, -2]].min() > 0.3 * height and tops[[1, -2]].max() < height
    return line if level and (np.abs(tops - line) < 2 + 0.01 * height).mean() > FLOOR else None
