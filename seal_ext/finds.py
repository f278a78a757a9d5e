"""Subjects that were found: how long they are remembered, and what there is to say of them."""

from __future__ import annotations

from .core.mask import Subject
from .latest import Latest

# How the outline was found, by the names of find_subject's ways.
FOUND = {
    "alpha": "The outline is your picture's own transparency.",
    "drawn": "The outline is the one that you gave.",
    "background": "SeAl told your character from the even background.",
    "mediapipe": "SeAl found your character with mediapipe.",
    "rembg": "SeAl found your character with rembg.",
    "controlnet": "SeAl found your character with ControlNet's segmentation preprocessor.",
    "attention": "The model itself found your character.",
    "grabcut": "SeAl found what stands out from the rest.",
    "whole": "You chose the whole picture, so its background counts, too.",
}
GIVEN = ("alpha", "drawn", "whole")  # by the user: there is nothing to be sure of
MOST, MOST_BYTES = 64, 1 << 26  # subjects, and bytes of their masks


def finds() -> Latest[Subject]:
    """A memory for subjects."""
    return Latest(MOST, MOST_BYTES, lambda subject: subject.mask.nbytes)


def outlined(subject: Subject) -> tuple[str, ...]:
    """How a subject was found, and how sure that is; nothing where `doubts` speak."""
    if doubts(subject):
        return ()
    sure = "" if subject.source in GIVEN else f" SeAl is {subject.sure:.0%} sure of this outline."
    return (FOUND[subject.source] + sure, *subject.reasons)


def doubts(subject: Subject) -> tuple[str, ...]:
    """What somebody should look at before a picture is drawn."""
    return subject.reasons if subject.guess or not subject.known else ()
