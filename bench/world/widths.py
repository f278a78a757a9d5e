"""How wide what is drawn on a character is, measured on pictures: a marking of one latent cell cannot survive a grid of such cells."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from .raster import rasterise
from .render import CHUNK, body
from .scene import sample_subjects
from .texture import MARKING, Look

CELL = 8  # pixels of a latent cell
WIDE = 2 * CELL
FINER = 2  # as pictures are rendered: two samples a pixel
LEAST = 32  # pixels: of less than so many nobody could say what they are
DRAWN_WHOLE = ("emblem",)  # a sign is as wide as its outline, however thin its strokes


@dataclass(frozen=True)
class Widths:
    """One entry for everything that is drawn on the characters of some pictures: its name in MARKING, and its width in pixels."""

    name: list[str]
    width: np.ndarray

    def share(self, *names: str) -> float:
        """How much of it (of what has one of the names) spans two latent cells or more."""
        chosen = self.width[[not names or name in names for name in self.name]]
        return float((chosen >= WIDE).mean())


def measure_widths(seeds: torch.Tensor, size: int = 128) -> Widths:
    """Of single pictures from these seeds, at their usual scale."""
    subjects = sample_subjects(seeds)
    names, widths = [], []
    for rows in torch.arange(len(seeds)).split(CHUNK):
        who, parts = subjects.identities[rows], body(subjects.identities[rows], subjects.poses[rows])
        look = Look(who, parts, rasterise(parts, size * FINER, size * FINER))
        for name, where in look.markings().items():
            for picture in look.picture(where.to(torch.uint8)).numpy():
                if picture.sum() >= LEAST * FINER**2:
                    names.append(name)
                    widths.append(width_of(picture, name in DRAWN_WHOLE) / FINER)
    return Widths(names, np.array(widths))


def width_of(mask: np.ndarray, whole: bool) -> float:
    """In samples: of a sign the shorter side of its box; else half of the area lies in pieces of at least this width.

    A piece is as wide as the largest disc inside it.
    """
    if whole:
        return float(min(np.ptp(axis) + 1 for axis in mask.nonzero()))
    count, piece, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    disc = np.array([2 * depth[piece == i].max() - 1 for i in range(1, count)])
    area = stats[1:, cv2.CC_STAT_AREA]
    order = np.argsort(-disc)
    reached = area[order].cumsum() >= area.sum() / 2
    return float(disc[order][reached.argmax()])


def table(widths: Widths) -> str:
    """Quartiles of every kind of marking, in latent cells, and the share that spans two or more."""
    lines = [f"{'':18}{'count':>6}{'lower':>8}{'median':>8}{'upper':>8}{'two cells':>11}"]
    for names in (*((name,) for name in MARKING if name in widths.name), MARKING):
        chosen = widths.width[[name in names for name in widths.name]] / CELL
        low, middle, high = np.quantile(chosen, (0.25, 0.5, 0.75))
        label = names[0] if len(names) == 1 else "all"
        lines.append(f"{label:18}{len(chosen):6}{low:8.2f}{middle:8.2f}{high:8.2f}{widths.share(*names):11.2f}")
    return "\n".join(lines)
