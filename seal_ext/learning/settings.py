"""How a character is learned: frozen, and checked once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

KINDS = ("stages", "inversion", "lora")
ANCHORS = ("none", "pretrained", "tuned")
LATENTS = ("class", "subject")


class LearningError(ValueError):
    """What cannot be learned, or not so; its text is the sentence that the user reads."""


@dataclass(frozen=True)
class Learning:
    """Defaults are a beginning: few were compared on the embedded model, and none on a real checkpoint."""

    kind: str = "stages"  # stage tokens, one vector (textual inversion), or LoRA weights
    stages: int = 5
    steps: int = 400
    rate: float = 0.15  # in units of the encoder's own vectors; LoRA's is a hundredth
    batch: int = 8
    attention: float = 0.03  # weight of the attention loss
    outside: float = 0.0  # how much places beside the subject count
    posed: float = 0.6  # share of the examples that show the model their pose, where that is known and an adapter is there
    anchor: str = "none"  # the model whose prediction for the class holds the subject's
    anchor_on: str = "class"  # on a picture of the class, or on the subject's own
    anchor_weight: float = 0.5
    rank: int = 8
    seed: int = 0
    checkpointing: bool = False  # less memory, a third slower
    half: bool = False  # the model computes in bfloat16: twice as fast on processors that have it

    def __post_init__(self) -> None:
        for name, options in (("kind", KINDS), ("anchor", ANCHORS), ("anchor_on", LATENTS)):
            if getattr(self, name) not in options:
                raise LearningError(f"{name} is {str(getattr(self, name))[:40]!r}; it must be one of {', '.join(options)}.")
        for name, (low, high) in RANGES.items():
            value, kind = getattr(self, name), int if isinstance(getattr(Learning, name), int) else float
            fits = isinstance(value, (int, kind)) and not isinstance(value, bool) and math.isfinite(value)
            if not fits or not low <= value <= high:
                raise LearningError(f"{name} is {str(value)[:40]}; it must be a number from {low:g} to {high:g}.")
        for name in ("checkpointing", "half"):
            if not isinstance(getattr(self, name), bool):
                raise LearningError(f"{name} must be on or off.")
        if self.anchor == "tuned" and self.kind != "lora":
            raise LearningError("Only LoRA changes the model, so for tokens the tuned anchor would be the pretrained one.")

    @property
    def told(self) -> dict[str, Any]:
        """As a file's metadata keeps them."""
        return asdict(self)

    @classmethod
    def parse(cls, given: dict[str, Any]) -> Learning:
        known = {field.name for field in fields(cls)}
        if strange := sorted(given.keys() - known):
            raise LearningError(f"There is no setting {str(strange[0])[:40]!r}; there are {', '.join(sorted(known))}.")
        return cls(**given)


RANGES = {
    "stages": (1, 20), "steps": (1, 100_000), "rate": (1e-6, 1.0), "batch": (1, 64), "attention": (0.0, 100.0), "outside": (0.0, 1.0),
    "posed": (0.0, 1.0), "anchor_weight": (0.0, 100.0), "rank": (1, 256), "seed": (0, 2**31),
}  # fmt: skip
