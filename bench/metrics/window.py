"""Pose slack: a limb that stands a pixel or two aside is not a wrong limb."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor


def shifts(image: Tensor, reach: int) -> Iterator[Tensor]:
    """The pictures (batch, channel, height, width) moved by every whole-pixel step of at most `reach`; borders repeat."""
    height, width = image.shape[-2:]
    padded = F.pad(image, (reach,) * 4, mode="replicate")
    for y in range(2 * reach + 1):
        for x in range(2 * reach + 1):
            yield padded[..., y : y + height, x : x + width]


def local_mean(values: Tensor, mask: Tensor, window: int) -> Tensor:
    """The mean over each pixel's square window of what lies in the mask: (batch, height, width)."""
    mask = mask.to(values)
    total, count = (F.avg_pool2d(v[:, None], window, 1, window // 2)[:, 0] for v in (values * mask, mask))
    return total / count.clamp(min=1e-6)
