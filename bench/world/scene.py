"""Pictures as training sees them: one subject, or two pictures of one subject on one canvas."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .background import Settings, sample_settings
from .chance import Chance
from .identity import Identities, sample_identities
from .pose import Poses, sample_poses
from .words import BACKGROUND, LIGHT

# Large models meet one subject twice on one canvas in character sheets, photographs of twins, and mirrors.
_SHEET = ("a character sheet of {}", "two views of {}", "two pictures of {}", "a model sheet of {}")
_TWINS = ("twins, {} and another just like it", "{} and an identical twin")
_MIRROR = ("{} and its mirror image", "{} before a mirror")
PAIRING = ("sheet", "diptych", "twins", "mirror")
_SHARE = (0.35, 0.35, 0.2, 0.1)
_OPENINGS = {"sheet": _SHEET, "diptych": _SHEET, "twins": _TWINS, "mirror": _MIRROR}


@dataclass(frozen=True)
class Subjects:
    """Several pictures each of several subjects: `identities[i]` in `poses[i]` and `settings[i]`."""

    identities: Identities
    poses: Poses
    settings: Settings


@dataclass(frozen=True)
class Pair:
    """Two pictures of one subject, a caption opening for both, and whether the canvas stacks them or sets them side by side."""

    identities: Identities
    poses: tuple[Poses, Poses]
    settings: tuple[Settings, Settings]
    openings: list[str]


def sample_subjects(seeds: torch.Tensor, unseen: bool = False, person: bool | None = None) -> Subjects:
    """One picture a seed."""
    identities = sample_identities(seeds, unseen, person)
    return Subjects(identities, sample_poses(seeds, identities), sample_settings(seeds))


def sample_pairs(seeds: torch.Tensor) -> Pair:
    """Two pictures of one subject for each seed."""
    c = Chance(seeds, "pair")
    first = sample_subjects(seeds)
    second_seeds = seeds + (1 << 40)
    poses = sample_poses(second_seeds, first.identities)
    other = sample_settings(second_seeds)
    share = torch.tensor(_SHARE, dtype=torch.float64, device=seeds.device).cumsum(0)
    kind = torch.searchsorted(share, c("kind")[:, 0].contiguous()).clamp(max=len(PAIRING) - 1)
    studio = torch.full_like(kind, BACKGROUND.index("studio"))
    sheet, diptych, twins, mirror = (kind == i for i in range(len(PAIRING)))
    plain = sheet | mirror
    day = torch.full_like(kind, LIGHT.index("daylight"))

    def choose(where, value, otherwise):
        shape = where.reshape(-1, *(1,) * (value.dim() - 1))
        return torch.where(shape, value, otherwise)

    left = first.settings
    left = replace(left, background=torch.where(sheet, studio, left.background), light=torch.where(plain, day, left.light))
    same_place = ~diptych
    right = replace(
        other,
        background=torch.where(same_place, left.background, other.background),
        light=torch.where(same_place, left.light, other.light),
        detail=choose(same_place, left.detail, other.detail),
        shift=torch.where(twins, 1.0, 0.0).double(),
    )
    reflection = first.poses.mirrored()
    names = ("family", "yaw", "lean", "spine", "head", "tail", "bones", "scale", "x", "y")
    poses = replace(poses, **{n: choose(mirror, getattr(reflection, n), getattr(poses, n)) for n in names})
    pick = c("opening")[:, 0].tolist()
    kinds = [PAIRING[k] for k in kind.tolist()]
    openings = [_OPENINGS[k][int(p * len(_OPENINGS[k]))] for k, p in zip(kinds, pick, strict=True)]
    return Pair(first.identities, (first.poses, poses), (left, right), openings)
