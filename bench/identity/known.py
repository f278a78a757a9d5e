"""What is known of a reference beside its picture, and where AnchorAlign puts the structure by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bench.drawing import Model
from bench.world.render import Camera
from seal_ext.core.anchor_align import Aligned, anchor_align
from seal_ext.core.skeleton import Skeleton
from seal_ext.reference import Reference
from seal_ext.settings import Settings

from .tasks import Task

FOUND, DETECTED, GIVEN = "found", "detected", "given"
KNOWN = (FOUND, DETECTED, GIVEN)
UNMOVED = "unmoved"  # where the structure stands when nothing is aligned
JITTER, MISSING = 0.03, 0.15  # how a detector of joints errs: shares of the figure's extent, and of the joints


@dataclass(frozen=True)
class Placed:
    """References with what is known of them, and the structures on them: each with its figure and joints, its map and its move."""

    references: list[Reference]
    structures: list[Aligned]

    @property
    def hints(self) -> Tensor:
        """The maps (images, 3, height, width) in [0, 1]."""
        maps = [torch.from_numpy(np.ascontiguousarray(structure.map)) for structure in self.structures]
        return torch.stack(maps).permute(0, 3, 1, 2).float() / 255

    @property
    def figure(self) -> Tensor:
        """Where the pictures' figures will be, (images, height, width); anywhere, if a map does not tell."""
        height, width = self.structures[0].map.shape[:2]
        maps = [np.ones((height, width)) if structure.figure is None else structure.figure for structure in self.structures]
        return torch.stack([torch.from_numpy(figure) for figure in maps]).float()

    @property
    def masks(self) -> Tensor:
        """Where the references' characters are, as far as that is known: (images, height, width)."""
        return torch.stack([torch.from_numpy(reference.seen.mask) for reference in self.references])

    @property
    def moved(self) -> Camera:
        """By what camera the truth follows."""
        matrices = [np.asarray(structure.alignment.matrix) for structure in self.structures]
        height = self.structures[0].map.shape[0]
        shifts = [[float(by) / height for by in matrix[:, 2]] for matrix in matrices]
        return Camera(torch.tensor([float(matrix[0, 0]) for matrix in matrices]), torch.tensor(shifts))


def placed(task: Task, stands: str, settings: Settings, model: Model | None = None) -> Placed:
    """The structures as a user with this knowledge gets them aligned; the drawing itself knows everything where nothing moves."""
    if stands == UNMOVED:
        return on_references(references_of(task, GIVEN), task.structure(), replace(settings, align=False))
    return on_references(references_of(task, stands, model), task.structure(), settings)


def on_references(references: Sequence[Reference], hints: Tensor, settings: Settings, kind: str | None = None) -> Placed:
    size = hints.shape[-1], hints.shape[-2]
    # An empty map is no structure at all, as where no unit is on: there is nothing to align.
    subjects = [reference.standing if settings.align and hint.any() else None for reference, hint in zip(references, hints, strict=True)]
    structures = [anchor_align(subject, as_map(hint), size, kind=kind, room=settings.room, **settings.alignment())
                  for subject, hint in zip(subjects, hints, strict=True)]  # fmt: skip
    return Placed(list(references), structures)


def references_of(task: Task, known: str, model: Model | None = None) -> list[Reference]:
    """`found`: the picture alone, and what SeAl finds by itself, if need be by asking the model about the prompt's words. `detected`: also
    people's joints, as a detector gives them. `given`: the mask drawn by hand, and people's poses."""
    shown = list(zip(task.reference.picture.image, task.shown.person.tolist(), strict=True))
    ways = [model.ways(caption.text) if model else {} for caption in task.prompts]
    if known == FOUND:
        return [Reference.of(image).found(ways=way) for (image, _), way in zip(shown, ways, strict=True)]
    if known == DETECTED:
        poses = detected(task.seeds, task.reference.parts.keypoints.double() * task.size[0])
        return [Reference.of(image, pose=pose if person else None).found(ways=way)
                for (image, person), pose, way in zip(shown, poses, ways, strict=True)]  # fmt: skip
    given = zip(shown, task.reference_mask(), task.reference.structure, strict=True)
    return [Reference.of(image, drawn=mask.numpy(), pose=as_map(pose) if person else None).found("drawn")
            for (image, person), mask, pose in given]  # fmt: skip


def detected(seeds: Tensor, joints: Tensor) -> list[Skeleton]:
    """True joints (images, 18, 2) as a detector sees them: each a little off, some not at all."""
    poses = []
    for seed, points in zip(seeds.tolist(), joints, strict=True):
        generator = torch.Generator().manual_seed(seed)
        extent = float((points.amax(0) - points.amin(0)).max())
        off = torch.randn(points.shape, generator=generator, dtype=points.dtype) * JITTER * extent
        missing = torch.rand(len(points), generator=generator) < MISSING
        poses.append(Skeleton(torch.where(missing[:, None], torch.nan, points + off).numpy()))
    return poses


def as_map(hint: Tensor) -> np.ndarray:
    return (hint * 255).round().byte().permute(1, 2, 0).numpy()
