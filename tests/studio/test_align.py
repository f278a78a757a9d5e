"""Finding the subject, and aligning a structure with it, from the command line."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from seal_ext.core.anchor_align import OFF
from seal_ext.core.mask import subject_of
from seal_ext.core.pixels import AlignError
from seal_ext.reference import Reference
from seal_ext.settings import Settings
from seal_ext.studio import attention
from seal_ext.studio.__main__ import main
from seal_ext.studio.align import align_structure, canvas_like, read_size
from seal_ext.studio.cli import UserError, run
from seal_ext.studio.mask import find_subject, read_reference
from seal_ext.studio.pictures import read_picture

ON = Settings(enabled=True, margin=0.0)


def nobody():
    raise AssertionError("the model was asked")


def found(picture, drawn=None, source="auto", studio=nobody, words=None):
    """The subject, as the commands look for it."""
    given = Reference(picture, drawn)
    return find_subject(given, replace(ON, mask_source=source), studio, "", words).subject


def test_auto_takes_the_best_mask_there_is(figure):
    picture, mask = figure
    assert found(picture).source == "background"
    assert np.mean(found(picture).mask == mask) > 0.98
    cut = np.concatenate([picture, mask[..., None].astype(np.uint8) * 255], 2)
    assert found(cut).source == "alpha"
    assert found(cut, mask).source == "drawn"


def test_without_any_hint_the_whole_picture_counts_and_it_is_said():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    seen = found(noise)
    assert seen.mask.all() and not seen.known and "utline the character" in seen.reasons[-1] and "--subject" in seen.reasons[-1]
    with pytest.raises(AlignError, match="--subject"):
        found(noise, source="attention")


def test_attention_is_asked_only_where_nothing_else_helps(figure, monkeypatch):
    assert found(figure[0], words="a cat").source == "background"
    busy = figure[0].copy()
    busy[~figure[1]] = np.random.default_rng(1).integers(0, 90, (int((~figure[1]).sum()), 3), np.uint8)
    busy[~figure[1], 2] = 200
    heat = np.zeros((16, 16))
    heat[3:15, 6:11] = 1
    monkeypatch.setattr(attention, "subject_heat", lambda *given: heat)
    seen = found(busy, studio=lambda: None, words="a cat")
    assert seen.source == "attention" and (seen.mask & figure[1]).sum() / (seen.mask | figure[1]).sum() > 0.7


def test_a_mask_of_another_size_is_fitted_and_of_another_shape_refused(files):
    for size, fits in (((64, 64), True), ((64, 32), False)):
        Image.new("L", size, 255).save(files / "other.png")
        if fits:
            assert read_reference(files / "reference.png", files / "other.png").drawn.shape == (128, 128)
        else:
            with pytest.raises(AlignError, match="same shape"):
                read_reference(files / "reference.png", files / "other.png")


def reference(mask):
    return Reference(np.zeros((128, 128, 3), np.uint8), subject=subject_of(mask, "drawn"))


def test_the_structure_lands_where_the_reference_is(figure):
    pose = np.zeros((128, 128, 3), np.uint8)
    pose[10:58, 6:26] = 255
    aligned = align_structure(reference(figure[1]), pose, (128, 128), ON, "silhouette")
    rows, columns = np.nonzero(aligned.map[..., 0] > 127)
    assert aligned.alignment.scale == pytest.approx(2, abs=0.05) and aligned.moves
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == pytest.approx((48, 24, 87, 119), abs=1.5)


def test_switched_off_it_only_resizes(figure):
    pose = np.zeros((256, 256, 3), np.uint8)
    pose[20:116, 12:52] = 255
    settings = Settings(enabled=True, align=False)
    for given in (reference(figure[1]), None):
        for structure in (pose, np.zeros_like(pose)):  # also where no subject could be found
            aligned = align_structure(given, structure, (128, 128), settings, "auto")
            assert (aligned.moves, aligned.alignment.scale, aligned.alignment.shift) == (False, 1, (0, 0))
            assert aligned.map.shape == (128, 128, 3) and aligned.alignment.reasons == (OFF,)


def test_an_empty_structure_is_explained(figure):
    with pytest.raises(UserError, match="align=off"):
        align_structure(reference(figure[1]), np.zeros((128, 128, 3), np.uint8), (128, 128), ON, "auto")


@pytest.mark.parametrize(("text", "size"), [(None, (512, 512)), ("640", (640, 640)), ("512x768", (512, 768)), ("64×128", (64, 128))])
def test_sizes_are_read(text, size):
    assert read_size(text, 512) == size


@pytest.mark.parametrize("text", ["", "x", "33", "512x", "512x770", "99999x64", "-64x64"])
def test_impossible_sizes_are_refused(text):
    with pytest.raises(UserError, match="--size"):
        read_size(text, 512)


def test_a_huge_reference_is_aligned_on_a_canvas_of_its_shape():
    assert canvas_like(np.zeros((4000, 3000, 3), np.uint8)) == (768, 1024)


def test_align_writes_the_map_and_its_overlay(files, capsys):
    out = files / "aligned.png"
    assert run(main, ["align", "--reference", str(files / "reference.png"), "--structure", str(files / "pose.png"), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "alignment: 2.0" in told and str(out) in told
    assert read_picture(out).shape == (128, 128, 3) and min(read_picture(files / "aligned-overlay.png").shape[:2]) >= 512


def test_mask_writes_the_mask_and_its_overlay(files):
    assert run(main, ["mask", "--reference", str(files / "reference.png"), "--out", str(files / "found.png")]) == 0
    with Image.open(files / "found.png") as image:
        assert 0.2 < np.asarray(image).mean() / 255 < 0.3
    assert (files / "found-overlay.png").exists()
