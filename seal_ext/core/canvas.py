"""The sampler's canvas: a picture in any of the usual forms, whole and in its middle, and the limbs of a body where they lie on it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .limbs import Body
from .skeleton import Skeleton


def as_tensor(image: object) -> Tensor:
    """A picture in any of the usual forms as (channels, height, width) in [0, 1]."""
    if not isinstance(image, Tensor):
        array = np.asarray(image)
        array = array[..., None] if array.ndim == 2 else array
        array = array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)
        image = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
    picture: Tensor = image.float()
    return picture[None] if picture.ndim == 2 else picture[:3]


def body_on(skeleton: Skeleton, size: tuple[int, int], height: int, width: int) -> Body | None:
    """The limbs of a picture of this size (height, width) where `fit` puts it, in shares of the canvas."""
    scale = min(height / size[0], width / size[1])
    shift = ((1 - size[1] * scale / width) / 2, (1 - size[0] * scale / height) / 2)
    return Body.of(skeleton.moved((scale / width, scale / height), shift))


def fit(image: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The whole picture in the middle of a canvas (1, channels, height, width), its border repeated; and where it lies."""
    tall, wide = image.shape[-2:]
    scale = min(height / tall, width / wide)
    size = (max(1, round(tall * scale)), max(1, round(wide * scale)))
    if size != (tall, wide):
        shrinks = scale < 1
        image = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=shrinks)[0]
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[top : top + size[0], left : left + size[1]] = True
    canvas = F.pad(image[None], (left, width - size[1] - left, top, height - size[0] - top), mode="replicate")
    return canvas.clamp(0, 1), inside
