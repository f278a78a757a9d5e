"""What a surface point looks like: patterns, emblems, faces and coats, in coordinates that move with the limb."""

from __future__ import annotations

from math import pi

import torch

from .anatomy import FEATURE, MATERIAL, REGION, Parts
from .identity import Identities
from .raster import Surface
from .words import COAT, COLOUR, COLOUR_RGB, EMBLEM, FACE, HAIR, HEADGEAR, KIND, PATTERN, SKIN_RGB

CHEST = 0.145  # how far below the collar an emblem sits, in body lengths
EMBLEM_SIZE = 0.072
_DARK = torch.tensor((0.12, 0.1, 0.12))


def garment_pattern(kind: torch.Tensor, u: torch.Tensor, v: torch.Tensor, period: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """True where a garment shows its second colour."""
    a, b = u / period + phase, v / period + phase
    fa, fb = a - a.floor(), b - b.floor()
    half = 0.5

    def wave(x):
        return (x - x.floor()) < half

    row = b.floor()
    da, db = (a + 0.5 * (row % 2)) % 1 - 0.5, fb - 0.5
    options = [
        torch.zeros_like(fa, dtype=torch.bool),
        fa < half,
        fb < half,
        (fa < half) ^ (fb < half),
        da * da + db * db < 0.1,
        wave((a + b) * 0.75),
        wave(b + 1.2 * ((a * 0.8) % 1 - 0.5).abs()),
    ]
    return _choose(options, kind)


def coat_pattern(kind: torch.Tensor, u: torch.Tensor, v: torch.Tensor, period: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """True where a coat shows its second colour. Irregular by sines, so that it is a function of the surface alone."""
    a, b = u / period, v / period
    wobble = 0.22 * torch.sin(2 * pi * (a * 0.9 + phase * 3))
    row = (b + phase).floor()
    da = (a + 0.37 * row + phase) % 1 - 0.5
    db = (b + phase) % 1 - 0.5 + 0.12 * torch.sin(row * 2.4 + phase * 9)
    blotch = (
        torch.sin(2 * pi * (a * 0.42 + phase)) + torch.sin(2 * pi * (b * 0.38 + phase * 2.7)) + 0.6 * torch.sin(2 * pi * (a + b) * 0.31)
    )
    none = torch.zeros_like(a, dtype=torch.bool)
    tiger = ((b + phase + wobble) % 1 < 0.42) & ((b + phase + wobble) % 1 > 0.42 * ((a * 0.8 + 0.5).clamp(0, 1) - 0.4))
    options = [none, tiger, da * da + db * db < 0.085, blotch > 0.35, none]
    return _choose(options, kind)


def emblem(kind: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """True inside an emblem of radius 1 at the origin."""
    r = (x * x + y * y).sqrt()
    ax, ay = x.abs(), y.abs()
    angle = torch.atan2(x, -y)
    spike = r < 0.46 / torch.cos(pi / 5 - ((angle % (2 * pi / 5)) - pi / 5).abs()).clamp(min=0.2) * (
        1 + 1.15 * (((angle % (2 * pi / 5)) - pi / 5).abs() / (pi / 5)) ** 2
    )
    hx, hy = ax, y + 0.1
    heart = torch.where(hy < 0, (hx - 0.46) ** 2 + (hy + 0.12) ** 2 < 0.26, hx * 1.05 + hy < 0.95)
    options = [
        torch.zeros_like(r, dtype=torch.bool),
        r < 0.85,
        torch.maximum(ax, ay) < 0.76,
        (torch.minimum(ax, ay) < 0.3) & (torch.maximum(ax, ay) < 0.95),
        spike,
        heart,
        (y < 0.7) & (y > -0.9 + 1.7 * ax),
        (r < 0.95) & (r > 0.5),
        ax + ay < 1.0,
    ]
    return _choose(options, kind)


def _choose(options: list[torch.Tensor], kind: torch.Tensor) -> torch.Tensor:
    """Of one boolean map per kind, the one each pixel asks for."""
    result = options[0].clone()
    for number, option in enumerate(options[1:], 1):
        result = torch.where(kind == number, option, result)
    return result


def materials(who: Identities) -> dict[str, torch.Tensor]:
    """Per subject and material: main and second colour, pattern (garments), period and phase."""
    colour = COLOUR_RGB.to(who.kind.device)
    skin = SKIN_RGB.to(who.kind.device)[who.skin]
    dark = _DARK.to(who.kind.device).expand_as(skin)
    first = {
        "skin": skin, "hair": colour[who.hair_colour], "headgear": colour[who.headgear_colour], "top": colour[who.top_colour],
        "bottom": colour[who.bottom_colour], "shoes": colour[who.shoes], "coat": colour[who.coat_colour],
        "coat second": colour[who.coat_second], "collar": colour[who.collar_colour], "dark": dark,
    }  # fmt: skip
    second = {"top": colour[who.top_second], "bottom": colour[who.bottom_second], "coat": colour[who.coat_second]}
    zero = torch.zeros_like(who.top_period)
    numbers = {
        "pattern": {"top": who.top_pattern, "bottom": who.bottom_pattern},
        "period": {"top": who.top_period, "bottom": who.bottom_period, "coat": who.coat_period},
        "phase": {"top": who.top_phase, "bottom": who.bottom_phase, "coat": who.coat_phase},
    }
    table = {
        "first": torch.stack([first[m] for m in MATERIAL], 1),
        "second": torch.stack([second.get(m, first[m]) for m in MATERIAL], 1),
    }
    for name, values in numbers.items():
        default = who.top_pattern * 0 if name == "pattern" else zero + (name == "period")
        table[name] = torch.stack([values.get(m, default) for m in MATERIAL], 1)
    return table


def shade(who: Identities, parts: Parts, surface: Surface) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour `(batch, 3, height, width)` of every subject pixel, and its region (0 where there is no subject)."""
    u, v = surface.u, surface.v
    beyond = v > surface.gather(parts.cut.float())
    material = torch.where(beyond, surface.gather(parts.far), surface.gather(parts.near))
    region = torch.where(beyond, surface.gather(parts.far_region), surface.gather(parts.near_region))
    feature = surface.gather(parts.feature)
    visible = surface.slot >= 0

    def per_subject(value):
        return value[:, None, None]

    def is_material(name):
        return material == MATERIAL.index(name)

    table = materials(who)
    flat = material.flatten(1)

    def look(name):
        return table[name].gather(1, flat).reshape(material.shape)

    period, phase = look("period").float(), look("phase").float()
    kind = look("pattern")
    second = garment_pattern(kind, u, v, period, phase)
    cloth = is_material("top") | is_material("bottom")
    # A dress or skirt continues the torso's rows; coats have patterns of their own.
    second = second & cloth
    fur = is_material("coat")
    coat = per_subject(who.coat)
    second = second | (fur & coat_pattern(coat, u, v, period, phase))

    chest = feature == FEATURE.index("chest")
    jacket_front = chest & (per_subject(who.top) == 3) & (u.abs() < 0.036)
    second = torch.where(jacket_front, kind == 0, second)
    face = feature == FEATURE.index("face")
    muzzle = feature == FEATURE.index("muzzle")
    barrel = feature == FEATURE.index("barrel")
    second = second | (barrel & per_subject(who.belly) & (u > 0.1))
    masked = per_subject(who.coat == COAT.index("masked"))
    radius = surface.gather(parts.radius3.float())
    second = second | (muzzle & masked & (v > -0.15 * radius))

    index = material[:, None].expand(-1, 3, -1, -1).flatten(2)
    colour = torch.where(
        second[:, None],
        table["second"].transpose(1, 2).gather(2, index).reshape(-1, 3, *material.shape[1:]),
        table["first"].transpose(1, 2).gather(2, index).reshape(-1, 3, *material.shape[1:]),
    )

    def paint(where, rgb):
        nonlocal colour
        colour = torch.where(where[:, None], rgb[:, :, None, None], colour)

    rgb = COLOUR_RGB.to(u.device)
    paint(chest & emblem(per_subject(who.emblem), u / EMBLEM_SIZE, (v - CHEST) / EMBLEM_SIZE), rgb[who.emblem_colour])

    # Faces, in units of the head's radius.
    x, y = u / radius, v / radius
    light = rgb[COLOUR.index("white")].expand(len(who), 3)
    dark = _DARK.to(u.device).expand(len(who), 3)
    marks = per_subject(who.face)
    cheeks = (x.abs() - 0.62).square() + (y - 0.34).square() < 0.05
    paint(face & (marks == FACE.index("blush")) & cheeks, rgb[COLOUR.index("pink")].expand(len(who), 3) * 0.92)
    freckled = face & (marks == FACE.index("freckles")) & cheeks & (((x * 9).floor() + (y * 9).floor()) % 2 == 0)
    paint(freckled, SKIN_RGB.to(u.device)[who.skin] * 0.62)
    hairline = -0.42 + 0.3 * x * x
    curtain = per_subject(who.hair == HAIR.index("long")) & (x.abs() > 1.05)
    hair = face & ((y < hairline) | curtain)
    paint(hair, rgb[who.hair_colour])
    region = torch.where(hair, REGION.index("hair"), region)
    beard = face & per_subject(who.kind == KIND.index("man")) & (y > 0.4 + 0.1 * x * x)
    paint(beard, rgb[who.hair_colour])
    region = torch.where(beard, REGION.index("hair"), region)
    patch = (x - 0.42).square() + (y - 0.06).square() < 0.11
    strap = (y + 0.02 + 0.35 * x).abs() < 0.07
    paint(face & ~hair & (marks == FACE.index("eyepatch")) & (patch | strap), dark)
    ring = (((x.abs() - 0.42).square() + (y - 0.06).square()).sqrt() - 0.3).abs() < 0.085
    bridge = (x.abs() < 0.16) & ((y - 0.04).abs() < 0.06)
    paint(face & ~hair & (marks == FACE.index("glasses")) & (ring | bridge), rgb[COLOUR.index("red")].expand(len(who), 3) * 0.7)
    eye = (x.abs() - 0.42).square() + (y - 0.06).square() < 0.032
    paint(face & ~hair & eye, dark)
    mouth = (x.abs() < 0.24) & ((y - 0.52 + 0.35 * x * x).abs() < 0.06)
    paint(face & mouth, dark * 0 + torch.tensor((0.62, 0.2, 0.2), device=u.device))
    animal_eye = (x.abs() - 0.5).square() + (y + 0.12).square()
    paint(muzzle & (animal_eye < 0.09), light)
    paint(muzzle & (animal_eye < 0.045), dark)

    # A little roundness; enough to tell an arm from the torso behind it, too little to hide a colour.
    colour = colour * (1 - 0.34 * surface.across.square().square())[:, None]
    return colour, torch.where(visible, region, 0)


assert PATTERN[-1] == "zigzag" and len(EMBLEM) == 9 and HEADGEAR[0] == "none"
