"""`studio mask`: where the reference's subject is, by the best way there is, drawn on the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from seal_ext.core.mask import Subject
from seal_ext.core.overlay import mask_overlay
from seal_ext.reference import Reference, drawn_on, pose_of
from seal_ext.settings import Settings
from seal_ext.studio.attention import ways
from seal_ext.studio.cli import Parser, add_model, add_reference, add_settings, read_settings
from seal_ext.studio.models import Studio, studio_of
from seal_ext.studio.pictures import beside, png, read_picture, write_picture

EXAMPLES = """\
  python dev.py studio mask --reference knight.png
  python dev.py studio mask --reference photo.jpg --subject "a woman" --set mask_source=attention --checkpoint sd15.safetensors
"""


def read_reference(picture: Path | str, mask: Path | str | None = None, pose: Path | str | None = None) -> Reference:
    """A reference and what comes beside it, from files; nobody has looked for its subject yet."""
    reference = Reference(read_picture(picture, "the reference"))
    if mask:
        reference = replace(reference, drawn=drawn_on(reference.size, read_picture(mask, "the mask")))
    if pose:
        reference = replace(reference, pose=pose_of(reference.size, read_picture(pose, "the reference's pose")))
    return reference


def find_subject(
    reference: Reference, settings: Settings, studio: Callable[[], Studio], prompt: str = "", words: str | None = None
) -> Reference:
    """The reference with its subject; the model is asked only where nothing better is known."""
    return reference.found(settings.mask_source, ways(studio, prompt, words))


def say(subject: Subject) -> None:
    box = subject.box
    print(f"subject: {subject.source}{' (a guess)' if subject.guess else ''}, {subject.mask.mean():.0%} of the picture, "
          f"from ({box.x0:.0f}, {box.y0:.0f}) to ({box.x1:.0f}, {box.y1:.0f})")  # fmt: skip
    for reason in subject.reasons:
        print(f"  {reason}")


def main(argv: list[str]) -> int:
    parser = Parser(prog="studio mask", description=__doc__, examples=EXAMPLES)
    add_reference(parser)
    add_model(parser)
    add_settings(parser)
    parser.add_argument("--out", type=Path, default=Path("mask.png"), help="the mask's file; the overlay is written beside it")
    options = parser.parse_args(argv)
    out, settings = png(options.out), read_settings(options.preset, options.changes)
    given = read_reference(options.reference, options.mask)
    reference = find_subject(given, settings, lambda: studio_of(options), "", options.subject)
    say(reference.seen)
    write_picture((reference.seen.mask * 255).astype(np.uint8), out)
    overlay = write_picture(mask_overlay(reference.rgb, reference.seen.mask), beside(out, "overlay"))
    print(f"{out}\n{overlay}")
    return 0
