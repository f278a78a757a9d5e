"""A figure is found before plain backgrounds, by a segmenter's looks, by guesses that vote, and under a rough stroke."""

import time

import cv2
import numpy as np
import pytest
import torch

from bench.world.background import sample_settings
from bench.world.identity import sample_identities
from bench.world.pose import sample_poses
from bench.world.render import render
from seal_ext.core.background import before_background
from seal_ext.core.grabcut import from_probability, from_stroke, guessed
from seal_ext.core.mask import as_guess, as_rough, main_body, overlap, subject_of
from seal_ext.core.pixels import AlignError
from seal_ext.core.segmenting import segmented

FIGURES = 4


def figures(size):
    """Characters of the world: their colours, how opaque they are, and the pictures they were drawn in."""
    seeds = torch.arange(FIGURES) + 40
    who = sample_identities(seeds)
    picture = render(who, sample_poses(seeds, who), sample_settings(seeds), size)
    return (picture.image.permute(0, 2, 3, 1) * 255).numpy(), picture.alpha.numpy()


def ground(name, height=256, width=320):
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    plain = np.ones((height, width, 3))
    if name == "white":
        return plain * 255
    if name == "gradient":
        return plain * (240 - 40 * y)[..., None]
    if name == "two colours":
        return np.stack([200 - 80 * x, 180 - 40 * x, 150 + 60 * x], -1)
    if name == "vignette":
        return plain * (230 * (1 - 0.9 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)))[..., None]
    if name == "floor":
        return np.where((y > 0.75)[..., None], (185.0, 175.0, 160.0), (235.0, 230.0, 225.0))
    if name == "slanting floor":
        return np.where((y - 0.1 * x > 0.68)[..., None], (150.0, 140.0, 130.0), (215.0, 220.0, 230.0))
    return plain * (120, 160, 190) + np.random.default_rng(0).normal(0, 10, plain.shape)


def before(back, colours, opaque, size, at):
    """A figure of this size before a ground, and where it is; below the picture's edge it is cut."""
    small, thin = (cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA) for part in (colours, opaque))
    (y, x), (height, width) = at, back.shape[:2]
    cover, shown = np.zeros((height + size, width)), np.zeros((height + size, width, 3))
    cover[y : y + size, x : x + size], shown[y : y + size, x : x + size] = thin, small
    cover, shown = cover[:height], shown[:height]
    mixed = back * (1 - cover[..., None]) + shown * cover[..., None]
    return mixed.clip(0, 255).astype(np.uint8), cover > 0.5


GROUNDS = ("white", "gradient", "two colours", "vignette", "floor", "slanting floor", "noise")


@pytest.mark.parametrize("name", GROUNDS)
@pytest.mark.parametrize(("size", "at"), [(200, (40, 60)), (240, (90, 40)), (48, (190, 200))], ids=["whole", "half", "tiny"])
def test_a_figure_stands_out_from_a_plain_background(name, size, at):
    if size == 48 and "floor" in name:
        at = (100, 200)  # a tiny figure on a floor's line is not told from the line
    scores = []
    for colours, opaque in zip(*figures(256), strict=True):
        picture, truth = before(ground(name), colours, opaque, size, at)
        scores.append(overlap(before_background(picture).mask, truth))
    assert np.median(scores) > (0.7 if size == 48 else 0.88), scores


def test_a_sheet_with_two_views_is_a_guess_of_both():
    views = blob((10, 10, 30, 52), (50, 8, 72, 52))
    found = before_background(np.where(views[..., None], (30, 90, 60), (250, 250, 250)).astype(np.uint8))
    assert found.guess and overlap(found.mask, views) > 0.95


