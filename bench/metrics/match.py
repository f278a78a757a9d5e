"""Match: does a token of the picture find the reference token that shows the same point of the subject?"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def matched(index: Tensor, point: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Of every picture: how many subject tokens match within one token of the truth, and how many have a true match.

    `index` (batch, height × width) is the reference token that each token found, row by row; `point` and `visible` are
    `bench.world.truth.correspondence` at the token grid's own size.
    """
    height, width = visible.shape[1:]
    index = index.reshape(-1, height, width)
    x, y = point.floor().long().unbind(-1)
    near = ((index % width - x).abs() <= 1) & ((index // width - y).abs() <= 1)
    return (near & visible).sum((1, 2)).float(), visible.sum((1, 2)).float()


def chance(point: Tensor, visible: Tensor, reference: Tensor) -> Tensor:
    """The number of matches that blind choice among the reference's subject tokens (batch, height, width) would find, a picture."""
    height, width = visible.shape[1:]
    around = F.avg_pool2d(reference.float()[:, None], 3, 1, 1, divisor_override=1)[:, 0].flatten(1)
    x, y = point.floor().long().unbind(-1)
    place = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1)
    share = around.gather(1, place) / reference.flatten(1).sum(1, keepdim=True).clamp(min=1)
    return (share * visible.flatten(1)).sum(1)
