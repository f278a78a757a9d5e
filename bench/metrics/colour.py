"""Colour differences as an eye would put them: CIELAB and its distance ΔE (1976)."""

from __future__ import annotations

import torch
from torch import Tensor

# Linear sRGB to XYZ relative to the white point D65, so that white is (1, 1, 1).
_XYZ = torch.tensor([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
_TO_XYZ = _XYZ / _XYZ.sum(1, keepdim=True)
_EDGE = 6 / 29


def lab(image: Tensor) -> Tensor:
    """sRGB (…, 3, height, width) in [0, 1] → L*, a*, b*."""
    image = image.clamp(0, 1)
    linear = torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("ij,...jhw->...ihw", _TO_XYZ.to(linear), linear)
    f = torch.where(xyz > _EDGE**3, xyz.clamp(min=1e-9) ** (1 / 3), xyz / (3 * _EDGE**2) + 4 / 29)
    x, y, z = f.unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -3)


def delta_e(one: Tensor, other: Tensor) -> Tensor:
    """ΔE of two L*a*b* images at every pixel."""
    return (one - other).norm(dim=-3)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of every picture (…, height, width) over its mask; 0 where a mask is empty."""
    mask = mask.to(values)
    return (values * mask).sum((-2, -1)) / mask.sum((-2, -1)).clamp(min=1e-6)
