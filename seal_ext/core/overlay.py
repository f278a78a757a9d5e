"""A subject's mask drawn on its picture, for somebody to check."""

from __future__ import annotations

import cv2
import numpy as np

from .pixels import Mask, Pixels

REFERENCE = (38, 166, 91)  # the colour of what belongs to the reference
SHOWN = 512  # pixels of the shorter side, so that lines look like lines


def enlarged(picture: Pixels, smooth: bool = False) -> tuple[Pixels, float]:
    """At a size to look at, and how many times larger it is."""
    factor = max(1.0, SHOWN / min(picture.shape[:2]))
    how = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
    return (picture if factor == 1 else cv2.resize(picture, None, fx=factor, fy=factor, interpolation=how)), factor


def mask_overlay(picture: Pixels, mask: Mask) -> Pixels:
    """The picture where the mask is, faded elsewhere, with the mask's outline."""
    large, _ = enlarged(picture, smooth=True)
    inside = cv2.resize(mask.astype(np.float32), large.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    faded = (large.mean(2, keepdims=True) * 0.35 + 150).astype(np.uint8)
    shown = np.where(inside[..., None], large, faded)
    outline, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn: Pixels = cv2.drawContours(np.ascontiguousarray(shown), outline, -1, REFERENCE, max(2, min(large.shape[:2]) // 200), cv2.LINE_AA)
    return drawn
