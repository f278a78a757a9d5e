"""`studio align`: the structure where the reference's figure is, as large as it is; with both boxes, and why."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

from seal_ext.core.anchor_align import Aligned, anchor_align, shows_body
from seal_ext.core.canvas import FILL
from seal_ext.core.control_map import BLACK_BEHIND
from seal_ext.core.geometry import Alignment
from seal_ext.core.pixels import AlignError, Pixels, on_white
from seal_ext.detectors import posed
from seal_ext.reference import Reference
from seal_ext.settings import Settings
from seal_ext.studio.cli import Parser, UserError, add_model, add_reference, add_settings, read_settings
from seal_ext.studio.drawing import boxes_overlay
from seal_ext.studio.mask import find_subject, read_reference, say
from seal_ext.studio.models import studio_of
from seal_ext.studio.pictures import beside, png, read_picture, write_picture

EXAMPLES = """\
  python dev.py studio align --reference knight.png --structure pose.png
  python dev.py studio align --reference knight.png --structure depth.png --structure-kind depth --set anchor=centre --size 512x768
"""
KINDS = ("auto", *BLACK_BEHIND, "depth", "render")
SMALLEST, LARGEST = 64, 4096
PREVIEW = 1024  # pixels of the longer side at which an alignment is shown


def add_structure(parser: ArgumentParser, required: bool = False) -> None:
    group = parser.add_argument_group("structure")
    group.add_argument("--structure", type=Path, metavar="IMAGE", required=required, help="the new pose: skeleton, silhouette, depth …")
    group.add_argument("--structure-kind", default="auto", choices=KINDS, help="what kind of map that is")
    group.add_argument("--reference-pose", type=Path, metavar="IMAGE", help="the reference's own skeleton, if you have it: scales exactly")
    group.add_argument("--size", metavar="WxH", help="the picture's size, such as 512x768; the model's own if not given")


def read_size(text: str | None, usual: int) -> tuple[int, int]:
    """`512x768`, or `512` for a square; the U-Net halves the latent three times, so sides are multiples of 64."""
    if text is None:
        return usual, usual
    read = re.fullmatch(r"\s*(\d{1,5})(?:\s*[x×,]\s*(\d{1,5}))?\s*", text)
    width, height = (int(read[1]), int(read[2] or read[1])) if read else (0, 0)
    if not all(SMALLEST <= side <= LARGEST and side % 64 == 0 for side in (width, height)):
        raise UserError(f"--size {text[:30]!r} is not WIDTHxHEIGHT in multiples of 64 from {SMALLEST} to {LARGEST}")
    return width, height


def align_structure(reference: Reference | None, structure: Pixels, canvas: tuple[int, int], settings: Settings, kind: str) -> Aligned:
    """The structure on the canvas; without a reference there is nothing to align it with."""
    known, subject = None if kind == "auto" else kind, None
    try:
        if reference is not None and settings.align:
            reference, told = posed(reference) if shows_body(structure, known) else (reference, ())
            subject = replace(reference.standing, reasons=told)  # what there is to say of the subject was said when it was found
        return anchor_align(subject, structure, canvas, FILL, FILL, known, room=settings.room, **settings.alignment())
    except AlignError as error:
        raise UserError(f"{error} To use the structure as it is: --set align=off") from None


def say_alignment(found: Alignment) -> None:
    x, y = found.shift
    print(f"alignment: {found.scale:.2f} times as large ({found.rule}), shifted by ({x:+.0f}, {y:+.0f}), {found.anchor} on {found.anchor}")
    for reason in found.reasons:
        print(f"  {reason}")


def main(argv: list[str]) -> int:
    parser = Parser(prog="studio align", description=__doc__, examples=EXAMPLES)
    add_reference(parser)
    add_structure(parser, required=True)
    add_model(parser)
    add_settings(parser)
    parser.add_argument("--out", type=Path, default=Path("aligned.png"), help="the aligned structure; the overlay is written beside it")
    options = parser.parse_args(argv)
    out, settings = png(options.out), read_settings(options.preset, options.changes)
    given = read_reference(options.reference, options.mask, options.reference_pose)
    structure = on_white(read_picture(options.structure, "the structure"))
    canvas = read_size(options.size, 0) if options.size else canvas_like(given.pixels)
    reference = find_subject(given, settings, lambda: studio_of(options), "", options.subject)
    aligned = align_structure(reference, structure, canvas, settings, options.structure_kind)
    say(reference.seen)
    say_alignment(aligned.alignment)
    write_picture(aligned.map, out)
    shown = boxes_overlay(aligned.map, on_canvas(reference, canvas), aligned.alignment)
    print(f"{out}\n{write_picture(shown, beside(out, 'overlay'))}")
    return 0


def canvas_like(picture: Pixels) -> tuple[int, int]:
    """The reference's own shape, for want of a model's size: aligning needs no weights."""
    height, width = picture.shape[:2]
    shrink = min(1.0, PREVIEW / max(height, width))
    width, height = (max(SMALLEST, round(side * shrink / 64) * 64) for side in (width, height))
    return width, height


def on_canvas(reference: Reference, canvas: tuple[int, int]) -> Pixels:
    """The reference as the sampler sees it: whole, in the middle."""
    image, _, _ = reference.on_canvas(canvas[1], canvas[0])
    shown: Pixels = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    return shown
