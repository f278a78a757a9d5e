"""The picture of an identity in a pose and a setting, with everything that is known about every pixel."""

from __future__ import annotations

from dataclasses import dataclass

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
    """`image` in [0, 1] and quantised to 8 bits as a file would be; `alpha` the subject's coverage; `region` the visible part."""

    image: torch.Tensor  # (batch, 3, height, width)
    alpha: torch.Tensor  # (batch, height, width)
    region: torch.Tensor


@dataclass(frozen=True)
class Camera:
    """An AnchorAlign transform of the frame: scale about the origin, then shift, both in frame heights."""

    scale: torch.Tensor
    shift: torch.Tensor

    def apply(self, parts: Parts) -> Parts:
        from dataclasses import replace

        s, t = self.scale.double()[:, None], self.shift.double()[:, None]
        moved = {name: getattr(parts, name) * s[..., None] + t for name in ("a", "b", "keypoints")}
        return replace(parts, ra=parts.ra * s, rb=parts.rb * s, unit=parts.unit * s[:, 0], **moved)


def body(identities: Identities, poses: Poses, camera: Camera | None = None) -> Parts:
    parts = assemble(identities, poses)
    return camera.apply(parts) if camera else parts


def quantise(image: torch.Tensor) -> torch.Tensor:
    return (image * 255).round().clamp(0, 255) / 255


def _render(identities: Identities, parts: Parts, settings: Settings, height: int, width: int) -> Picture:
    surface = rasterise(parts, height * SUPERSAMPLE, width * SUPERSAMPLE)
    colour, region = shade(identities, parts, surface)
    cover = (surface.slot >= 0).float()[:, None]
    colour = F.avg_pool2d(colour * cover, SUPERSAMPLE)
    alpha = F.avg_pool2d(cover, SUPERSAMPLE)
    image = light_up(colour + paint_background(settings, height, width) * (1 - alpha), settings)
    half = SUPERSAMPLE // 2
    return Picture(quantise(image), alpha[:, 0], region[:, half::SUPERSAMPLE, half::SUPERSAMPLE])


def render(
    identities: Identities, poses: Poses, settings: Settings, size: int | tuple[int, int] = 128, camera: Camera | None = None
) -> Picture:
    """Render a batch at any size (`size` or `(height, width)`; the figure is placed in the left square of a wide frame)."""
    height, width = (size, size) if isinstance(size, int) else size
    parts = body(identities, poses, camera)
    chunk = len(identities) if parts.a.is_cuda else CHUNK
    pieces = [slice(i, i + chunk) for i in range(0, len(identities), chunk)]
    return Picture.join(_render(identities[s], parts[s], settings[s], height, width) for s in pieces)
