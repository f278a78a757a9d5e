"""A photo's subject from a coarse map of where it is, made exact by GrabCut."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .control_map import Grow, reduced
from .mask import Subject, subject_of
from .pixels import AlignError, Mask, Pixels, as_rgb, checked_image

PIXELS = 1 << 17  # GrabCut's time grows with every pixel, and the box hardly changes


def from_probability(image: object, heat: object) -> Subject:
    """A photo's subject from a coarse map of where it is (cross-attention on its words), made exact by GrabCut."""
    rgb = as_rgb(checked_image(image, "the photo"))
    heat = np.asarray(heat)
    if heat.ndim != 2 or heat.size == 0 or heat.dtype.kind not in "fiub" or not np.isfinite(heat).all():
        raise AlignError("The map of where the subject is must be rows and columns of finite numbers.")
    small, grow = reduced(rgb, PIXELS)
    heat = cv2.resize(heat.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    mean, spread = float(heat.mean()), float(heat.std())
    if spread < 1e-6 * max(1.0, abs(mean)):
        raise AlignError("Attention finds no clear place for the subject.")
    likely = heat > mean + 0.5 * spread
    labels = np.where(likely, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[heat > mean + 2 * spread] = cv2.GC_FGD
    labels[heat < mean - 0.5 * spread] = cv2.GC_BGD
    return _grabcut(small, labels, likely, grow, "attention")


def _grabcut(rgb: Pixels, labels: NDArray[np.uint8], coarse: Mask, grow: Grow, source: str) -> Subject:
    """GrabCut from labels; where it fails or runs away, the coarse mask with a reason."""
    cv2.setRNGSeed(0)  # its k-means draws from cv2's generator: the same photo must give the same mask
    refined: Mask = coarse
    reasons: tuple[str, ...] = ()
    if (labels & 1).any() and not (labels & 1).all():
        cv2.grabCut(rgb, labels, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
        refined = cv2.medianBlur((labels & 1).astype(np.uint8), 5).astype(bool)
    if not 0.2 < refined.sum() / max(1, coarse.sum()) < 3 or refined is coarse:
        refined = coarse
        reasons = ("SeAl cannot tell the subject's outline from the background, so it uses a rough one.",)
    return subject_of(grow(refined), source, reasons=reasons)
