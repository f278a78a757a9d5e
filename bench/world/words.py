"""What exists in the world and what it is called; what training never sees."""

from __future__ import annotations

import torch

COLOURS = {
    "red": (204, 38, 38),
    "orange": (240, 132, 28),
    "yellow": (242, 208, 52),
    "green": (40, 146, 60),
    "blue": (44, 84, 208),
    "purple": (130, 54, 172),
    "pink": (242, 132, 184),
    "brown": (116, 70, 38),
    "black": (34, 34, 40),
    "white": (240, 240, 240),
}
COLOUR = list(COLOURS)
COLOUR_RGB = torch.tensor(list(COLOURS.values()), dtype=torch.float32) / 255
SKIN_RGB = torch.tensor([(252, 216, 188), (238, 190, 152), (214, 158, 114), (178, 120, 80), (136, 86, 56), (94, 60, 42)]) / 255

KIND = ["man", "woman", "child", "cat", "dog", "fox", "horse", "bear", "rabbit"]
PEOPLE = 3  # the first three kinds

PATTERN = ["plain", "striped", "banded", "checked", "dotted", "diagonal", "zigzag"]
COAT = ["plain", "tiger", "spotted", "patched", "masked"]
EMBLEM = ["none", "disc", "square", "cross", "star", "heart", "triangle", "ring", "diamond"]
TOP = ["t-shirt", "sweater", "tank top", "jacket", "dress"]
BOTTOM = ["trousers", "shorts", "skirt"]
HAIR = ["short", "long", "bun", "curly", "spiky"]
HEADGEAR = ["none", "cap", "beanie", "headband"]
COLLAR = ["none", "collar", "scarf"]
FACE = ["none", "blush", "eyepatch", "glasses", "freckles"]
# Hair keeps to colours that no skin or headgear is confused with by a reader; any colour is allowed for cloth.
HAIR_COLOURS = [COLOUR.index(c) for c in ("black", "brown", "yellow", "orange", "white", "pink", "blue", "purple")]
COAT_COLOURS = [COLOUR.index(c) for c in ("black", "brown", "orange", "white", "yellow", "pink", "blue")]

PERSON_POSE = ["standing", "arms raised", "waving", "running", "kneeling", "jumping"]
ANIMAL_POSE = ["standing", "walking", "sitting", "leaping"]
POSE = ["standing", "arms raised", "waving", "running", "kneeling", "jumping", "walking", "sitting", "leaping"]
BACKGROUND = ["beach", "city", "brick wall", "meadow", "snow", "desert", "forest", "studio", "sea", "room"]
LIGHT = ["daylight", "evening light", "moonlight", "dim light"]
LIGHT_RGB = torch.tensor([(1.0, 1.0, 1.0), (1.06, 0.92, 0.72), (0.72, 0.86, 1.06), (0.7, 0.7, 0.72)])

HELD_OUT_PATTERN = PATTERN.index("zigzag")
HELD_OUT_EMBLEM = EMBLEM.index("diamond")


def held_out_pairs() -> torch.Tensor:
    """`(colour, pattern)` table of the garments that training never sees: a fifth of all pairs, plus one pattern whole."""
    colour = torch.arange(len(COLOUR))[:, None]
    pattern = torch.arange(len(PATTERN))[None, :]
    pairs = (colour + 2 * pattern) % 5 == 0
    return pairs | (pattern == HELD_OUT_PATTERN)
