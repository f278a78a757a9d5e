"""Sentences about a picture. They name some of the facts; what they leave out only a reference can give."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .background import Settings
from .chance import Chance
from .identity import Identities
from .pose import Poses
from .scene import Duo
from .words import BACKGROUND, BOTTOM, COAT, COLLAR, COLOUR, HAIR, HEADGEAR, KIND, LIGHT, PATTERN, PEOPLE, POSE, TOP

NAMED = 0.7  # how often a training caption names a trait that can be named

# Every phrasing of a fact, so that a prompt need not be guessed.
_OPENINGS = ("a picture of {}", "{}", "a drawing of {}", "an illustration of {}", "character art of {}", "a photo of {}")
_POSES = {
    "standing": ("standing", "standing still", "standing upright"),
    "arms raised": ("with arms raised", "raising both arms", "arms up"),
    "waving": ("waving", "waving a hand", "greeting"),
    "running": ("running", "running fast", "in full run"),
    "kneeling": ("kneeling", "on one knee", "kneeling down"),
    "jumping": ("jumping", "jumping up", "in mid-air"),
    "walking": ("walking", "walking along", "taking a walk"),
    "sitting": ("sitting", "sitting down", "seated"),
    "leaping": ("leaping", "in a leap", "leaping forward"),
}
_PLACES = {
    "beach": ("on a beach", "at the beach", "beach background"),
    "city": ("in a city at night", "in front of a city", "city background"),
    "brick wall": ("in front of a brick wall", "by a brick wall", "brick wall background"),
    "meadow": ("in a meadow", "on a green meadow", "meadow background"),
    "snow": ("in the snow", "in falling snow", "snow background"),
    "desert": ("in the desert", "in a desert", "desert background"),
    "forest": ("in a forest", "among forest trees", "forest background"),
    "studio": ("in a studio", "before a plain studio wall", "studio background"),
    "sea": ("in the sea", "before the waves of the sea", "sea background"),
    "room": ("in a room", "inside a room", "room background"),
}
_LIGHTS = {
    "daylight": ("in daylight", "daylight"),
    "evening light": ("in warm evening light", "evening light"),
    "moonlight": ("in cold moonlight", "moonlight"),
    "dim light": ("in dim light", "dim light"),
}
# Two characters: each with what it does, and where it stands; the place is told once.
_TOGETHER = ("{} {} on the {} and {} {} on the {}", "on the {2} {0} {1}, on the {5} {3} {4}", "{} {} on the {}, next to {} {} on the {}")
_SIDES = ("left", "right")
_COATS = {
    "plain": "plain {} fur",
    "tiger": "{} tiger fur",
    "spotted": "spotted {} fur",
    "patched": "patched {} fur",
    "masked": "{} fur and a mask",
}


@dataclass(frozen=True)
class Caption:
    """A sentence and the facts it names: `facts["top colour"] == "red"`."""

    text: str
    facts: dict[str, str]


def wears(who: Identities, row: int) -> dict[str, bool]:
    """Which pieces a subject visibly has."""
    person = int(who.kind[row]) < PEOPLE
    dress = TOP[int(who.top[row])] == "dress"
    return {
        "hair": person,
        "headgear": person and int(who.headgear[row]) > 0,
        "top": person,
        "bottom": person and not dress,
        "shoes": person,
        "coat": not person,
        "collar": not person and int(who.collar[row]) > 0,
    }


def facts_of(who: Identities, poses: Poses, settings: Settings, row: int) -> dict[str, str]:
    """Every fact that words can name about one picture."""
    has = wears(who, row)

    def word(table, name):
        return table[int(getattr(who, name)[row])]

    facts = {"kind": KIND[int(who.kind[row])]}
    if has["hair"]:
        facts |= {"hair": word(HAIR, "hair"), "hair colour": word(COLOUR, "hair_colour"), "headgear": word(HEADGEAR, "headgear")}
        facts |= {"top": word(TOP, "top"), "top colour": word(COLOUR, "top_colour"), "top pattern": word(PATTERN, "top_pattern")}
        facts["shoes colour"] = word(COLOUR, "shoes")
    if has["headgear"]:
        facts["headgear colour"] = word(COLOUR, "headgear_colour")
    if has["bottom"]:
        facts |= {"bottom": word(BOTTOM, "bottom"), "bottom colour": word(COLOUR, "bottom_colour")}
        facts["bottom pattern"] = word(PATTERN, "bottom_pattern")
    if has["coat"]:
        facts |= {"coat colour": word(COLOUR, "coat_colour"), "coat": word(COAT, "coat"), "collar": word(COLLAR, "collar")}
    if has["collar"]:
        facts["collar colour"] = word(COLOUR, "collar_colour")
    facts |= {
        "pose": POSE[int(poses.family[row])],
        "background": BACKGROUND[int(settings.background[row])],
        "light": LIGHT[int(settings.light[row])],
    }
    return facts


def _article(phrase: str) -> str:
    if phrase.split()[-1] in ("shoes", "trousers", "shorts", "bottoms", "hair", "fur"):
        return phrase
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


class Writer:
    """Turns named facts into a sentence; `say(name)` decides which facts are named, `choose(options)` how."""

    def __init__(self, facts: dict[str, str], say, choose):
        self.facts, self.choose = facts, choose
        self.said = {name: value for name, value in facts.items() if say(name)}

    def thing(self, noun: str, *adjectives: str) -> str | None:
        words = [self.said[a] for a in adjectives if a in self.said and self.said[a] != "plain"]
        return _article(" ".join([*words, noun])) if any(a in self.said for a in adjectives) else None

    def outfit(self) -> list[str]:
        facts, said = self.facts, self.said
        pieces = []
        if facts["kind"] in KIND[:PEOPLE]:
            pieces.append(self.thing("hair", "hair", "hair colour"))
            if said.get("headgear", "none") != "none":
                pieces.append(self.thing(said["headgear"], "headgear colour") or _article(said["headgear"]))
            else:
                said.pop("headgear colour", None)
            pieces.append(self.thing(said.get("top", "top"), "top colour", "top pattern") or (said.get("top") and _article(said["top"])))
            if "bottom" in facts:
                bottom = said.get("bottom")
                noun = bottom or "bottoms"
                pieces.append(self.thing(noun, "bottom colour", "bottom pattern") or (bottom and _article(bottom)))
            pieces.append(self.thing("shoes", "shoes colour"))
        elif "coat" in said or "coat colour" in said:
            pattern = _COATS[said.get("coat", "plain")] if "coat" in said else "{} fur"
            pieces.append(" ".join(pattern.format(said.get("coat colour", "")).split()))
        if said.get("collar", "none") != "none":
            pieces.append(self.thing(said["collar"], "collar colour") or _article(said["collar"]))
        elif "collar" in facts:
            said.pop("collar colour", None)
        return [piece for piece in pieces if piece]

    def _told(self, *tables: tuple[str, dict]) -> list[str]:
        return [self.choose(table[self.said[name]]) for name, table in tables if name in self.said]

    def doing(self) -> list[str]:
        return self._told(("pose", _POSES))

    def around(self) -> list[str]:
        return self._told(("background", _PLACES), ("light", _LIGHTS))

    def where(self) -> list[str]:
        return self.doing() + self.around()

    def subject(self) -> str:
        pieces = self.outfit()
        kind = _article(self.facts["kind"])
        self.said["kind"] = self.facts["kind"]
        if not pieces:
            return kind
        if self.choose((True, False)):
            listed = pieces[0] if len(pieces) == 1 else f"{', '.join(pieces[:-1])} and {pieces[-1]}"
            return f"{kind} with {listed}"
        return ", ".join([kind, *pieces])

    def sentence(self) -> str:
        return ", ".join([self.choose(_OPENINGS).format(self.subject()), *self.where()])


def _speaker(chance: Chance, row: int, named: float):
    """`say` and `choose` for one row of a batch, both from the row's seed."""
    numbers = iter(chance("words", 64)[row].tolist())
    return (lambda _: next(numbers) < named), (lambda options: options[min(int(next(numbers) * len(options)), len(options) - 1)])