def test_a_background_that_is_not_plain_is_left_to_others():
    believed = 0
    for picture, opaque in zip(*figures(128), strict=True):
        try:
            assert overlap(before_background(picture.astype(np.uint8)).mask, opaque > 0.5) > 0.8
            believed += 1
        except AlignError as error:
            assert "not plain" in str(error) or "stands out" in str(error)
    assert believed < FIGURES
    with pytest.raises(AlignError):
        before_background(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


def blob(*boxes, size=(60, 80)):
    mask = np.zeros(size, bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


def test_a_body_is_one_and_whole():
    ring = blob((20, 10, 50, 50))
    ring[20:30, 30:40] = False
    assert np.array_equal(main_body(ring | blob((70, 50, 72, 52))), blob((20, 10, 50, 50)))  # no hole, no crumb
    near = blob((20, 10, 50, 30), (20, 31, 50, 50))
    assert np.array_equal(main_body(near), near)  # a belt's width apart


@pytest.mark.parametrize(("mask", "said"), [
    (blob(), "Nothing"), (blob((1, 1, 21, 21), (40, 30, 60, 50), (1, 40, 21, 58)), "several places"),
    (blob((0, 0, 80, 60)), "whole picture"), (~blob((20, 20, 60, 60)), "frame"),
    (blob((10, 10, 70, 50)) & ~blob((12, 12, 68, 48)), "hollow"),
])  # fmt: skip
def test_what_is_no_body_is_not_trusted(mask, said):
    with pytest.raises(AlignError, match=said):
        main_body(mask)


def scene(box=(120, 60, 200, 230)):
    """A red figure before a busy ground, and where it is."""
    random = np.random.default_rng(3)
    picture = cv2.resize(random.integers(40, 160, (15, 20, 3), np.uint8), (320, 240), interpolation=cv2.INTER_NEAREST)
    picture[..., 0] //= 2
    truth = blob(box, size=(240, 320))
    picture[truth] = (220, 60, 40)
    return picture, truth


def looks(*colour_tests):
    """A segmenter that sees red, in as many looks as there are tests of what it sees."""
    asked = []

    def segmenter(image):
        asked.append(image.shape[:2])
        red = (image[..., 0] > 180).astype(np.float32)
        return np.stack([test(red) for test in colour_tests])

    return segmenter, asked


def certain(red):
    return 0.02 + 0.96 * red


def test_a_segmenter_is_asked_twice_and_colours_settle_the_rest():
    picture, truth = scene()
    segmenter, asked = looks(certain, lambda red: cv2.blur(certain(red), (25, 25)))
    found = segmented(picture, segmenter, "mine")
    assert len(asked) == 2 and asked[1][0] < 240 and asked[1][1] < 160  # the second time at a crop
    assert found.source == "mine" and not found.guess and found.sure > 0.85 and overlap(found.mask, truth) > 0.97


def test_looks_that_disagree_make_a_guess():
    def ground(red):
        below = np.zeros_like(red)
        below[len(red) // 2 :] = 0.98
        return np.maximum(certain(red), below)

    found = segmented(scene()[0], looks(certain, ground, ground)[0], "mine")
    assert found.guess and found.sure < 0.76 and "Check it" in found.reasons[-1]


def test_looks_that_see_nobody_do_not_count_unless_most_see_nobody():
    picture, truth = scene()
    blind = np.zeros_like
    assert overlap(segmented(picture, looks(certain, certain, blind)[0], "mine").mask, truth) > 0.97
    with pytest.raises(AlignError, match="nobody"):
        segmented(picture, looks(blind, blind, blind, certain)[0], "mine")


def test_a_tiny_figure_is_looked_for_where_something_stands_out():
    picture = np.full((480, 640, 3), (40, 60, 90), np.uint8)
    picture[:, ::40] = (60, 80, 110)
    picture[100:360, 100:150] = (90, 120, 90)
    picture[300:340, 500:514] = (220, 60, 40)
    truth = picture[..., 0] > 180

    def near(image):  # as networks are: blind to what is small
        red = (image[..., 0] > 180).astype(np.float32)
        return certain(red if red.mean() > 0.03 else 0 * red)[None]

    assert overlap(segmented(picture, near, "mine").mask, truth) > 0.9


def test_guesses_vote_and_are_called_guesses():
    picture, truth = scene()
    found = guessed(picture)
    assert found.guess and found.source == "grabcut" and found.sure <= 0.5 and overlap(found.mask, truth) > 0.9
    wrong = np.zeros((24, 32))
    wrong[18:24, :8] = 1  # a model that looks into a corner is outvoted
    assert overlap(from_probability(picture, wrong).mask, truth) > 0.9


def test_what_the_model_sees_is_followed_where_colours_lead_astray():
    picture, truth = scene()
    legs = truth & (np.arange(len(truth)) > np.quantile(np.nonzero(truth)[0], 0.7))[:, None]
    picture[legs] = picture[5, 5]  # like the background
    heat = cv2.resize(cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 9), (32, 24), interpolation=cv2.INTER_AREA)
    assert overlap(from_probability(picture, heat).mask, truth) > 0.85 > overlap(guessed(picture).mask, truth)


def test_what_a_rough_outline_only_touches_does_not_cut_it():
    body, half = np.zeros((100, 80), bool), np.zeros((100, 80), bool)
    body[20:95, 20:60], body[0:20, 37:43] = True, True  # the tip of a hat reaches the frame
    half[30:, 20:60] = True
    assert subject_of(body, "attention").cut == ("top",) and as_rough(subject_of(body, "attention")).cut == ()
    assert as_rough(subject_of(half, "attention")).cut == ("bottom",)
    picture = np.full((*body.shape, 3), (40, 160, 90), np.uint8)
    picture[body] = (200, 40, 60)
    heat = cv2.GaussianBlur(body.astype(np.float32), (0, 0), 4)[2::5, 2::5]
    found = from_probability(picture, heat)
    assert overlap(found.mask, body) > 0.85 and found.cut == ()


def test_a_rough_stroke_is_a_hint():
    picture, truth = scene()
    other = blob((20, 40, 90, 220), size=(240, 320))
    picture[other] = (60, 60, 230)
    stroke = cv2.line(np.zeros(truth.shape, np.uint8), (160, 80), (150, 215), 1, 5) > 0
    found = from_stroke(picture, stroke)
    assert found.source == "drawn" and overlap(found.mask, truth) > 0.95 and found.mask[stroke].all()
    assert (
        overlap(from_stroke(picture, stroke, start=subject_of(truth | other, "test")).mask, truth) > 0.95
    )  # what no stroke touches is not the character
    joined = truth | blob((90, 60, 120, 80), size=truth.shape)
    picture[joined & ~truth] = (220, 60, 40)
    away = blob((92, 64, 116, 76), size=truth.shape)
    for added in (stroke, np.zeros_like(stroke)):  # whether or not something is added, too
        kept = from_stroke(picture, added, away, start=subject_of(joined, "test"))
        assert kept.mask[away].mean() < 0.05 and overlap(kept.mask, truth) > 0.9
    with pytest.raises(AlignError, match="paint"):
        from_stroke(picture, np.zeros_like(stroke))


def test_a_stroke_adds_to_an_outline_that_was_sure_and_replaces_a_guess_that_was_wrong():
    picture, truth = scene()
    tool = blob((195, 130, 290, 140), size=truth.shape)  # held out from the body
    picture[tool & ~truth] = (230, 220, 40)
    stroke = cv2.line(np.zeros(truth.shape, np.uint8), (185, 135), (285, 135), 1, 5) > 0
    body = subject_of(truth, "test")
    assert truth[stroke].any() and overlap(from_stroke(picture, stroke, start=body).mask, truth | tool) > 0.9
    wrong = as_guess(subject_of(blob((10, 10, 60, 60), size=truth.shape), "test"), 0.4)
    down = cv2.line(np.zeros(truth.shape, np.uint8), (160, 80), (150, 215), 1, 5) > 0
    assert not from_stroke(picture, down, start=wrong).mask[12:58, 12:58].any()


def test_room_around_a_large_figure_costs_little():
    mask = np.zeros((2048, 2048), bool)
    mask[300:1500, 600:1400] = True
    subject, start = subject_of(mask, "test"), time.perf_counter()
    wide = subject.with_room(0.2)
    assert time.perf_counter() - start < 1.5 and wide[:, 1000].sum() == 1200 + 2 * 240 and not wide[65, 365]
    assert np.array_equal(subject.with_room(0), mask)


def test_a_character_is_found_in_time():
    picture, truth = (cv2.resize(one.astype(np.uint8), (1024, 1024), interpolation=cv2.INTER_NEAREST) for one in scene())
    for most, find in ((1.5, lambda: segmented(picture, looks(certain)[0], "mine")), (4, lambda: guessed(picture))):
        start = time.process_time()
        assert overlap(find().mask, truth > 0) > 0.9 and time.process_time() - start < most
