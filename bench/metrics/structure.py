"""Structure: does the figure stand where it should?"""

from __future__ import annotations

import torch
from torch import Tensor


def silhouette_iou(found: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of two masks (batch, height, width), one value a picture; two empty masks agree."""
    found, truth = found.bool(), truth.bool()
    both, either = (m.sum((1, 2)).float() for m in (found & truth, found | truth))
    return (both + (either == 0)) / either.clamp(min=1)


def part_overlap(found: Tensor, truth: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Pixels in both and in either map, (batch, part) each; sum over pictures, divide, and average for the mean IoU."""
    columns = [((found == part), (truth == part)) for part in range(parts)]
    both = torch.stack([(a & b).sum((1, 2)) for a, b in columns], 1)
    either = torch.stack([(a | b).sum((1, 2)) for a, b in columns], 1)
    return both.float(), either.float()


def mean_iou(both: Tensor, either: Tensor) -> Tensor:
    """Mean over the parts that occur of pooled IoU; the pictures are the dimension before the last."""
    both, either = both.sum(-2), either.sum(-2)
    occurs = either > 0
    return (both / either.clamp(min=1) * occurs).sum(-1) / occurs.sum(-1).clamp(min=1)
