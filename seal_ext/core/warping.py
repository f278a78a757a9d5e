"""The aligned map: a structure image drawn again where AnchorAlign put it, so that it stays what it was — lines thin, colours pure."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .canvas import place, whole_size
from .control_map import LINES, background_of
from .geometry import Alignment
from .pixels import AlignError, as_bytes, checked_image
from .redrawing import redrawn
from .skeleton import Skeleton

MANY = 200  # colours; with fewer each has a meaning of its own
ROUNDS = 12  # of thinning, for lines up to about twice as wide


def apply(
    structure: np.ndarray, found: Alignment, kind: str | None = None, detail: float = 1.0, bodies: Sequence[Skeleton] = ()
) -> np.ndarray:
    """The aligned map at the canvas's size, which every resize mode leaves as it is; `detail` times larger for a later, larger pass.

    `bodies`: whose joints were read on the structure.
    """
    image = checked_image(structure, "the structure image")
    if image.shape[1::-1] != found.structure_size:
        raise AlignError("The structure image has another size than the one that was aligned.")
    if not (isinstance(detail, (int, float)) and 0.01 <= detail <= 16):
        raise AlignError("The detail must be a number from 0.01 to 16.")
    size = whole_size([max(1, round(n * detail)) for n in found.canvas], "aligned map")
    matrix, fill = found.matrix * detail, background_of(image, kind)
    if size == found.structure_size and np.allclose(matrix, np.eye(2, 3), atol=1e-3):
        return structure.copy()
    colours = _colours(image)
    if (bodies or kind == "skeleton") and image.dtype == np.uint8 and image.shape[2] == 3 and not fill.any() and not _only_shifts(matrix):
        thicker = min(place(found.structure_size, found.canvas, found.mode).scale) * detail
        drawn = redrawn(image, bodies, matrix, size, thicker, colours < MANY)
        if drawn is not None:
            return drawn
    if 2 < colours < MANY:  # a skeleton or a segmentation: each colour has a meaning, so none may mix; ControlNet counts alike
        warped = _warp(image, matrix, size, cv2.INTER_NEAREST)
    elif colours == 2:
        warped = _warp_two_tone(image, matrix, size, fill, thin=kind in LINES or _is_thin(image, fill))
    else:
        warped = _warp(image, matrix, size, cv2.INTER_CUBIC if min(matrix[0, 0], matrix[1, 1]) > 1 else cv2.INTER_LINEAR)
    result = np.empty((*size[::-1], image.shape[2]), image.dtype)
    result[:] = fill
    (x0, y0), (x1, y1) = (np.round(matrix @ (x, y, 1)).astype(int).clip(0, size) for x, y in ((0, 0), found.structure_size))
    result[y0:y1, x0:x1] = warped[y0:y1, x0:x1]
    return result[..., 0] if structure.ndim == 2 else result


def _only_shifts(matrix: np.ndarray) -> bool:
    """Whether every pixel stays a pixel."""
    return bool(np.allclose(matrix[:, :2], np.eye(2), atol=1e-6) and np.allclose(matrix[:, 2] % 1, 0, atol=1e-6))


def _colours(image: np.ndarray) -> int:
    seen = np.zeros(1 << 24, bool)
    levels = as_bytes(image)[..., :3].astype(np.int32)
    seen[levels @ np.array([65536, 256, 1][-levels.shape[2] :], np.int32)] = True
    return int(seen.sum())


def _warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """`matrix` counts from pixel corners. What shrinks is averaged first; beyond the image its border goes on."""
    height, width = image.shape[:2]
    image = image.astype(np.float32) if image.dtype != np.uint8 else image
    if interpolation != cv2.INTER_NEAREST and min(matrix[0, 0], matrix[1, 1]) < 1:
        new = tuple(max(1, round(n * min(1.0, k))) for n, k in ((width, matrix[0, 0]), (height, matrix[1, 1])))
        image = cv2.resize(image, new, interpolation=cv2.INTER_AREA)
        matrix = matrix * np.array([width / new[0], height / new[1], 1.0])
    centred = matrix.copy()
    centred[:, 2] += 0.5 * (matrix[:, 0] + matrix[:, 1] - 1)  # cv2 counts from pixel centres
    warped = cv2.warpAffine(image, centred, size, flags=interpolation, borderMode=cv2.BORDER_REPLICATE)
    warped = warped if warped.dtype == np.uint8 else warped.clip(0, 1)
    return warped.reshape(*size[::-1], -1)


def _is_thin(image: np.ndarray, fill: np.ndarray) -> bool:
    ink = (image != fill).any(2).astype(np.uint8)
    return bool(2 * cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)).sum() < ink.sum())


def _warp_two_tone(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: np.ndarray, thin: bool) -> np.ndarray:
    """Two colours stay two. Lines stay one pixel thin however much they grow, and unbroken however much they shrink."""
    ink = (image != fill).any(2)
    colour = image[ink][0] if ink.any() else fill
    cover = _warp(ink.astype(np.float32), matrix, size, cv2.INTER_LINEAR)[..., 0]
    drawn = cover > (0.4 * min(1.0, matrix[0, 0], matrix[1, 1]) if thin else 0.5)
    return np.where((_thinned(drawn) if thin else drawn)[..., None], colour, fill).astype(image.dtype)


def _thinned(mask: np.ndarray) -> np.ndarray:
    """Zhang and Suen's thinning: peels off border pixels that no line needs to stay connected."""
    padded = np.pad(mask, 1)
    around = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
    for step in range(2 * ROUNDS):
        y, x = np.nonzero(padded)
        ring = np.stack([padded[y + dy, x + dx] for dy, dx in around])
        north, east, south, west = ring[::2]
        crossings = (~ring & np.roll(ring, -1, 0)).sum(0)
        free = ~(north & east & south) & ~(east & south & west) if step % 2 == 0 else ~(north & east & west) & ~(north & south & west)
        peeled = (crossings == 1) & (ring.sum(0) >= 2) & (ring.sum(0) <= 6) & free
        padded[y[peeled], x[peeled]] = False
        if step % 2 and not peeled.any():
            break
    return padded[1:-1, 1:-1]
