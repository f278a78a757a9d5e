"""Learned characters on the command line: which to draw with, how strongly, and what to say of them."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seal_ext.hosts.learned import Learned
from seal_ext.learning.character import Character, CharacterError, hash_of, read
from seal_ext.learning.words import stands_in
from seal_ext.studio.cli import UserError
from seal_ext.studio.models import Studio

WEAKEST, STRONGEST = 0.0, 2.0


@dataclass(frozen=True)
class Characters:
    """Those to draw with; each takes part where the prompt says its word."""

    all: tuple[Character, ...] = ()
    strengths: tuple[float, ...] = ()

    def on(self, pipe: object) -> Learned:
        try:
            return Learned(pipe, self.all, {one.word: strength for one, strength in zip(self.all, self.strengths, strict=True)})
        except CharacterError as error:
            raise UserError(error) from error

    def notes(self, studio: Studio, prompt: str) -> list[str]:
        """What the user should know before they wonder."""
        base = hash_of(studio.checkpoint) if self.all and studio.checkpoint else ""
        other = [one.against(base) for one in self.all if base]
        unsaid = [f"The prompt does not say “{one.word}”, so that character takes no part."
                  for one in self.all if not stands_in(one.word, prompt)]  # fmt: skip
        return [note for note in other if note] + unsaid


NOBODY = Characters()


def add_characters(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("learned characters", "files that `studio learn` wrote; say the character's word in the prompt")
    group.add_argument("--character", action="append", default=[], metavar="FILE[=STRENGTH]", dest="characters",
                       help=f"may be repeated; the strength is 1 if not given, and may go from {WEAKEST:g} to {STRONGEST:g}")  # fmt: skip


def read_characters(given: Sequence[str]) -> Characters:
    found, strengths = [], []
    for text in given:
        name, strength = _parted(text)
        try:
            found.append(read(Path(name)))
        except CharacterError as error:
            raise UserError(f"--character {error}") from error
        strengths.append(strength)
    words = [character.word for character in found]
    if twice := next((word for word in words if words.count(word) > 1), None):
        raise UserError(f"two of the characters have the word {twice!r}; draw with one of them")
    return Characters(tuple(found), tuple(strengths))


def _parted(text: str) -> tuple[str, float]:
    name, equals, number = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        strength = float(number)
    except ValueError:
        return text, 1.0  # a file's name may hold the sign, too
    if not WEAKEST <= strength <= STRONGEST:
        raise UserError(f"--character {text[-60:]!r}: the strength must lie between {WEAKEST:g} and {STRONGEST:g}")
    return name, strength
