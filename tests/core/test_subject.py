"""Masks: every source finds the subject, and everything that is none is refused or explained in a sentence."""

import sys
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bench.world.background import sample_settings
from bench.world.identity import sample_identities
from bench.world.pose import sample_poses
from bench.world.render import body, render
from bench.world.structure import STRUCTURE, draw_structure
from seal_ext.core import subject as masks
from seal_ext.core.subject import (
    AlignError,
    Box,
    background_of,
    checked_image,
    from_alpha,
    from_box,
    from_control_map,
    from_drawn,
    from_probability,
    from_rembg,
    subject_of,
)

SIZE = 128


def world(count=6):
    """Identities, the parts they are drawn from, photos and true masks."""
    seeds = torch.arange(count)
    who = sample_identities(seeds)
    poses = sample_poses(seeds, who)
    picture = render(who, poses, sample_settings(seeds), SIZE)
    photos = (picture.image.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return who, body(who, poses), photos, picture.alpha.numpy() > 0.5


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@settings(deadline=None)  # the machine may be busy
@given(arrays.arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))), st.sampled_from(["large", "largest", "all"]))
def test_a_box_is_tight_or_a_sentence_says_why_there_is_none(mask, keep):
    try:
        found = subject_of(mask, "test", keep)
    except AlignError as error:
        assert str(error).endswith(".")
        return
    assert not (found.mask & ~mask).any()
    y, x = np.nonzero(found.mask)
    assert found.box == Box(x.min(), y.min(), x.max() + 1, y.max() + 1)
    assert ("left" in found.cut) == (x.min() == 0) and ("bottom" in found.cut) == (y.max() == mask.shape[0] - 1)


def test_nothing_and_almost_nothing_are_refused():
    mask = np.zeros((30, 30), bool)
    with pytest.raises(AlignError, match="empty"):
        subject_of(mask, "test")
    mask[4, 4] = True
    with pytest.raises(AlignError, match="almost no pixels"):
        subject_of(mask, "test")
    mask[4] = True
    with pytest.raises(AlignError, match="one pixel thin"):
        subject_of(mask, "test")


def test_a_full_frame_is_told():
    found = subject_of(np.ones((30, 30), bool), "test")
    assert found.cut == ("left", "top", "right", "bottom") and "fills the whole frame" in found.reasons[0]


def test_specks_go_and_large_parts_stay_and_both_are_told():
    mask = np.zeros((60, 60), bool)
    mask[5:25, 5:25] = mask[30:50, 30:45] = mask[55:57, 2:4] = True
    large, largest, everything = (subject_of(mask, "test", keep) for keep in ("large", "largest", "all"))
    assert large.box == Box(5, 5, 45, 50) and largest.box == Box(5, 5, 25, 25) and everything.box == Box(2, 5, 45, 57)
    assert "3 separate parts" in large.reasons[0] and "2 large ones are kept" in large.reasons[0] and not everything.reasons


def test_alpha_needs_transparency():
    image = np.full((20, 20, 4), 255, np.uint8)
    with pytest.raises(AlignError, match="no transparent part"):
        from_alpha(image)
    with pytest.raises(AlignError, match="no alpha"):
        from_alpha(image[..., :3])
    image[:5, :, 3] = 0
    assert from_alpha(image).box == Box(0, 5, 20, 20)
    assert from_alpha(image.astype(np.float32) / 255).box == Box(0, 5, 20, 20)


def test_a_brush_paints_in_any_colour():
    canvas = np.zeros((20, 20, 3), np.uint8)
    canvas[3:9, 4:10] = (250, 20, 20)
    canvas[12:18, 4:10] = (20, 20, 250)
    assert from_drawn(canvas).box == Box(4, 3, 10, 18)
    assert from_drawn(canvas, colour=(255, 0, 0)).box == Box(4, 3, 10, 9)
    layer = np.full((20, 20, 4), 255, np.uint8)
    layer[..., 3] = canvas.max(2)
    assert from_drawn(layer).box == Box(4, 3, 10, 18)
    assert from_drawn(canvas.max(2) > 0).box == Box(4, 3, 10, 18)