def write_captions(
    seeds: torch.Tensor, who: Identities, poses: Poses, settings: Settings, named: float | list[float] = NAMED
) -> list[Caption]:
    """A caption for every picture of a batch, from integer seeds. `named`: the share of facts told, for all or for each."""
    chance = Chance(seeds, "caption")
    captions = []
    for row in range(len(who)):
        say, choose = _speaker(chance, row, named[row] if isinstance(named, list) else named)
        writer = Writer(facts_of(who, poses, settings, row), say, choose)
        text = writer.sentence()
        captions.append(Caption(text, dict(writer.said)))
    return captions


def write_pair_captions(
    seeds: torch.Tensor,
    who: Identities,
    poses: tuple[Poses, Poses],
    settings: tuple[Settings, Settings],
    openings: list[str],
    named: float | list[float] = NAMED,
) -> list[Caption]:
    """Captions of two pictures of one subject on one canvas; `openings` hold the subject in braces.

    What is said of the second picture is under the same names with a 2: its pose is `facts["pose 2"]`.
    """
    chance = Chance(seeds, "pair caption")
    captions = []
    for row, opening in enumerate(openings):
        say, choose = _speaker(chance, row, named[row] if isinstance(named, list) else named)
        first = Writer(facts_of(who, poses[0], settings[0], row), say, choose)
        second = Writer(facts_of(who, poses[1], settings[1], row), say, choose)
        places = [", ".join(w.where()) or "a view" for w in (first, second)]
        text = f"{opening.format(first.subject())}: {places[0]}; {places[1]}"
        there = {f"{name} 2": second.said[name] for name in ("pose", "background", "light") if name in second.said}
        captions.append(Caption(text, first.said | there))
    return captions


def duo_caption(first: Writer, second: Writer, left: bool) -> Caption:
    """One sentence on two characters; what it says of the second is under the same names with a 2."""
    sides = _SIDES if left else _SIDES[::-1]
    told = [word for w, side in zip((first, second), sides, strict=True) for word in (w.subject(), " ".join(w.doing()), side)]
    text = " ".join(first.choose(_TOGETHER).format(*told).replace(" ,", ",").split())
    there = {f"{name} 2": value for name, value in second.said.items() if name not in ("background", "light")}
    return Caption(", ".join([text, *first.around()]), first.said | there)


def write_duo_captions(seeds: torch.Tensor, duo: Duo, named: float | list[float] = NAMED) -> list[Caption]:
    """Captions of two characters in one place, from integer seeds."""
    chance = Chance(seeds, "duo caption")
    captions = []
    for row, left in enumerate(duo.left.tolist()):
        say, choose = _speaker(chance, row, named[row] if isinstance(named, list) else named)
        both = [facts_of(who, poses, duo.settings, row) for who, poses in zip(duo.identities, duo.poses, strict=True)]
        captions.append(duo_caption(*(Writer(facts, say, choose) for facts in both), left))
    return captions
