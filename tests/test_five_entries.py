"""ControlNet's units, the routes, the page's preview, the studio and the bench: of one picture and one map all five make the same."""

import base64
import io
import json
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from bench.identity.known import on_references
from seal_ext import api
from seal_ext.core.anchor_align import OFF, UNKNOWN
from seal_ext.core.mask import Box
from seal_ext.reference import Reference
from seal_ext.request import NAMES, looked, parse
from seal_ext.settings import BY_NAME, Settings
from seal_ext.studio.align import align_structure
from seal_ext.studio.mask import find_subject, read_reference
from seal_ext.ui import preview
from tests.hosts.test_controlnet import Unit, controlnet, seal  # noqa: F401 - `controlnet` is a fixture

SIDE, WHERE = 64, (24, 12, 40, 52)  # of all pictures, and where the character stands
WISHES = {"enabled": True, "margin": 0.0}


def filled(left, top, right, bottom, back, front, channels=3):
    image = np.zeros((SIDE, SIDE, channels), np.uint8)
    image[:], image[top:bottom, left:right] = back, front
    return image


def outlines():
    """A body's outline, and beside it a small part that is no speck: a hand."""
    image = cv2.rectangle(np.zeros((SIDE, SIDE, 3), np.uint8), (6, 20), (25, 57), (255, 255, 255))
    return cv2.rectangle(image, (30, 10), (33, 14), (255, 255, 255))


HIDDEN = filled(*WHERE, (255, 0, 0, 0), (20, 40, 60, 255), 4)
EVEN = filled(*WHERE, (200, 210, 220), (200, 30, 40))
BUSY = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
SOLID = filled(4, 10, 12, 30, (0, 0, 0), (255, 255, 255))
CASES = {
    "alpha over hidden red": (HIDDEN, SOLID, None, True),
    "even background": (EVEN, SOLID, None, True),
    "edges in several parts": (EVEN, outlines(), "edges", True),
    "subject not found": (BUSY, SOLID, None, False),
}


def text(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def opened(given):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(given.rpartition(",")[2]))))


def unit_of(structure, kind):
    return Unit(image=structure, model="some_canny" if kind == "edges" else "some_t2ia")


def by_controlnet(net, picture, structure, kind, **more):
    """A generation with one unit: the mask, what is known of the alignment, and the map that ControlNet gets."""
    reference = looked(parse([{"reference": text(picture)}]).references[0], "auto")
    given = unit_of(structure, kind)
    run = seal([given], **more)
    run.references = [reference]
    run.align(net)
    found = net.there().find(given, reference, run.settings, (SIDE, SIDE))
    assert np.array_equal(run.p.script_args[1].image, found.map) and (run.p.script_args[1] is given) != found.moves
    assert np.array_equal(run.found.figures, [] if found.figure is None else [found.figure])
    return reference.subject.mask, found


def by_routes(picture, structure, kind):
    given = {"reference": text(picture)}
    mask = opened(api.mask(given)["mask"]) > 127
    return mask, api.align(given | {"structure": text(structure), "kind": kind or "auto", "width": SIDE, "height": SIDE, "margin": 0.0})


def by_preview(net, monkeypatch, picture, structure, kind):
    monkeypatch.setattr(preview, "SMALLEST", SIDE)  # or it shows everything larger
    wished = WISHES | {"reference": Image.fromarray(picture)}
    values = [wished.get(name, BY_NAME[name].default if name in BY_NAME else None) for name in NAMES]
    host = SimpleNamespace(there=net.there, structures=net.structures, strange=net.strange)
    seen = preview.look(values, (SIDE, SIDE), [unit_of(structure, kind)], host)
    return json.loads(seen.picture), seen.told


def by_studio(folder, picture, structure, kind):
    Image.fromarray(picture).save(folder / "reference.png")
    settings = Settings.parse(WISHES)
    reference = find_subject(read_reference(folder / "reference.png"), settings, lambda: pytest.fail("the model was asked"))
    return reference.subject.mask, align_structure(reference, structure, (SIDE, SIDE), settings, kind or "auto")


def by_bench(picture, structure, kind, **more):
    reference = Reference.of(torch.from_numpy(picture).permute(2, 0, 1).float() / 255).found()
    hint = torch.from_numpy(structure).permute(2, 0, 1).float() / 255
    placed = on_references([reference], hint[None], Settings.parse(WISHES | more), kind)
    (aligned,) = placed.structures
    assert np.array_equal((placed.hints[0] * 255).round().byte().permute(1, 2, 0), aligned.map)
    return reference.subject.mask, aligned


@pytest.mark.parametrize("case", CASES)
def test_all_five_agree(controlnet, monkeypatch, tmp_path, case):  # noqa: F811
    *given, known = CASES[case]
    mask, wanted = by_controlnet(controlnet, *given)
    assert wanted.moves == known and mask.all() != known
    for their_mask, aligned in (by_studio(tmp_path, *given), by_bench(*given)):
        assert np.array_equal(their_mask, mask) and np.array_equal(aligned.map, wanted.map) and aligned.moves == known
        assert replace(aligned.alignment, mode="", reasons=()) == replace(wanted.alignment, mode="", reasons=())
        assert (aligned.figure is None) == (wanted.figure is None) and np.array_equal(aligned.figure, wanted.figure)
    their_mask, said = by_routes(*given)
    assert np.array_equal(their_mask, mask) and np.array_equal(opened(said["image"]), wanted.map) and said["known"] == known
    assert Box(**said["boxes"]["reference"]) == wanted.alignment.reference_box
    assert Box(**said["boxes"]["aligned"]) == wanted.alignment.aligned_box
    page, told = by_preview(controlnet, monkeypatch, *given)
    counts = opened(page["base"])[..., 3] == 255
    around = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0  # the outline has a width
    assert counts[mask].all() and not counts[~around].any()
    (unit,) = page["units"]
    assert np.array_equal(opened(unit["map"])[..., :3], wanted.map) and unit["stays"] != known
    assert any(UNKNOWN in sentence for sentence in told) != known
    if known:
        assert Box(*unit["after"]) == wanted.alignment.aligned_box and Box(*unit["reference"]) == wanted.alignment.reference_box


def test_every_part_of_an_edge_map_counts(controlnet):  # noqa: F811
    _, found = by_controlnet(controlnet, *CASES["edges in several parts"][:3])
    assert (found.alignment.structure_box.y0, found.alignment.structure_box.x1) == (10, 34)


def test_switched_off_the_structure_lies_where_its_resize_mode_puts_it(controlnet):  # noqa: F811
    for _, found in (by_controlnet(controlnet, EVEN, SOLID, None, align=False), by_bench(EVEN, SOLID, None, align=False)):
        assert np.array_equal(found.map, SOLID) and not found.moves and found.alignment.reasons == (OFF,) and found.figure is not None
