"""Where the character is on its picture: one cascade for every host."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .background import before_background
from .grabcut import guessed
from .mask import FULL, Subject, everything, subject_of
from .pixels import AlignError, Mask, Pixels, as_bytes

Way = Callable[[Pixels], Subject]  # finds the subject on RGB pixels, or raises AlignError
AUTO = ("asked", "alpha", "background", "mediapipe", "rembg", "controlnet", "attention", "grabcut")  # in this order, after what was drawn
MISSING = {
    "mediapipe": "mediapipe, or the model inside it, is not installed here: outline the character.",
    "rembg": "rembg is not installed here: outline the character, or give a picture with a transparent background.",
    "controlnet": "ControlNet has no files of a segmentation preprocessor here: outline the character.",
    "attention": 'The model has not been asked where this character is: press "Ask the model", or outline the character.',
}
UNFOUND = ("SeAl did not find the character on the reference, so the whole picture counts. Outline the character, or make the background "
           "transparent.")  # fmt: skip


def find_subject(
    rgb: Pixels,
    alpha: Pixels | None = None,
    drawn: Mask | None = None,
    source: str = "auto",
    ways: Mapping[str, Way] | None = None,
) -> Subject:
    """The subject of a picture (RGB on white). `ways`: what the host has beside the picture itself: segmenters, attention, and
    what a user asked the model for by hand (`asked`).

    `auto` takes the first way that finds a subject and is sure of it, or was asked by hand; else the surest guess. AlignError where a drawn
    mask or a chosen source finds nothing: no other way is tried in its place.
    """
    known: dict[str, Way] = {
        "drawn": lambda _: _of_drawn(drawn),
        "alpha": lambda _: _of_alpha(alpha),
        "background": before_background,
        "grabcut": guessed,
        "whole": lambda seen: everything(*seen.shape[:2]),
        **(ways or {}),
    }
    if source == "auto" and drawn is not None:
        source = "drawn"
    if source != "auto":
        if source not in known:
            raise AlignError(MISSING.get(source, f"{source[:40]!r} is not a way to find the character."))
        return known[source](rgb)
    failed: list[str] = []
    guesses: list[Subject] = []
    for name in AUTO:
        if name not in known or (name == "alpha" and alpha is None) or (name == "grabcut" and guesses):
            continue
        try:
            found = known[name](rgb)
        except AlignError as error:
            failed.append(str(error))
            continue
        if found.mask.mean() > FULL:
            failed += found.reasons
        elif found.guess and name != "asked":  # the user asked for that guess, and sees it
            guesses.append(found)
        else:
            return found
    if guesses:
        return max(guesses, key=lambda one: one.sure)
    return everything(*rgb.shape[:2], " ".join((UNFOUND, *dict.fromkeys(failed))))


def _of_drawn(drawn: Mask | None) -> Subject:
    if drawn is None:
        raise AlignError("No mask was drawn: paint over the character.")
    return subject_of(drawn, "drawn")


def _of_alpha(alpha: Pixels | None) -> Subject:
    """The opaque part of a picture with an alpha channel."""
    if alpha is None:
        raise AlignError("The reference has no alpha channel.")
    opaque: Mask = as_bytes(alpha) > 127
    if opaque.all():
        raise AlignError("The reference's alpha channel has no transparent part.")
    return subject_of(opaque, "alpha")
