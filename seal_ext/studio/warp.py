"""A copy of a picture, turned, mirrored, scaled and bent, of which it is known where every point came from."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from seal_ext.core.mask import Box

PEGS = 4  # a side, of the grid by which the picture is bent
ROOM = 0.25  # of the subject's box, by which that grid reaches beyond it


@dataclass(frozen=True)
class Warp:
    """About the middle of the subject's box: first mirrored, then turned and scaled, then bent by a thin plate."""

    mirror: bool = False
    degrees: float = 0.0
    scale: float = 1.0
    bend: float = 0.0  # how far the plate's pegs move, in box sizes
    seed: int = 0

    def origin(self, points: np.ndarray, box: Box) -> np.ndarray:
        """Where in the picture the points (n, 2) of the copy came from; x and y in pixels, a pixel's centre at one half."""
        points = np.asarray(points, float)
        centre = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
        angle = np.deg2rad(self.degrees)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / self.scale
        flat = (points - centre + self._bent(points, box)) @ turn.T
        return flat * (-1 if self.mirror else 1, 1) + centre

    def _bent(self, points: np.ndarray, box: Box) -> np.ndarray:
        if not self.bend:
            return np.zeros_like(points)
        size = np.array([box.width, box.height])
        low, high = np.array([box.x0, box.y0]) - ROOM * size, np.array([box.x1, box.y1]) + ROOM * size
        pegs = np.stack(np.meshgrid(*(np.linspace(a, b, PEGS) for a, b in zip(low, high, strict=True))), -1).reshape(-1, 2)
        moves = np.random.default_rng(self.seed).uniform(-1, 1, pegs.shape) * self.bend * size.min()
        return thin_plate(pegs, moves, points)

    def __call__(self, picture: np.ndarray, box: Box, smooth: bool = True) -> np.ndarray:
        """The copy, at the picture's size; beyond its border the picture goes on as it ends."""
        height, width = picture.shape[:2]
        centres = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
        x, y = np.moveaxis(self.origin(centres.reshape(-1, 2), box).reshape(height, width, 2) - 0.5, -1, 0).astype(np.float32)
        return cv2.remap(picture, x, y, cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)


def thin_plate(pegs: np.ndarray, moves: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The smoothest sheet through the `moves` (n, 2) of the pegs (n, 2), at any points (m, 2)."""
    unit = np.abs(pegs - pegs.mean(0)).max() or 1.0
    pegs, points = (pegs - pegs.mean(0)) / unit, (points - pegs.mean(0)) / unit
    count = len(pegs)
    flat = np.concatenate([np.ones((count, 1)), pegs], 1)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count], system[:count, count:], system[count:, :count] = _bump(pegs, pegs), flat, flat.T
    weights = np.linalg.solve(system, np.concatenate([moves, np.zeros((3, 2))]))
    return _bump(points, pegs) @ weights[:count] + np.concatenate([np.ones((len(points), 1)), points], 1) @ weights[count:]


def _bump(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = ((a[:, None] - b[None]) ** 2).sum(-1)
    return 0.5 * squared * np.log(np.maximum(squared, 1e-12))  # r²·log r


# A pose change in miniature: what stands still, what is turned and scaled, what is mirrored.
USUAL = (
    Warp(degrees=12, scale=0.85, bend=0.08, seed=1),
    Warp(mirror=True, degrees=-8, scale=0.95, bend=0.08, seed=2),
    Warp(degrees=-25, scale=0.75, bend=0.05, seed=3),
)
