"""What could be reached at most: with the true correspondence in place of a match."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.drawing import Model
from bench.world.anatomy import Parts
from bench.world.render import Camera, body
from bench.world.truth import correspondence
from seal_ext.core.guide import Known
from seal_ext.core.limbs import Body
from seal_ext.core.pairs import centres, logarithms

from .tasks import Task, after

EXACT = 0.5  # how wide the true guide is, in cells


@dataclass(frozen=True)
class TrueGuide:
    """Stands in for a picture's joints: its guide is the truth, half a cell wide.

    Its weights sum to what an open guide's do. Otherwise a reference's share of the one softmax would fall with every token that the
    guide rules out, and the row would measure that.
    """

    reference: Parts
    picture: Parts

    def pair(self, reference: Body | None, grid: tuple[int, int], kept: Tensor) -> _Truth:
        truth = correspondence(self.reference, self.picture, *grid)
        return _Truth(truth.point.reshape(-1, 2).float(), truth.visible.flatten(), centres(grid)[kept.cpu()])


@dataclass(frozen=True, eq=False)
class _Truth:
    """Where each token of the picture truly is on the reference, in tokens."""

    point: Tensor
    visible: Tensor
    places: Tensor  # of the tokens that are kept
    limbs: int = 1

    def told(self, some: Tensor) -> Tensor:
        distance = torch.cdist(self.point[some], self.places) / EXACT
        return logarithms((-0.5 * distance.square()).exp(), self.visible[some])


def true_guides(task: Task, moved: Camera) -> list[Known]:
    picture = body(task.identities, task.poses, after(task.camera, moved))
    return [Known(TrueGuide(task.reference.parts[[row]], picture[[row]])) for row in range(len(task))]


def transported(model: Model, task: Task, moved: Camera) -> Tensor:
    """The truth's latents, and wherever the reference shows the same place of the character, the reference's."""
    truth, theirs = model.encode(task.truth(moved).image), model.encode(task.reference.picture.image)
    rows, columns = truth.shape[-2:]
    known = correspondence(task.reference.parts, body(task.identities, task.poses, after(task.camera, moved)), rows, columns)
    place = known.point.float() / torch.tensor([columns, rows]) * 2 - 1
    carried = F.grid_sample(theirs, place, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(known.visible[:, None], carried, truth)
