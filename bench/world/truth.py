"""What is true of a picture: the facts that a reader can tell from it, and where each of its points lies in another picture."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import NamedTuple

import torch

from .anatomy import FEATURE, REGION, Parts
from .background import Settings
from .batch import Batch
from .identity import Identities
from .pose import Poses
from .raster import Surface, rasterise
from .render import Picture, body
from .texture import GARMENT_PERIOD, MASK
from .words import BACKGROUND, COAT, COLLAR, COLOUR, COLOUR_RGB, HEADGEAR, KIND, LIGHT, LIGHT_RGB, PATTERN, POSE, TOP

# What can be asked of a picture, by the names that captions use, and the words that can answer.
ATTRIBUTE = {
    "kind": KIND,
    "hair colour": COLOUR,
    "headgear": HEADGEAR,
    "headgear colour": COLOUR,
    "top colour": COLOUR,
    "top pattern": PATTERN,
    "bottom colour": COLOUR,
    "bottom pattern": PATTERN,
    "shoes colour": COLOUR,
    "coat colour": COLOUR,
    "coat": COAT,
    "collar": COLLAR,
    "collar colour": COLOUR,
    "pose": POSE,
    "background": BACKGROUND,
    "light": LIGHT,
}
# The regions on which an attribute shows; the others are facts of the whole picture.
SHOWN_ON = {
    "hair colour": ("hair",),
    "headgear": ("headgear",),
    "headgear colour": ("headgear",),
    "top colour": ("top",),
    "top pattern": ("top",),
    "bottom colour": ("bottom",),
    "bottom pattern": ("bottom",),
    "shoes colour": ("shoes",),
    "coat colour": ("body", "legs", "head", "tail"),
    "coat": ("body", "legs", "head", "tail"),
    "collar": ("collar",),
    "collar colour": ("collar",),
}
# Patterns in which both colours cover the same area: exchange them, move the phase by half, and the picture is the same.
EVEN = [PATTERN.index(name) for name in ("striped", "banded", "checked", "diagonal", "zigzag")]

PIECE = 0.0016  # the share of the frame that a piece must cover for its colour to be told: 26 pixels of 128 × 128
CLOTH = 0.0125  # … for its being plain
REPEAT = 0.45  # … and, in squares of the pattern's period, for its pattern
MINOR = 0.22  # of a patterned piece, the share of the rarer colour from which on a reader sees two
SECOND = 0.15  # … and from which on its pattern is told by the line between them
CLEARLY = 1.3  # the main colour of dots and the like covers so many times the other's area
CLOSE = 0.11  # distance in RGB up to which a pixel has a colour
COARSE = 64  # rows of a raster on which areas are measured
FINE = 256  # rows of the raster on which it is decided what covers what
DEEPEST = 0.66  # how dark roundness makes an outline


class Fact(NamedTuple):
    """One attribute of every picture of a batch. A reader who names `also` is right too (where there is none it repeats `value`)."""

    value: torch.Tensor
    judgeable: torch.Tensor
    also: torch.Tensor


def on_part(region: torch.Tensor, name: str) -> torch.Tensor:
    """Where in a part map (batch, height, width) the parts are on which an attribute shows."""
    return _inside(region, SHOWN_ON[name])


def _inside(region: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
    wanted = torch.zeros(len(REGION), dtype=torch.bool, device=region.device)
    wanted[[REGION.index(name) for name in names]] = True
    return wanted[region.long()]


def _distance(image: torch.Tensor, rgb: torch.Tensor) -> torch.Tensor:
    """Distance of every pixel from a colour (batch, 3), as bright as roundness may leave it."""
    rgb = rgb[:, :, None, None]
    shade = ((image * rgb).sum(1, keepdim=True) / rgb.square().sum(1, keepdim=True)).clamp(DEEPEST, 1)
    return (image - shade * rgb).norm(dim=1)


def _two_colours(image: torch.Tensor, inside: torch.Tensor, one: torch.Tensor, two: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which shares of the frame show a piece's first and its second colour."""
    first, second = _distance(image, one), _distance(image, two)
    near = inside & (torch.minimum(first, second) < CLOSE)
    return (near & (first <= second)).float().mean((1, 2)), (near & (first > second)).float().mean((1, 2))


