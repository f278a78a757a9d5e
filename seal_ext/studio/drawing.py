"""Pictures that explain: boxes on a structure, where prompts disagree, and figures over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

import cv2
import numpy as np

from seal_ext.core.geometry import Alignment
from seal_ext.core.overlay import REFERENCE, enlarged

CHART = (640, 160)  # pixels of a curve's width and height
BEFORE, AFTER = (150, 150, 150), (240, 130, 30)  # grey, orange


def boxes_overlay(structure: np.ndarray, reference: np.ndarray, found: Alignment) -> np.ndarray:
    """The aligned structure upon the faded reference: the reference's box, and the structure's before (grey) and after."""
    if reference.shape[:2] != structure.shape[:2]:
        reference = cv2.resize(reference, structure.shape[1::-1], interpolation=cv2.INTER_AREA)
    back, factor = enlarged(reference, smooth=True)
    lines, _ = enlarged(structure)
    lines = lines if lines.ndim == 3 else np.repeat(lines[..., None], 3, 2)
    shown = back * 0.3 + 30
    ink = np.abs(lines.astype(np.int16) - np.median(lines.reshape(-1, 3), 0).astype(np.int16)).max(2, keepdims=True) > 24
    canvas = np.ascontiguousarray(np.where(ink, lines, shown).astype(np.uint8))
    edge = max(2, min(canvas.shape[:2]) // 200)
    for box, colour in ((found.structure_box, BEFORE), (found.reference_box, REFERENCE), (found.aligned_box, AFTER)):
        x0, y0, x1, y1 = (int(np.clip(round(v * factor), -1 << 14, 1 << 14)) for v in astuple(box))
        cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, edge, cv2.LINE_AA)
    return canvas


def disagreement_map(picture: np.ndarray, disagreement: np.ndarray) -> np.ndarray:
    """The picture in grey, glowing where prompt and reference prompt disagree and infusion yields."""
    heat = cv2.resize(disagreement, picture.shape[1::-1], interpolation=cv2.INTER_CUBIC).astype(np.float32)[..., None] / 255
    grey = picture.mean(2, keepdims=True) * 0.55 + 20
    return (grey * (1 - 0.8 * heat) + np.array(AFTER) * 0.8 * heat).round().clip(0, 255).astype(np.uint8)


def curves(figures: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Every figure over the steps below its name, from the least value to the largest: single steps in grey, and their running mean."""
    width, height = CHART
    shown = []
    for name, values in figures.items():
        chart = np.full((height, width, 3), 255, np.uint8)
        row = np.asarray(values, float)
        smooth = np.convolve(np.pad(row, len(row) // 20, "edge"), np.full(len(row) // 20 * 2 + 1, 1 / (len(row) // 20 * 2 + 1)), "valid")
        low, high = float(row.min()), float(row.max())
        x = np.linspace(8, width - 8, len(row))
        for line, colour in ((row, BEFORE), (smooth, AFTER)):
            y = height - 10 - (line - low) / max(high - low, 1e-12) * (height - 40)
            cv2.polylines(chart, [np.stack([x, y], 1).round().astype(np.int32)], False, colour, 1, cv2.LINE_AA)
        text = f"{name}: {low:.4g} to {high:.4g}, last {smooth[-1]:.4g}"
        cv2.putText(chart, text, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
        shown.append(chart)
    return np.concatenate(shown)