@pytest.mark.parametrize("kind", STRUCTURE)
def test_a_control_map_shows_its_subject(kind):
    who, parts, _, truth = world()
    maps = (draw_structure(kind, who, parts, SIZE).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    for given_kind in (None, kind):
        scores = [overlap(from_control_map(image, given_kind).mask, mask) for image, mask in zip(maps, truth, strict=True)]
        assert np.median(scores) > (0.65 if kind == "skeleton" else 0.85), (kind, scores)
        if kind != "skeleton":
            paper = [from_control_map(255 - image, given_kind) for image in maps]
            assert np.median([overlap(p.mask, mask) for p, mask in zip(paper, truth, strict=True)]) > 0.8


def test_lines_that_close_around_nothing_are_known_by_their_extent():
    image = np.zeros((100, 100), np.uint8)
    cv2.line(image, (20, 20), (80, 30), 255, 1)
    cv2.line(image, (20, 20), (30, 80), 255, 1)
    found = from_control_map(image, "edges")
    assert not found.solid and found.box == Box(20, 20, 81, 81) and "extent" in found.reasons[0]


def test_an_uneven_background_is_told():
    _, x = np.mgrid[:100, :100]
    image = (x * 1.4).astype(np.uint8)
    image[30:70, 40:60] = 255
    assert any("no even background" in reason for reason in from_control_map(image).reasons)


def test_backgrounds_are_black_paper_or_the_borders_median():
    normal = np.full((20, 20, 3), (128, 128, 255), np.uint8)
    normal[5:15, 5:15] = 30
    assert background_of(normal).tolist() == [128, 128, 255]
    assert background_of(np.full((9, 9, 3), 10, np.uint8), "skeleton").tolist() == [0, 0, 0]
    assert background_of(np.full((9, 9, 3), 250, np.uint8), "edges").tolist() == [255, 255, 255]


def test_attention_finds_a_photos_subject_and_grabcut_its_outline():
    _, _, photos, truth = world()
    coarse, fine = [], []
    for photo, mask in zip(photos, truth, strict=True):
        heat = cv2.resize(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 8), (16, 16), interpolation=cv2.INTER_AREA)
        found = from_probability(photo, heat)
        again = from_probability(photo, heat)
        assert np.array_equal(found.mask, again.mask)
        large = cv2.resize(heat, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        coarse.append(overlap(large > large.mean() + 0.5 * large.std(), mask))
        fine.append(overlap(found.mask, mask))
    assert np.median(fine) > np.median(coarse) and np.median(fine) > 0.75, (coarse, fine)


def test_a_box_finds_a_photos_subject():
    _, _, photos, truth = world()
    scores = []
    for photo, mask in zip(photos, truth, strict=True):
        b = subject_of(mask, "truth").box
        scores.append(overlap(from_box(photo, Box(b.x0 - 3, b.y0 - 3, b.x1 + 3, b.y1 + 3)).mask, mask))
    assert np.median(scores) > 0.6, scores


def test_a_photo_of_one_colour_still_gives_the_rough_place():
    heat = np.zeros((8, 8))
    heat[3:6, 3:6] = 1
    found = from_probability(np.full((64, 64, 3), 90, np.uint8), heat)
    assert abs((found.box.x0 + found.box.x1) / 2 - 36) < 8
    assert from_box(np.full((64, 64, 3), 90, np.uint8), Box(10, 10, 40, 40)).box.width <= 64


@pytest.mark.parametrize("heat", [np.zeros((8, 8)), np.full((8, 8), np.nan), np.zeros((0, 4)), np.zeros(8), "warm", None])
def test_a_map_without_a_peak_is_refused(heat):
    with pytest.raises(AlignError):
        from_probability(np.zeros((32, 32, 3), np.uint8), heat)


@pytest.mark.parametrize("box", [Box(5, 5, 5, 9), Box(90, 90, 99, 99), Box(np.nan, 0, 9, 9), Box(9, 9, 2, 2), Box(-1e30, 0, np.inf, 4)])
def test_an_impossible_box_is_refused(box):
    with pytest.raises(AlignError):
        from_box(np.zeros((32, 32, 3), np.uint8), box)


def test_rembg_is_used_only_where_it_is(monkeypatch):
    image = np.zeros((20, 20, 3), np.uint8)
    monkeypatch.setattr(masks, "has_rembg", lambda: False)
    with pytest.raises(AlignError, match="not installed"):
        from_rembg(image)
    drawn = np.zeros((20, 20), np.uint8)
    drawn[4:9, 4:9] = 255
    monkeypatch.setattr(masks, "has_rembg", lambda: True)
    monkeypatch.setitem(sys.modules, "rembg", SimpleNamespace(remove=lambda _, only_mask: drawn))
    assert from_rembg(image).box == Box(4, 4, 9, 9)


@pytest.mark.parametrize(
    "image",
    [None, 3, [[1, 2]], np.zeros((0, 4, 3), np.uint8), np.zeros(9), np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.int64),
     np.full((4, 4, 3), np.nan), np.full((4, 4, 3), 7.0), np.zeros((4, 4, 3), complex), np.zeros((1, 20000, 3), np.uint8),
     np.zeros((2, 2, 2, 3), np.uint8), np.array([["a"]])],
)  # fmt: skip
def test_what_is_no_picture_is_refused_in_one_sentence(image):
    for source in (checked_image, from_alpha, from_drawn, from_control_map):
        with pytest.raises(AlignError) as error:
            source(image)
        assert str(error.value).endswith(".") and len(str(error.value)) < 160


@settings(deadline=None, max_examples=60)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3, 4]))))
def test_any_picture_gives_a_subject_or_a_sentence(image):
    for source in (
        from_alpha,
        from_drawn,
        from_control_map,
        lambda i: from_box(i, Box(2, 2, 12, 12)),
        lambda i: from_probability(i, np.eye(4)),
    ):
        try:
            assert source(image).mask.shape == image.shape[:2]
        except AlignError as error:
            assert str(error).endswith(".")


def test_a_huge_photo_is_cut_out_as_quickly_as_a_small_one():
    image = np.full((4000, 3000, 3), 200, np.uint8)
    cv2.circle(image, (1500, 2000), 700, (40, 90, 10), -1)
    start = time.perf_counter()
    found = from_box(image, Box(600, 1100, 2400, 2900))
    assert time.perf_counter() - start < 5 and found.size == (3000, 4000)
    assert found.box.x0 == pytest.approx(800, abs=30) and found.box.y1 == pytest.approx(2700, abs=30)
