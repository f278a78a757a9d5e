"""Finding the subject, and aligning a structure with it, from the command line."""

import numpy as np
import pytest
from PIL import Image

from seal_ext.core.subject import subject_of
from seal_ext.settings import Settings
from seal_ext.studio.__main__ import main
from seal_ext.studio.align import align_structure, canvas_like, read_size
from seal_ext.studio.cli import UserError, run
from seal_ext.studio.mask import find_subject
from seal_ext.studio.pictures import read_picture

ON = Settings(enabled=True, margin=0.0)


def test_auto_takes_the_best_mask_there_is(figure):
    picture, mask = figure
    assert find_subject(picture).source == "background"
    assert np.mean(find_subject(picture).mask == mask) > 0.98
    cut = np.concatenate([picture, mask[..., None].astype(np.uint8) * 255], 2)
    assert find_subject(cut).source == "alpha"
    drawn = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, 2)
    assert find_subject(cut, drawn=drawn).source == "drawn"


def test_without_any_hint_the_whole_picture_counts_and_it_is_said():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    found = find_subject(noise)
    assert found.mask.all() and "draw a mask" in found.reasons[-1]


def test_attention_is_asked_only_where_nothing_else_helps(figure):
    def asked():
        raise AssertionError("the model was asked")

    assert find_subject(figure[0], heat=asked).source == "background"
    busy = figure[0].copy()
    busy[~figure[1]] = np.random.default_rng(1).integers(0, 90, (int((~figure[1]).sum()), 3), np.uint8)
    busy[~figure[1], 2] = 200
    heat = np.zeros((16, 16))
    heat[3:15, 6:11] = 1
    found = find_subject(busy, heat=lambda: heat)
    assert found.source == "attention" and (found.mask & figure[1]).sum() / (found.mask | figure[1]).sum() > 0.7


def test_a_mask_of_another_size_is_fitted_and_of_another_shape_refused(figure):
    drawn = np.zeros((64, 64, 3), np.uint8)
    drawn[12:60, 24:44] = 255
    assert find_subject(figure[0], drawn=drawn).size == (128, 128)
    with pytest.raises(UserError, match="another shape"):
        find_subject(figure[0], drawn=np.full((64, 32, 3), 255, np.uint8))


def test_the_structure_lands_where_the_reference_is(figure):
    pose = np.zeros((128, 128, 3), np.uint8)
    pose[10:58, 6:26] = 255
    found, aligned = align_structure(subject_of(figure[1], "drawn"), pose, (128, 128), ON, "silhouette")
    rows, columns = np.nonzero(aligned[..., 0] > 127)
    assert found.scale == pytest.approx(2, abs=0.05)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == pytest.approx((48, 24, 87, 119), abs=1.5)


def test_switched_off_it_only_resizes(figure):
    pose = np.zeros((256, 256, 3), np.uint8)
    pose[20:116, 12:52] = 255
    settings = Settings(enabled=True, align=False)
    for structure in (pose, np.zeros_like(pose)):  # also where no subject could be found
        found, aligned = align_structure(subject_of(figure[1], "drawn"), structure, (128, 128), settings)
        assert (found.scale, found.shift) == (1, (0, 0)) and aligned.shape == (128, 128, 3)


def test_an_empty_structure_is_explained(figure):
    with pytest.raises(UserError, match="align=off"):
        align_structure(subject_of(figure[1], "drawn"), np.zeros((128, 128, 3), np.uint8), (128, 128), ON)


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
