"""How well the judge reads pictures whose facts are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.metrics.structure import part_overlap
from bench.world.anatomy import REGION
from bench.world.truth import ATTRIBUTE, Fact

from .reading import Reading


@dataclass(frozen=True)
class Marks:
    """One row a picture, so that intervals over pictures can be drawn."""

    right: Tensor  # (batch, attribute): judgeable and read right; columns as in ATTRIBUTE
    asked: Tensor  # (batch, attribute): judgeable
    both: Tensor  # (batch, part): pixels where reading and truth agree on the part
    either: Tensor

    def by_attribute(self) -> dict[str, float]:
        shares = self.right.sum(0) / self.asked.sum(0).clamp(min=1)
        return dict(zip(ATTRIBUTE, shares.tolist(), strict=True))


def mark(reading: Reading, facts: dict[str, Fact], region: Tensor) -> Marks:
    """Compare a reading with the truth. Only the judge's single best answer counts; of two equally right ones either will do."""
    value, judgeable, also = (torch.stack(column, 1) for column in zip(*(facts[name] for name in ATTRIBUTE), strict=True))
    said = torch.stack([reading.attributes[name] for name in ATTRIBUTE], 1)
    right = judgeable & ((said == value) | (said == also))
    return Marks(right.float(), judgeable.float(), *part_overlap(reading.region, region, len(REGION)))
