"""Leak: how much of the reference's background came along with its subject."""

from __future__ import annotations

from torch import Tensor

from .colour import delta_e, lab, masked_mean


def background_leaked(read: Tensor, wanted: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Which pictures show the reference's place instead of the prompt's, and in which that could be told: where the two differ."""
    differ = wanted != reference
    return (read == reference) & differ, differ


def background_distance(image: Tensor, reference_background: Tensor, subject: Tensor) -> Tensor:
    """Mean ΔE to the reference's empty background outside the subject (batch, height, width), one value a picture."""
    return masked_mean(delta_e(lab(image), lab(reference_background)), ~subject.bool())