def attributes(identities: Identities, poses: Poses, settings: Settings, picture: Picture) -> dict[str, Fact]:
    """Every attribute of every picture, and whether enough of it shows to be told."""
    image, region = picture.image[..., ::2, ::2], picture.region[:, ::2, ::2]  # areas need no more
    rgb, image = COLOUR_RGB.to(image), image / LIGHT_RGB.to(image)[settings.light][:, :, None, None]
    person = identities.person
    always = torch.ones_like(person)
    facts = {}

    def put(name: str, value: torch.Tensor, judgeable: torch.Tensor, also: torch.Tensor | None = None) -> None:
        facts[name] = Fact(value, judgeable, value if also is None else torch.where(judgeable, also, value))

    def area(name: str) -> torch.Tensor:
        return on_part(region, name).float().mean((1, 2))

    def one_colour(name: str, value: torch.Tensor, worn: torch.Tensor) -> None:
        shows = on_part(region, name) & (_distance(image, rgb[value]) < CLOSE)
        put(name, value, worn & (shows.float().mean((1, 2)) > PIECE))

    def garment(name: str, worn: torch.Tensor) -> None:
        value, other, pattern = (getattr(identities, f"{name}_{part}") for part in ("colour", "second", "pattern"))
        inside = _inside(region, (name,))
        first, second = _two_colours(image, inside, rgb[value], rgb[other])
        rarer = torch.minimum(first, second) / (first + second).clamp(min=1e-6)
        even = torch.isin(pattern, torch.tensor(EVEN, device=pattern.device)) & (rarer > MINOR)
        put(f"{name} colour", value, worn & (first > PIECE) & (even | (first > CLEARLY * second)), torch.where(even, other, value))
        tile = (getattr(identities, f"{name}_width") * GARMENT_PERIOD.to(pattern.device)[pattern] * poses.scale).square()
        plain = pattern == PATTERN.index("plain")
        dotted = pattern == PATTERN.index("dotted")
        seen = inside.float().mean((1, 2)) > torch.where(plain, CLOTH, REPEAT * tile)
        put(f"{name} pattern", pattern, worn & seen & (plain | (rarer > torch.where(dotted, MINOR / 2, SECOND))))

    put("kind", identities.kind, always)
    one_colour("hair colour", identities.hair_colour, person)
    put("headgear", identities.headgear, person & ((identities.headgear == 0) | (area("headgear") > PIECE)))
    one_colour("headgear colour", identities.headgear_colour, person & (identities.headgear > 0))
    garment("top", person)
    garment("bottom", person & (identities.top != TOP.index("dress")))
    one_colour("shoes colour", identities.shoes, person)

    first, second = _two_colours(image, _inside(region, ("body", "legs")), rgb[identities.coat_colour], rgb[identities.coat_second])
    share = second / (first + second).clamp(min=1e-6)
    put("coat colour", identities.coat_colour, ~person & (first > PIECE) & (share < 0.5))
    plain, masked = (identities.coat == COAT.index(name) for name in ("plain", "masked"))
    told = plain | (masked & _mask_shows(identities, poses)) | (~masked & (share > 0.06) & (share < 0.6))
    put("coat", identities.coat, ~person & told)
    put("collar", identities.collar, ~person & ((identities.collar == 0) | (area("collar") > PIECE)))
    one_colour("collar colour", identities.collar_colour, ~person & (identities.collar > 0))
    put("pose", poses.family, always)
    put("background", settings.background, always)
    put("light", settings.light, always)
    return facts


def _mask_shows(identities: Identities, poses: Poses) -> torch.Tensor:
    """Whether enough of an animal's face shows below the eyes: snout, legs and scarf may cover it."""
    shows = torch.zeros_like(identities.person)
    masked = (~identities.person & (identities.coat == COAT.index("masked"))).nonzero()[:, 0]
    if len(masked):
        parts = body(identities[masked], poses[masked])
        surface = rasterise(parts, COARSE, COARSE)
        head = (surface.slot >= 0) & (surface.gather(parts.feature) == FEATURE.index("muzzle"))
        face = head & (surface.v > MASK * surface.gather(parts.radius3.float()))
        shows[masked] = face.float().mean((1, 2)) > 2 * PIECE
    return shows


@dataclass(frozen=True)
class Correspondence(Batch):
    """For every pixel of one picture, the same surface point in another."""

    point: torch.Tensor  # (batch, height, width, 2): x, y in pixels, a pixel's centre at one half; anything off the subject
    visible: torch.Tensor  # (batch, height, width): the pixel shows the subject, and the other picture shows that point


def correspondence(parts_a: Parts, parts_b: Parts, height: int, width: int) -> Correspondence:
    """Where in picture a the surface point lies that each pixel of picture b shows. Both show the same identities.

    The surface coordinates of `raster` are solved for the place: along the part's axis by the body length v, across it by the
    longitude, which the part's own turn towards the camera shifts.
    """
    surface = rasterise(parts_b, height, width)
    shown = surface.slot >= 0
    # Parts are painted in another order in every pose; their names stay.
    slot = parts_a.name.argsort(1).gather(1, surface.gather(parts_b.name).flatten(1)).reshape(surface.slot.shape)
    in_a = Surface(slot, surface.u, surface.v, surface.across)

    def look(table: torch.Tensor) -> torch.Tensor:
        return in_a.gather(table.float())

    longitude = surface.u / look(parts_a.radius3 * parts_a.flip).where(shown, torch.ones_like(surface.u)) + look(parts_a.turn)
    t = surface.v / look(parts_a.length3).clamp(min=1e-6)
    across = longitude.sin() / 0.999
    axis = parts_a.b - parts_a.a
    dx, dy = (look(d) for d in axis.unbind(-1))
    length = (dx * dx + dy * dy).clamp(min=1e-9).sqrt()
    radius = (look(parts_a.ra) + t.clamp(0, 1) * look(parts_a.rb - parts_a.ra)).clamp(min=1e-4)
    x = look(parts_a.a[..., 0]) + t * dx + across * radius * dy / length
    y = look(parts_a.a[..., 1]) + t * dy - across * radius * dx / length
    faces = longitude.abs() < pi / 2
    return Correspondence(torch.stack([x, y], -1) * height, shown & faces & _on_top(parts_a, slot, x, y, height, width))


def _on_top(parts: Parts, slot: torch.Tensor, x: torch.Tensor, y: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Whether a part is the one that is seen at a place (in frame heights), to a fraction of a pixel."""
    finer = max(1, FINE // height) | 1  # odd, so that a pixel's centre is a fine pixel's centre
    height, width = height * finer, width * finer
    seen = rasterise(parts, height, width).slot
    column, row = (x * height).floor().long(), (y * height).floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    return inside & (seen.flatten(1).gather(1, place.flatten(1)).reshape(slot.shape) == slot)
