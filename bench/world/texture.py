"""What a surface point looks like: patterns, emblems, faces and coats, in coordinates that move with the limb."""

from __future__ import annotations

from math import pi

import torch

from .anatomy import FEATURE, MATERIAL, REGION, Parts
from .identity import Identities
from .raster import Surface
from .words import COAT, COLOUR, COLOUR_RGB, EMBLEM, FACE, HAIR, HEADGEAR, KIND, PATTERN, SKIN_RGB, TOP

CHEST = 0.06  # how far below the collar an emblem sits, in body lengths
EMBLEM_SIZE = 0.12
FRONT = 0.09  # half the width of what an open jacket shows
MASK = -0.45  # from where downwards a mask covers a face, in radii of the head
MARKING = ("top", "bottom", "coat", "saddle", "mask", "ears, socks, tip", "emblem")  # what can be drawn on a character
_DARK, _LIPS = torch.tensor((0.12, 0.1, 0.12)), torch.tensor((0.62, 0.2, 0.2))


# Of a pattern one stripe, check or spot wide: how many such widths until it repeats.
GARMENT_PERIOD = torch.tensor((1.0, 2.0, 2.0, 2.1, 1.5, 2.12, 2.36))
COAT_PERIOD = torch.tensor((1.0, 2.4, 1.65, 1.85, 1.0))


