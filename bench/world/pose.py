"""How a subject stands: named families of joint angles, the camera's yaw, and the place in the frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import pi

import torch

from .batch import Batch
from .chance import Chance
from .identity import Identities
from .words import ANIMAL_POSE, PERSON_POSE, POSE

# Every bone has two angles in degrees: `away` from the body's side, and `swing` forwards. Bones, four limbs of two each:
# (arm or foreleg) left upper, left lower, right upper, right lower, (leg or hind leg) the same again.
_FREE_ARM = [(14, 0), (8, 10)]
_LEGS = [(7, 0), (5, 0)] * 2
_BONES = {
    "standing": [*_FREE_ARM, *_FREE_ARM, *_LEGS],
    "arms raised": [(138, 0), (164, 0)] * 2 + [(9, 0), (7, 0)] * 2,
    "waving": [(104, 0), (163, 8), (38, 0), (-34, 8), *_LEGS],
    "running": [(10, -45), (6, 40), (10, 42), (6, 118), (4, 50), (3, -15), (4, -22), (3, -74)],
    "kneeling": [(16, 26), (10, 40), *_FREE_ARM, (6, 80), (4, 0), (8, -4), (5, -84)],
    "jumping": [(122, 0), (150, 0)] * 2 + [(32, 34), (12, -45)] * 2,
    "walking": [(0, 26), (0, 8), (0, -22), (0, -40), (0, -20), (0, -6), (0, 24), (0, -12)],
    "sitting": [(0, -4), (0, 0)] * 2 + [(0, 78), (0, -28)] * 2,
    "leaping": [(0, 58), (0, 74)] * 2 + [(0, -56), (0, -72)] * 2,
}
_JITTER = {
    "standing": (7, 9),
    "arms raised": (15, 8),
    "waving": (12, 8),
    "running": (4, 11),
    "kneeling": (6, 7),
    "jumping": (16, 12),
    "walking": (0, 9),
    "sitting": (0, 6),
    "leaping": (0, 11),
}
_YAW = {"running": (28, 60), "kneeling": (25, 55), "standing": (0, 38), "arms raised": (0, 35), "waving": (0, 35), "jumping": (0, 30)}
_ANIMAL_YAW = (52, 88)
_SPINE = {"sitting": (48, 6), "leaping": (13, 8)}


@dataclass(frozen=True)
class Poses(Batch):
    """Joint angles in radians, the same for every build of body; `scale`, `x`, `y` place the figure in the frame."""

    family: torch.Tensor
    yaw: torch.Tensor
    lean: torch.Tensor
    spine: torch.Tensor
    head: torch.Tensor
    tail: torch.Tensor
    bones: torch.Tensor  # (batch, 8, 2)
    scale: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor

    def mirrored(self) -> Poses:
        """Left and right exchanged: the pose seen in a mirror, on an unmirrored body."""
        limbs = self.bones[:, [2, 3, 0, 1, 6, 7, 4, 5]]
        return replace(self, yaw=-self.yaw, lean=-self.lean, head=-self.head, bones=limbs, x=1 - self.x)


def families_of(person: torch.Tensor) -> torch.Tensor:
    """`(batch, family)` table of the pose families that suit each subject."""
    names = [[name in ANIMAL_POSE for name in POSE], [name in PERSON_POSE for name in POSE]]
    return torch.tensor(names, device=person.device)[person.long()]


def sample_poses(seeds: torch.Tensor, identities: Identities, family: torch.Tensor | None = None) -> Poses:
    """Poses from integer seeds that suit the identities; `family` (indices of `POSE`) fixes what is done, not how."""
    c = Chance(seeds, "pose")
    device = seeds.device
    person = identities.person
    if family is None:
        family = c.among("family", families_of(person))

    def table(values, default) -> torch.Tensor:
        rows = [values.get(name, default) for name in POSE]
        return torch.tensor(rows, device=device, dtype=torch.float64)[family]

    base = table(_BONES, None)
    jitter = table(_JITTER, None)[:, None, :]
    wobble = c.spread("bones", 16).reshape(-1, 8, 2)
    yaw_range = torch.where(person[:, None], table(_YAW, (0, 0)), torch.tensor(_ANIMAL_YAW, device=device, dtype=torch.float64))
    yaw = yaw_range[:, 0] + (yaw_range[:, 1] - yaw_range[:, 0]) * c("yaw")[:, 0]
    yaw = torch.where(c.flag("turn", 0.5), yaw, -yaw)
    spine = table(_SPINE, (0, 4))
    running = family == POSE.index("running")
    degree = pi / 180
    poses = Poses(
        family=family,
        yaw=yaw * degree,
        lean=torch.where(person, c.spread("lean")[:, 0] * 11, 0.0) * degree,
        spine=(spine[:, 0] + spine[:, 1] * c.spread("spine")[:, 0] + torch.where(running, -12.0, 0.0)) * degree,
        head=c.spread("head")[:, 0] * 14 * degree,
        tail=c.between("tail", -50, 60) * degree,
        bones=(base + jitter * 1.6 * wobble) * degree,
        scale=c.between("scale", 0.95, 1.15),
        x=c("x")[:, 0],
        y=c("y")[:, 0],
    )
    swap = c.flag("mirror", 0.5)
    mirrored = poses.mirrored()
    limbs = torch.where(swap[:, None, None], mirrored.bones, poses.bones)
    return replace(poses, bones=limbs)
