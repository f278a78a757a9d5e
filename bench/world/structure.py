"""Structure images as pose and depth tools make them: skeleton, silhouette, edges, depth and a grey mesh-like render."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .anatomy import Parts
from .chance import Chance
from .identity import Identities
from .raster import Surface, pixel_grid, rasterise
from .render import Figures
from .texture import shade

STRUCTURE = ["skeleton", "silhouette", "edges", "depth", "mesh"]
# No tool writes an animal's joints into a person's eighteen, so animals are mostly given by their outline, their lines or their depth.
USUAL = {True: (0.55, 0.15, 0.15, 0.15, 0.0), False: (0.1, 0.3, 0.3, 0.3, 0.0)}
GIVEN = {True: (1.0, 0.0, 0.0, 0.0, 0.0), False: (0.0, 1 / 3, 1 / 3, 1 / 3, 0.0)}  # what the bench's cases are drawn from

# Pairs of key points. People: the 18 points of OpenPose's body model; animals use the same slots for withers, legs and tail.
_PERSON_BONES = [(1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)]
_PERSON_BONES += [(1, 0), (0, 14), (14, 16), (0, 15), (15, 17)]
_ANIMAL_BONES = [(1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 17), (8, 9), (9, 10), (17, 8), (11, 12), (12, 13)]
_ANIMAL_BONES += [(1, 0), (0, 14), (14, 16), (0, 15), (17, 11)]


def _wheel(count: int) -> torch.Tensor:
    """Fully saturated colours around the hue circle from red to rose, as pose drawings use them."""
    hue = torch.arange(count) / count * 6
    channels = [((hue + shift) % 6 - 3).abs() - 1 for shift in (0, 4, 2)]
    return torch.stack(channels, -1).clamp(0, 1)


BONE_RGB = _wheel(17) * 0.6
POINT_RGB = _wheel(18)


def draw_skeleton(identities: Identities, parts: Parts, height: int, width: int) -> torch.Tensor:
    """Colour skeleton on black, `(batch, 3, height, width)`: sticks thick enough to survive an 8x smaller grid."""
    y, x = pixel_grid(height, width, parts.a.device)
    points = parts.keypoints.float()
    bones = torch.tensor([_ANIMAL_BONES, _PERSON_BONES], device=points.device)[identities.person.long()]
    canvas = torch.zeros(len(points), 3, height, width, device=points.device)
    soft = height * 1.0

    def blend(coverage, rgb):
        nonlocal canvas
        canvas = canvas + (rgb.to(canvas)[:, None, None] - canvas) * coverage[:, None]

    def at(index):
        return points.gather(1, index[:, None, None].expand(-1, 1, 2))[:, 0]

    for number in range(bones.shape[1]):
        a, b = at(bones[:, number, 0]), at(bones[:, number, 1])
        d = b - a
        t = ((x - a[:, 0, None, None]) * d[:, 0, None, None] + (y - a[:, 1, None, None]) * d[:, 1, None, None]) / (d * d).sum(-1).clamp(
            min=1e-6
        )[:, None, None]
        t = t.clamp(0, 1)
        ex, ey = x - a[:, 0, None, None] - t * d[:, 0, None, None], y - a[:, 1, None, None] - t * d[:, 1, None, None]
        blend(((0.013 - (ex * ex + ey * ey).sqrt()) * soft + 0.5).clamp(0, 1), BONE_RGB[number])
    for number in range(points.shape[1]):
        p = points[:, number]
        distance = ((x - p[:, 0, None, None]) ** 2 + (y - p[:, 1, None, None]) ** 2).sqrt()
        blend(((0.014 - distance) * soft + 0.5).clamp(0, 1), POINT_RGB[number])
    return canvas


def _smooth(parts: Parts, identities: Identities, height: int, width: int) -> tuple[Surface, torch.Tensor]:
    surface = rasterise(parts, height, width)
    return surface, shade(identities, parts, surface)[1]


def draw_structure(kind: str, identities: Identities, parts: Parts, height: int, width: int | None = None) -> torch.Tensor:
    """One structure image per subject, `(batch, 3, height, width)` in [0, 1] on black."""
    width = width or height
    if kind == "skeleton":
        return draw_skeleton(identities, parts, height, width)
    if kind not in STRUCTURE:
        raise ValueError(f"unknown structure {kind!r}; one of {', '.join(STRUCTURE)}")
    if kind == "silhouette":
        surface = rasterise(parts, height * 2, width * 2)
        return F.avg_pool2d((surface.slot >= 0).float()[:, None], 2).expand(-1, 3, -1, -1)
    surface, region = _smooth(parts, identities, height, width)
    inside = surface.slot >= 0
    if kind == "edges":
        name = torch.where(inside, surface.gather(parts.name) * 16 + region, -1)
        edge = torch.zeros_like(inside)
        edge[:, 1:] |= name[:, 1:] != name[:, :-1]
        edge[:, :, 1:] |= name[:, :, 1:] != name[:, :, :-1]
        return edge.float()[:, None].expand(-1, 3, -1, -1)
    bulge = (1 - surface.across.square()).clamp(min=0).sqrt()
    if kind == "depth":
        depth = surface.gather(parts.depth.float()) + bulge * surface.gather(parts.radius3.float())
        value = ((depth + 0.45) / 0.9).clamp(0, 1) * 0.75 + 0.25
    else:
        # A light from the upper left on the round side of each part.
        length = (parts.b - parts.a).norm(dim=-1).clamp(min=1e-6)
        sideways = surface.gather(((parts.b - parts.a)[..., 1] / length - (parts.b - parts.a)[..., 0] / length).float())
        value = (0.5 + 0.35 * bulge - 0.2 * surface.across * sideways).clamp(0, 1)
    return (value * inside)[:, None].expand(-1, 3, -1, -1)


def usual_structure(seeds: torch.Tensor, person: torch.Tensor, shares: dict[bool, tuple[float, ...]] = USUAL) -> torch.Tensor:
    """Which of STRUCTURE an artist has for each picture, (batch,)."""
    table = torch.tensor([shares[False], shares[True]], dtype=torch.float64, device=seeds.device)[person.long()].cumsum(1)
    return (Chance(seeds, "structure")("kind") >= table).sum(1).clamp(max=len(STRUCTURE) - 1)


def draw_structures(kinds: torch.Tensor, figures: Figures, size: int | tuple[int, int]) -> torch.Tensor:
    """A structure of its own kind for every picture, all its characters in it: (batch, 3, height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    result = torch.zeros(len(kinds), 3, height, width, device=kinds.device)
    for number in kinds.unique().tolist():
        rows = (kinds == number).nonzero()[:, 0]
        for who, parts in figures:
            drawn = draw_structure(STRUCTURE[number], who[rows], parts[rows], height, width)
            if STRUCTURE[number] in ("skeleton", "silhouette"):
                result[rows] = torch.maximum(result[rows], drawn)
            else:  # what stands before hides what lies behind it
                front = rasterise(parts[rows], height, width).slot >= 0
                result[rows] = torch.where(front[:, None] | (drawn > 0), drawn, result[rows])
    return result