def garment_pattern(kind: torch.Tensor, u: torch.Tensor, v: torch.Tensor, width: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """True where a garment shows its second colour."""
    period = width * GARMENT_PERIOD.to(width)[kind]
    a, b = u / period + phase, v / period + phase
    fa, fb = a - a.floor(), b - b.floor()
    half = 0.5

    def wave(x):
        return (x - x.floor()) < half

    row = (b - phase + 0.5).floor()
    # One dot in the middle of the chest, or two.
    da, db = (a + phase + 0.5 * (row % 2) + 0.5) % 1 - 0.5, (b - phase + 0.5) % 1 - 0.5
    options = [
        torch.zeros_like(fa, dtype=torch.bool),
        fa < half,
        fb < half,
        wave(a - phase % half) ^ wave(b - phase % half),  # from the middle of the chest outwards, so that checks show whole
        da * da + db * db < 0.1,
        wave((a + b) * 0.75),
        wave(b + 0.9 * ((a * 0.7) % 1 - 0.5).abs()),
    ]
    return _choose(options, kind)


def coat_pattern(kind: torch.Tensor, u: torch.Tensor, v: torch.Tensor, width: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """True where a coat shows its second colour. Irregular by sines, so that it is a function of the surface alone."""
    period = width * COAT_PERIOD.to(width)[kind]
    a, b = u / period, v / period
    wobble = 0.12 * torch.sin(2 * pi * (a * 0.6 + phase * 3))
    row = (b + phase).floor()
    # One spot a row, high on the flank and low in turn; the next is on the far side.
    da, db = a - 0.3 * (row % 2) + 0.2, (b + phase) % 1 - 0.5
    blotch = (
        torch.sin(2 * pi * (a * 0.42 + phase)) + torch.sin(2 * pi * (b * 0.38 + phase * 2.7)) + 0.6 * torch.sin(2 * pi * (a + b) * 0.31)
    )
    none = torch.zeros_like(a, dtype=torch.bool)
    stripe = (b + phase + wobble) % 1
    tiger = (stripe < 0.5) & (stripe > 0.25 * ((a * 0.8 + 0.5).clamp(0, 1) - 0.5))
    options = [none, tiger, da * da + db * db < 0.16, blotch > 0.35, none]
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
    zero = torch.zeros_like(who.top_width)
    numbers = {
        "pattern": {"top": who.top_pattern, "bottom": who.bottom_pattern},
        "width": {"top": who.top_width, "bottom": who.bottom_width, "coat": who.coat_width},
        "phase": {"top": who.top_phase, "bottom": who.bottom_phase, "coat": who.coat_phase},
    }
    table = {
        "first": torch.stack([first[m] for m in MATERIAL], 1),
        "second": torch.stack([second.get(m, first[m]) for m in MATERIAL], 1),
    }
    for name, values in numbers.items():
        default = who.top_pattern * 0 if name == "pattern" else zero + (name == "width")
        table[name] = torch.stack([values.get(m, default) for m in MATERIAL], 1)
    return table


class Look:
    """What decides the colour of every pixel that shows a subject; one value a visible pixel, all pictures of a batch in one row."""

    def __init__(self, who: Identities, parts: Parts, surface: Surface):
        self.who, self.shape = who, surface.slot.shape
        self.place = (surface.slot >= 0).flatten().nonzero()[:, 0]
        self.row = self.place // (self.shape[1] * self.shape[2])
        self.slot = surface.slot.flatten()[self.place].long()
        self.u, self.v, self.across = (t.flatten()[self.place] for t in (surface.u, surface.v, surface.across))
        beyond = self.v > self.of_part(parts.cut.float())
        self.material = torch.where(beyond, self.of_part(parts.far), self.of_part(parts.near))
        self.region = torch.where(beyond, self.of_part(parts.far_region), self.of_part(parts.near_region))
        self.feature, self.radius = self.of_part(parts.feature), self.of_part(parts.radius3.float())
        self.cloth, self.table = parts.cloth, materials(who)

    def of_part(self, table: torch.Tensor) -> torch.Tensor:
        return table[self.row, self.slot]

    def of_material(self, name: str) -> torch.Tensor:
        return self.table[name][self.row, self.material]

    def has(self, trait: torch.Tensor) -> torch.Tensor:
        """A subject's trait at each of its pixels."""
        return trait[self.row]

    def on(self, feature: str) -> torch.Tensor:
        return self.feature == FEATURE.index(feature)

    def of(self, *names: str) -> torch.Tensor:
        return sum(self.material == MATERIAL.index(name) for name in names) > 0

    def picture(self, values: torch.Tensor) -> torch.Tensor:
        """Values of visible pixels (n, …) as pictures (batch, height, width, …), 0 elsewhere."""
        batch, height, width = self.shape
        canvas = values.new_zeros((batch * height * width, *values.shape[1:]))
        canvas[self.place] = values
        return canvas.unflatten(0, (batch, height, width))

    def markings(self) -> dict[str, torch.Tensor]:
        """Where something is drawn on a piece of clothing or a coat, by what it is; what comes later lies above."""
        who, kind = self.who, self.of_material("pattern")
        width, phase = self.of_material("width").float(), self.of_material("phase").float()
        u, v = (place + start for place, start in zip((self.u, self.v), self.of_part(self.cloth).float().unbind(-1), strict=True))
        chest, cloth = self.on("chest"), garment_pattern(kind, u, v, width, phase)
        front = chest & self.has(who.top == TOP.index("jacket")) & (self.u.abs() < FRONT)
        cloth = torch.where(front, kind == 0, cloth)
        # A pattern lies on the body of a garment; its sleeves have one of the two colours, beside dots that of the ground.
        other = (kind > 0) & (kind != PATTERN.index("dotted")) & (phase * 4 % 2 > 0.5)
        cloth = torch.where(self.on("sleeve"), other, cloth)
        head = (self.on("muzzle") & (self.v > MASK * self.radius)) | self.on("snout")
        masked = head & self.has(who.coat == COAT.index("masked"))
        return {
            "top": self.of("top") & cloth,
            "bottom": self.of("bottom") & cloth,
            "coat": self.on("barrel") & coat_pattern(self.has(who.coat), u, v, width, phase),
            "saddle": self.on("barrel") & self.has(who.saddle) & (self.u > -0.06),
            "mask": masked,
            "ears, socks, tip": self.of("coat second") & ~masked,
            "emblem": chest & emblem(self.has(who.emblem), self.u / EMBLEM_SIZE, (self.v - CHEST) / EMBLEM_SIZE),
        }

    def face(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """What is drawn on heads, in units of the head's radius: where, and in which colour of each subject. The hair comes first."""
        who, x, y = self.who, self.u / self.radius, self.v / self.radius
        rgb = COLOUR_RGB.to(x.device)
        face, muzzle, marks = self.on("face"), self.on("muzzle"), self.has(who.face)

        def every(colour: torch.Tensor) -> torch.Tensor:
            return colour.to(x.device).expand(len(who), 3)

        def marked(name: str) -> torch.Tensor:
            return face & (marks == FACE.index(name))

        hairline = -0.42 + 0.3 * x * x
        curtain = self.has(who.hair == HAIR.index("long")) & (x.abs() > 1.05)
        beard = self.has(who.kind == KIND.index("man")) & (y > 0.4 + 0.1 * x * x)
        fringe = (y < hairline) | curtain
        hair = face & (fringe | beard)
        bare = face & ~fringe
        cheeks = (x.abs() - 0.62).square() + (y - 0.34).square() < 0.05
        dots = ((x * 9).floor() + (y * 9).floor()) % 2 == 0
        eyes = (x.abs() - 0.42).square() + (y - 0.06).square()
        patch = ((x - 0.42).square() + (y - 0.06).square() < 0.11) | ((y + 0.02 + 0.35 * x).abs() < 0.07)
        rings = ((eyes.sqrt() - 0.3).abs() < 0.085) | ((x.abs() < 0.16) & ((y - 0.04).abs() < 0.06))
        animal_eyes = (x.abs() - 0.5).square() + (y + 0.12).square()
        return [
            (hair, rgb[who.hair_colour]),
            (marked("blush") & cheeks & ~hair, every(rgb[COLOUR.index("pink")] * 0.92)),
            (marked("freckles") & cheeks & dots & ~hair, SKIN_RGB.to(x.device)[who.skin] * 0.62),
            (marked("eyepatch") & bare & patch, every(_DARK)),
            (marked("glasses") & bare & rings, every(rgb[COLOUR.index("red")] * 0.7)),
            (bare & (eyes < 0.032), every(_DARK)),
            (face & (x.abs() < 0.24) & ((y - 0.52 + 0.35 * x * x).abs() < 0.06), every(_LIPS)),
            (muzzle & (animal_eyes < 0.09), every(rgb[COLOUR.index("white")])),
            (muzzle & (animal_eyes < 0.045), every(_DARK)),
        ]


def shade(who: Identities, parts: Parts, surface: Surface) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour `(batch, 3, height, width)` of every subject pixel, and its region (0 where there is no subject)."""
    look = Look(who, parts, surface)
    *second, sign = look.markings().values()
    colour = torch.where(torch.stack(second).any(0)[:, None], look.of_material("second"), look.of_material("first"))
    face = look.face()
    for where, rgb in [(sign, COLOUR_RGB.to(colour)[who.emblem_colour]), *face]:
        colour = torch.where(where[:, None], look.has(rgb), colour)
    region = torch.where(face[0][0], REGION.index("hair"), look.region)
    # A little roundness; enough to tell an arm from the torso behind it, too little to hide a colour.
    colour = colour * (1 - 0.34 * look.across.square().square())[:, None]
    return look.picture(colour).permute(0, 3, 1, 2), look.picture(region)


assert PATTERN[-1] == "zigzag" and len(EMBLEM) == 9 and HEADGEAR[0] == "none"
