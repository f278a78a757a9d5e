"""Pictures as training sees them: one subject, two pictures of one subject on one canvas, or two subjects in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .anatomy import Parts
from .background import Settings, sample_settings
from .chance import Chance
from .identity import Identities, sample_identities
from .pose import Poses, sample_poses
from .render import Camera, Figures, Picture, body, compose
from .words import BACKGROUND, LIGHT

# Large models meet one subject twice on one canvas in character sheets, photographs of twins, and mirrors.
_SHEET = ("a character sheet of {}", "two views of {}", "two pictures of {}", "a model sheet of {}")
_TWINS = ("twins, {} and another just like it", "{} and an identical twin")
_MIRROR = ("{} and its mirror image", "{} before a mirror")
PAIRING = ("sheet", "diptych", "twins", "mirror")
_SHARE = (0.35, 0.35, 0.2, 0.1)
ROOM, GROUND = 0.976, 0.988  # how wide two characters may be together, and how low they stand
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


@dataclass(frozen=True)
class Duo:
    """Two characters in one place, of which the second stands before the first where they overlap; each has its own scale and place."""

    identities: tuple[Identities, Identities]
    poses: tuple[Poses, Poses]
    settings: Settings
    cameras: tuple[Camera, Camera]
    left: torch.Tensor  # whether the first stands on the left

    def figures(self, moved: Camera | None = None) -> Figures:
        """Both as they stand, or as a camera moves them together."""
        bodies = [body(*one) for one in zip(self.identities, self.poses, self.cameras, strict=True)]
        return [(who, moved.apply(parts) if moved else parts) for who, parts in zip(self.identities, bodies, strict=True)]

    def picture(self, size: int = 128, moved: Camera | None = None) -> Picture:
        return compose(self.figures(moved), self.settings, size)


def sample_duos(seeds: torch.Tensor) -> Duo:
    """Two characters for each seed."""
    first, second = sample_subjects(seeds), sample_subjects(seeds + (1 << 43))
    return side_by_side(seeds, (first.identities, second.identities), (first.poses, second.poses), first.settings)


def side_by_side(seeds: torch.Tensor, who: tuple[Identities, Identities], poses: tuple[Poses, Poses], settings: Settings) -> Duo:
    """As large as both fit into the frame, at one scale, feet on about one line, one a little before the other."""
    c = Chance(seeds, "duo")
    boxes = [_box(body(*one)) for one in zip(who, poses, strict=True)]
    widths = [high[:, 0] - low[:, 0] for low, high in boxes]
    shared = c.between("overlap", 0.1, 0.35) * torch.minimum(*widths)
    together = widths[0] + widths[1] - shared
    scale = (ROOM / together).clamp(max=1)
    left = c.flag("left", 0.5)
    start = (1 - ROOM) / 2 + (ROOM - together * scale) * c("place")[:, 0]
    cameras = []
    for number, (low, high) in enumerate(boxes):
        behind = left if number else ~left  # the one on the right begins where the other ends
        x = start + torch.where(behind, widths[1 - number] - shared, 0.0) * scale
        spare = ROOM - (high[:, 1] - low[:, 1]) * scale
        ground = GROUND - torch.minimum(c.between("behind", 0.0, 0.05), spare) * (number == 0)
        cameras.append(Camera(scale, torch.stack([x - low[:, 0] * scale, ground - high[:, 1] * scale], -1)))
    return Duo(who, poses, settings, tuple(cameras), left)


def _box(parts: Parts) -> tuple[torch.Tensor, torch.Tensor]:
    """The corners of the smallest box around each figure, (batch, 2) each."""
    exists, reach = (parts.ra > 0)[..., None], torch.maximum(parts.ra, parts.rb)[..., None]
    low = (torch.minimum(parts.a, parts.b) - reach).masked_fill(~exists, torch.inf).amin(1)
    return low, (torch.maximum(parts.a, parts.b) + reach).masked_fill(~exists, -torch.inf).amax(1)
