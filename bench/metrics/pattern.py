"""Pattern: how far the texture of a picture's parts is from the true one, whatever their mean colours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .colour import lab
from .window import local_mean, shifts

SLACK = 1
WINDOW = 13
# Pixels down and right: four directions, as far as a pattern's period reaches.
LAGS = [(0, 0), *((y * r // 10, x * r // 10) for r in (4, 8, 12, 20) for y, x in ((0, 10), (10, 0), (7, 7), (7, -7)))]


def _textures(image: Tensor, masks: Tensor) -> Tensor:
    """L*a*b* less the mean of each part, and 0 outside all parts."""
    colour = lab(image)
    area = masks.sum((2, 3)).clamp(min=1)
    means = torch.einsum("bphw,bchw->bpc", masks, colour) / area[..., None]
    return (colour - torch.einsum("bpc,bphw->bchw", means, masks)) * masks.sum(1, keepdim=True)


def _part_masks(region: Tensor) -> Tensor:
    """One mask a part (batch, part, height, width) less its outline, where two parts mix; region 0 is the background."""
    count = max(int(region.max()), 1)
    masks = F.one_hot(region.long(), count + 1).permute(0, 3, 1, 2)[:, 1:].float()
    return 1 - F.max_pool2d(1 - masks, 3, 1, 1)


def _moved(image: Tensor, y: int, x: int) -> Tensor:
    """The picture's value `y` down and `x` to the right of each pixel, 0 beyond the frame."""
    return F.pad(image, (max(-x, 0), max(x, 0), 0, y))[..., y:, max(x, 0) : max(x, 0) + image.shape[-1]]


def _self_similarity(texture: Tensor, masks: Tensor) -> Tensor:
    """Colour covariance of every part with itself at every lag, (batch, part, numbers): orientation, period and colours without phase."""
    columns = []
    for y, x in LAGS:
        joint = masks * _moved(masks, y, x)
        product = texture[:, :, None] * _moved(texture, y, x)[:, None]
        columns.append(torch.einsum("bphw,bijhw->bpij", joint, product).flatten(2) / joint.sum((2, 3)).clamp(min=16)[..., None])
    return torch.cat(columns, 2)


def _agreement(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """1 for equal, 0 for unrelated or missing: twice the product over the sum of squares, parts weighted."""
    product = (one * other).sum(2) * weight
    squares = (one.square() + other.square()).sum(2) * weight
    return (2 * product.sum(1) / squares.sum(1).clamp(min=1e-6)).clamp(0, 1)


def pattern_error(image: Tensor, truth: Tensor, region: Tensor) -> Tensor:
    """0 for the true texture, ½ for one that is right but displaced, 1 for none or an unrelated one; one value a picture.

    `region` (batch, height, width) numbers the truth's parts. A flat picture, whatever its colours, scores exactly 1.
    """
    masks = _part_masks(region)
    drawn, right = _textures(image, masks), _textures(truth, masks)
    inside = masks.sum(1)
    aligned = torch.full_like(inside, -float("inf"))
    for moved in shifts(right, SLACK):
        aligned = torch.maximum(aligned, local_mean((drawn * moved).sum(1), inside, WINDOW))
    energy = (drawn.square().sum(1) + right.square().sum(1)).sum((1, 2))
    placed = (2 * (aligned * inside).sum((1, 2)) / energy.clamp(min=1e-6)).clamp(0, 1)
    alike = _agreement(_self_similarity(drawn, masks), _self_similarity(right, masks), masks.sum((2, 3)))
    return 1 - (placed + alike) / 2
