"""The picture of an identity in a pose and a setting, with everything that is known about every pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from .anatomy import Parts, assemble
from .background import Settings, light_up, paint_background
from .batch import Batch
from .identity import Identities
from .pose import Poses
from .raster import rasterise
from .texture import shade

SUPERSAMPLE = 2
CHUNK = 8  # pictures rendered at once: larger chunks only leave the processor's cache


@dataclass(frozen=True)
class Picture(Batch):
    """`image` in [0, 1] and quantised to 8 bits as a file would be; `alpha` the subjects' coverage; `region` the visible part.

    `figure` says whose part that is: 1, or 2 for the second of two characters; 0 where there is none.
    """

    image: torch.Tensor  # (batch, 3, height, width)
    alpha: torch.Tensor  # (batch, height, width)
    region: torch.Tensor
    figure: torch.Tensor

    def of(self, figure: int) -> Picture:
        """The same picture as one of its characters is looked for in it: the parts of the other are not there."""
        return replace(self, region=torch.where(self.figure == figure, self.region, 0))


@dataclass(frozen=True)
class Camera(Batch):
    """An AnchorAlign transform of the frame: scale about the origin, then shift, both in frame heights."""

    scale: torch.Tensor
    shift: torch.Tensor

    def apply(self, parts: Parts) -> Parts:
        s, t = self.scale.double()[:, None], self.shift.double()[:, None]
        moved = {name: getattr(parts, name) * s[..., None] + t for name in ("a", "b", "keypoints")}
        return replace(parts, ra=parts.ra * s, rb=parts.rb * s, unit=parts.unit * s[:, 0], **moved)


Figures = list[tuple[Identities, Parts]]  # the characters of a picture; a later one stands before an earlier one


def body(identities: Identities, poses: Poses, camera: Camera | None = None) -> Parts:
    parts = assemble(identities, poses)
    return camera.apply(parts) if camera else parts


def quantise(image: torch.Tensor) -> torch.Tensor:
    return (image * 255).round().clamp(0, 255) / 255


def _compose(figures: Figures, settings: Settings, height: int, width: int) -> Picture:
    image = paint_background(settings, height, width)
    alpha, region = torch.zeros_like(image[:, :1]), torch.zeros_like(image[:, 0], dtype=torch.long)
    figure = torch.zeros_like(region)
    centre = slice(SUPERSAMPLE // 2, None, SUPERSAMPLE)
    for number, (identities, parts) in enumerate(figures, 1):
        surface = rasterise(parts, height * SUPERSAMPLE, width * SUPERSAMPLE)
        colour, parts_seen = shade(identities, parts, surface)
        shown = surface.slot >= 0
        cover = F.avg_pool2d(shown.float()[:, None], SUPERSAMPLE)
        image = F.avg_pool2d(colour, SUPERSAMPLE) + image * (1 - cover)
        alpha = cover + alpha * (1 - cover)
        shown = shown[:, centre, centre]
        region, figure = torch.where(shown, parts_seen[:, centre, centre], region), torch.where(shown, number, figure)
    return Picture(quantise(light_up(image, settings)), alpha[:, 0], region, figure)


def compose(figures: Figures, settings: Settings, size: int | tuple[int, int] = 128) -> Picture:
    """Characters in one place each, at any size (`size` or `(height, width)`; the frame is the left square of a wide picture)."""
    height, width = (size, size) if isinstance(size, int) else size
    chunk = len(settings) if settings.detail.is_cuda else CHUNK
    pieces = [slice(i, i + chunk) for i in range(0, len(settings), chunk)]
    return Picture.join(_compose([(who[s], parts[s]) for who, parts in figures], settings[s], height, width) for s in pieces)


def render(
    identities: Identities, poses: Poses, settings: Settings, size: int | tuple[int, int] = 128, camera: Camera | None = None
) -> Picture:
    """One character a picture."""
    return compose([(identities, body(identities, poses, camera))], settings, size)
