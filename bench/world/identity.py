"""Who a subject is: every trait of a character, of which a caption names only some."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .batch import Batch
from .chance import Chance
from .words import (
    BOTTOM,
    COAT,
    COAT_COLOURS,
    COLLAR,
    COLOUR,
    EMBLEM,
    FACE,
    HAIR,
    HAIR_COLOURS,
    HEADGEAR,
    HELD_OUT_EMBLEM,
    KIND,
    PATTERN,
    PEOPLE,
    SKIN_RGB,
    TOP,
    held_out_pairs,
)

# How wide one stripe, check or spot is, in body lengths. A body length is about 113 px of 128: most span two latent cells, some are fine.
WIDTHS = (0.085, 0.19, 0.205, 0.215, 0.225, 0.24)


@dataclass(frozen=True)
class Identities(Batch):
    """One character a row. Numbers index the lists of `words`; traits of the other family are present and ignored."""

    kind: torch.Tensor
    skin: torch.Tensor
    hair: torch.Tensor
    hair_colour: torch.Tensor
    headgear: torch.Tensor
    headgear_colour: torch.Tensor
    face: torch.Tensor
    top: torch.Tensor
    top_colour: torch.Tensor
    top_second: torch.Tensor
    top_pattern: torch.Tensor
    top_width: torch.Tensor
    top_phase: torch.Tensor
    emblem: torch.Tensor
    emblem_colour: torch.Tensor
    bottom: torch.Tensor
    bottom_colour: torch.Tensor
    bottom_second: torch.Tensor
    bottom_pattern: torch.Tensor
    bottom_width: torch.Tensor
    bottom_phase: torch.Tensor
    shoes: torch.Tensor
    coat: torch.Tensor
    coat_colour: torch.Tensor
    coat_second: torch.Tensor
    coat_width: torch.Tensor
    coat_phase: torch.Tensor
    socks: torch.Tensor
    saddle: torch.Tensor
    tail_tip: torch.Tensor
    collar: torch.Tensor
    collar_colour: torch.Tensor

    @property
    def person(self) -> torch.Tensor:
        return self.kind < PEOPLE


def _garment(chance: Chance, name: str, forbidden: torch.Tensor, plain: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A colour and a pattern whose pair is allowed. Plain is common in wardrobes, so it has its own share."""
    colour = chance.pick(f"{name} colour", len(COLOUR))
    allowed = ~forbidden.to(colour.device)[colour]
    patterned = allowed.clone()
    patterned[:, 0] = False
    wants_plain = chance.flag(f"{name} plain", plain) & allowed[:, 0]
    pattern = chance.among(f"{name} pattern", patterned)
    return colour, torch.where(wants_plain | ~patterned.any(1), 0, pattern)


def sample_identities(seeds: torch.Tensor, unseen: bool = False, person: bool | None = None) -> Identities:
    """Characters from integer seeds. `unseen` draws every garment from what training never sees, and the held-out emblem half the time."""
    c = Chance(seeds, "identity")
    n_colours = len(COLOUR)
    forbidden = held_out_pairs()
    if unseen:
        forbidden = ~forbidden
    kind_person, kind_animal = c.pick("person", PEOPLE), PEOPLE + c.pick("animal", len(KIND) - PEOPLE)
    is_person = c.flag("family", 0.6) if person is None else torch.full_like(kind_person, person, dtype=torch.bool)
    kind = torch.where(is_person, kind_person, kind_animal)

    def table(values) -> torch.Tensor:
        return torch.as_tensor(values, device=kind.device)

    def other(name: str, *taken: torch.Tensor) -> torch.Tensor:
        """A colour that none of the `taken` has, so that a second colour always shows."""
        free = torch.ones(len(kind), n_colours, dtype=torch.bool, device=kind.device)
        for colour in taken:
            free.scatter_(1, colour[:, None], False)
        return c.among(name, free)

    top_colour, top_pattern = _garment(c, "top", forbidden, plain=0.5)
    bottom_colour, bottom_pattern = _garment(c, "bottom", forbidden, plain=0.78)
    top_second = other("top second", top_colour)
    # A sign on a pattern hides both, so it is rare there. The held-out emblem is the last.
    emblem = torch.where((top_pattern == 0) | c.flag("emblem on a pattern", 0.25), c.pick("emblem", HELD_OUT_EMBLEM), 0)
    if unseen:
        emblem = torch.where(c.flag("unseen emblem", 0.5), HELD_OUT_EMBLEM, emblem)
    coat_colour = table(COAT_COLOURS)[c.pick("coat colour", len(COAT_COLOURS))]
    coat = c.pick("coat", len(COAT))
    top = c.pick("top", len(TOP))
    headgear = c.pick("headgear", len(HEADGEAR))
    hair_colour = table(HAIR_COLOURS)[c.pick("hair colour", len(HAIR_COLOURS))]
    widths = table(WIDTHS)
    return Identities(
        kind=kind,
        skin=c.pick("skin", len(SKIN_RGB)),
        hair=c.pick("hair", len(HAIR)),
        hair_colour=hair_colour,
        headgear=headgear,
        headgear_colour=other("headgear colour", hair_colour),
        face=c.pick("face", len(FACE)),
        top=top,
        top_colour=top_colour,
        top_second=top_second,
        top_pattern=top_pattern,
        top_width=widths[c.pick("top width", len(WIDTHS))],
        top_phase=c.pick("top phase", 3) / 4,
        emblem=emblem,
        emblem_colour=other("emblem colour", top_colour, top_second),
        bottom=c.pick("bottom", len(BOTTOM)),
        bottom_colour=bottom_colour,
        bottom_second=other("bottom second", bottom_colour),
        bottom_pattern=bottom_pattern,
        bottom_width=widths[c.pick("bottom width", len(WIDTHS))],
        bottom_phase=c.pick("bottom phase", 2) / 2,
        shoes=c.pick("shoes", n_colours),
        coat=coat,
        coat_colour=coat_colour,
        coat_second=other("coat second", coat_colour),
        coat_width=widths[c.pick("coat width", len(WIDTHS))],
        coat_phase=c("coat phase")[:, 0],
        socks=c.flag("socks", 0.4),
        saddle=c.flag("saddle", 0.6) & (coat == COAT.index("masked")),
        tail_tip=c.flag("tail tip", 0.4),
        collar=c.pick("collar", len(COLLAR)),
        collar_colour=other("collar colour", coat_colour),
    )


def garment_is_held_out(colour: torch.Tensor, pattern: torch.Tensor) -> torch.Tensor:
    return held_out_pairs().to(colour.device)[colour, pattern]


assert PATTERN[0] == "plain" and EMBLEM[HELD_OUT_EMBLEM] == EMBLEM[-1]
