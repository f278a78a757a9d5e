"""`studio mask`: where the reference's subject is, by the best way there is, drawn on the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from seal_ext.core import subject as masks
from seal_ext.core.subject import AlignError, Subject
from seal_ext.studio.attention import subject_heat
from seal_ext.studio.cli import Parser, UserError, add_model, add_reference, add_settings, read_settings
from seal_ext.studio.drawing import mask_overlay
from seal_ext.studio.models import Studio, open_studio
from seal_ext.studio.pictures import beside, on_white, png, read_picture, write_picture

EXAMPLES = """\
  python -m seal_ext.studio mask --reference knight.png
  python -m seal_ext.studio mask --reference photo.jpg --subject "a woman" --set mask_source=attention --checkpoint sd15.safetensors
"""
EVEN = 0.9  # the share of the border that must look alike for a background to be plain
Heat = Callable[[], np.ndarray]


def find_subject(picture: np.ndarray, source: str = "auto", drawn: np.ndarray | None = None, heat: Heat | None = None) -> Subject:
    """The subject of a reference (RGB or RGBA). `heat` asks the model where it is, and is called only when nothing better is known."""
    ways = {
        "drawn": lambda: _of_drawn(drawn, picture),
        "alpha": lambda: masks.from_alpha(picture),
        "background": lambda: masks.from_control_map(on_white(picture), "background"),
        "rembg": lambda: masks.from_rembg(on_white(picture)),
        "attention": lambda: _of_attention(picture, heat),
        "whole": lambda: masks.subject_of(np.ones(picture.shape[:2], bool), "whole"),
    }
    if source != "auto":
        return ways[source]()
    possible = {
        "drawn": drawn is not None,
        "alpha": picture.shape[2] == 4,
        "background": plain_border(on_white(picture)),
        "rembg": masks.has_rembg(),
        "attention": heat is not None,
    }
    failed: list[str] = []
    for way in (way for way, holds in possible.items() if holds):
        try:
            found = ways[way]()
            if found.mask.mean() <= masks.FULL:
                return replace(found, reasons=(*failed, *found.reasons))
            failed += found.reasons
        except (AlignError, UserError) as error:
            if way == "drawn":  # what the user gave is not passed over
                raise
            failed.append(f"{str(error).rstrip('.')}.")
    told = "Nothing tells the subject from its background, so the whole picture counts: draw a mask."
    return replace(ways["whole"](), reasons=(*failed, told))


def _of_drawn(drawn: np.ndarray | None, picture: np.ndarray) -> Subject:
    if drawn is None:
        raise UserError("the mask is to be the drawn one, but none was given: --mask IMAGE")
    found = masks.from_drawn(drawn)
    if found.size == picture.shape[1::-1]:
        return found
    (height, width), (w, h) = picture.shape[:2], found.size
    if abs(w * height / (h * width) - 1) > 0.02:
        raise UserError(f"the mask is {w} × {h} pixels, which is another shape than the reference's {width} × {height}")
    return masks.from_drawn(cv2.resize(drawn, (width, height), interpolation=cv2.INTER_LINEAR))


def _of_attention(picture: np.ndarray, heat: Heat | None) -> Subject:
    if heat is None:
        raise UserError("attention can find the subject only by words: give --subject")
    return masks.from_probability(on_white(picture), heat())


def plain_border(picture: np.ndarray) -> bool:
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]).astype(np.int16)
    return bool((np.abs(border - np.median(border, 0)).max(1) <= masks.FLAT).mean() > EVEN)


def heat_of(studio: Callable[[], Studio], picture: np.ndarray, prompt: str, words: str | None) -> Heat | None:
    """The model's own view of the subject; None where no words name it."""
    if not (prompt.strip() or words):
        return None
    return lambda: subject_heat(studio(), on_white(picture), prompt or words, words)


def say(subject: Subject) -> None:
    box = subject.box
    print(f"subject: {subject.source}, {subject.mask.mean():.0%} of the picture, "
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
    picture = read_picture(options.reference, "the reference")
    drawn = None if options.mask is None else read_picture(options.mask, "the mask")

    def studio() -> Studio:
        return open_studio(options.checkpoint, options.adapter, options.config, options.device)

    subject = find_subject(picture, settings.mask_source, drawn, heat_of(studio, picture, "", options.subject))
    say(subject)
    write_picture((subject.mask * 255).astype(np.uint8), out)
    overlay = write_picture(mask_overlay(on_white(picture), subject.mask), beside(out, "overlay"))
    print(f"{out}\n{overlay}")
    return 0
