"""Masks: every source finds the subject, and everything that is none is refused or explained in a sentence."""

import time

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
from seal_ext.core.control_map import background_of, figure_of, from_control_map
from seal_ext.core.grabcut import from_probability
from seal_ext.core.mask import Box, as_guess, everything, subject_of
from seal_ext.core.pixels import AlignError, checked_image, on_white
from seal_ext.core.subject import AUTO, find_subject

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
@given(arrays.arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))), st.booleans())
def test_a_box_is_tight_or_a_sentence_says_why_there_is_none(mask, every):
    try:
        found = subject_of(mask, "test", every)
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
    large, every = (subject_of(mask, "test", every) for every in (False, True))
    assert large.box == Box(5, 5, 45, 50) and every.box == Box(2, 5, 45, 57) and every.clear and not large.clear
    assert "3 separate parts" in large.reasons[0] and "2 large ones are kept" in large.reasons[0] and not every.reasons


def test_alpha_needs_transparency():
    image = np.full((20, 20, 4), 255, np.uint8)
    with pytest.raises(AlignError, match="no transparent part"):
        find_subject(image[..., :3], image[..., 3], source="alpha")
    with pytest.raises(AlignError, match="no alpha"):
        find_subject(image[..., :3], source="alpha")
    image[:5, :, 3] = 0
    assert find_subject(image[..., :3], image[..., 3], source="alpha").box == Box(0, 5, 20, 20)
    floats = image.astype(np.float32) / 255
    assert find_subject(floats[..., :3], floats[..., 3]).box == Box(0, 5, 20, 20)


def test_white_paper_shows_where_a_picture_is_transparent():
    hidden = np.zeros((2, 2, 4), np.uint8)
    hidden[..., 0], hidden[0, :, 3], hidden[1, 1, 3] = 255, 255, 51
    assert on_white(hidden)[:, 1].tolist() == [[255, 0, 0], [255, 204, 204]] and on_white(hidden)[1, 0].tolist() == [255] * 3
    floats = hidden.astype(np.float32) / 255
    assert np.allclose(on_white(floats) * 255, on_white(hidden)) and on_white(floats).dtype == np.float32
    assert on_white(hidden[..., :3]).base is hidden and not (on_white(hidden[..., :3]) != hidden[..., :3]).any()


def photo(even=True):
    """A red figure of 16 × 40 pixels before a background."""
    image = np.full((64, 64, 3), 210, np.uint8) if even else np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    image[12:52, 24:40] = (200, 30, 40)
    return image


WHERE = Box(24, 12, 40, 52)


def only(box):
    mask = np.zeros((64, 64), bool)
    mask[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
    return mask


def nobody(rgb):
    raise AlignError("Nobody is there.")


def test_the_order_of_what_is_believed():
    """What was drawn, then what was asked for by hand, alpha, a background, segmenters, attention, and the best guess at last."""
    boxes = {
        name: Box(10, 10, 20 + i, 30) for i, name in enumerate(("drawn", "asked", "alpha", "mediapipe", "rembg", "controlnet", "attention"))
    }
    asked = []

    def way(name):
        return lambda rgb: asked.append(name) or subject_of(only(boxes[name]), name)

    ways = {name: way(name) for name in ("attention", "controlnet", "rembg", "mediapipe")}
    alpha = only(boxes["alpha"]).astype(np.uint8) * 255
    assert AUTO == ("asked", "alpha", "background", "mediapipe", "rembg", "controlnet", "attention", "grabcut")
    found = find_subject(photo(), alpha, only(boxes["drawn"]), ways=ways)
    assert (found.source, found.box, found.known) == ("drawn", boxes["drawn"], True)
    by_hand = {"asked": way("asked")}
    assert find_subject(photo(), alpha, only(boxes["drawn"]), ways=by_hand).source == "drawn"
    assert find_subject(photo(), alpha, ways=by_hand).box == boxes["asked"] and asked.pop() == "asked"
    assert find_subject(photo(), alpha, ways=ways).box == boxes["alpha"]
    assert find_subject(photo(), ways=ways).box == WHERE and not asked
    busy = photo(even=False)
    assert find_subject(busy, ways=ways).box == boxes["mediapipe"] and asked == ["mediapipe"]
    assert find_subject(busy, ways=ways | {"mediapipe": nobody}).box == boxes["rembg"]
    less = ways | {"mediapipe": nobody, "rembg": nobody}
    assert find_subject(busy, ways=less).box == boxes["controlnet"]
    assert find_subject(busy, ways=less | {"controlnet": nobody}).box == boxes["attention"]
    full = np.full((64, 64), 255, np.uint8)
    found = find_subject(busy, full, ways={"rembg": lambda rgb: subject_of(full > 0, "rembg")})
    assert (found.source, found.guess) == ("grabcut", True) and overlap(found.mask, only(WHERE)) > 0.9 and "Check it" in found.reasons[-1]


def test_a_guess_is_kept_until_something_is_sure():
    unsure = {"mediapipe": lambda rgb: as_guess(subject_of(only(Box(5, 5, 9, 9)), "mediapipe"), 0.4)}
    sure = {"attention": lambda rgb: subject_of(only(WHERE), "attention")}
    busy = photo(even=False)
    assert find_subject(busy, ways=unsure | sure).source == "attention"
    kept = find_subject(busy, ways=unsure)
    assert kept.guess and kept.sure == 0.4 and kept.source == "mediapipe" and not kept.clear


def test_what_was_asked_for_by_hand_counts_even_as_a_guess():
    asked = as_guess(subject_of(only(Box(5, 5, 9, 9)), "attention"), 0.4)
    assert find_subject(photo(), ways={"asked": lambda rgb: asked}) is asked  # the even background is sure of another


def test_where_nothing_helps_the_whole_picture_counts_and_a_field_says_so():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    found = find_subject(noise, ways={"rembg": nobody})
    assert not found.known and found.source == "whole" and found.mask.all() and found.box == everything(64, 64).box
    assert "did not find" in found.reasons[0] and "Nobody is there." in found.reasons[0] and len(found.reasons) == 1
    wanted = find_subject(photo(), source="whole")
    assert not wanted.known and not wanted.reasons


@pytest.mark.parametrize(("share", "known"), [(0.0004, False), (0.005, True), (0.1, True), (0.95, False)])
def test_a_background_is_believed_where_a_figure_stands_before_it(share, known):
    image, side = np.full((400, 400, 3), 210, np.uint8), round(200 * share**0.5)
    image[200 - side : 200 + side, 200 - side : 200 + side] = 20
    assert (find_subject(image).source == "background") == known


@pytest.mark.parametrize(("how", "said"), [
    (dict(drawn=np.zeros((64, 64), bool)), "empty"), (dict(source="drawn"), "No mask was drawn"), (dict(source="alpha"), "no alpha"),
    (dict(source="rembg"), "not installed"), (dict(source="attention"), "not been asked"), (dict(source="guess"), "not a way"),
    (dict(source="rembg", ways={"rembg": nobody}), "Nobody"),
])  # fmt: skip
def test_what_was_given_or_chosen_is_never_passed_over(how, said):
    with pytest.raises(AlignError, match=said):
        find_subject(photo(), **how)


@pytest.mark.parametrize("speck", [False, True])
def test_a_figure_is_known_only_where_nothing_was_guessed(speck):
    structure = np.zeros((64, 64, 3), np.uint8)
    structure[12:52, 24:40] = 255
    structure[2:4, 2:4] = 255 * speck
    assert (figure_of(structure, 0.05) is None) == speck


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
    assert not found.solid and found.box == Box(20, 20, 81, 81) and "how far" in found.reasons[0]


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


def test_a_photo_of_one_colour_still_gives_the_rough_place():
    heat = np.zeros((8, 8))
    heat[3:6, 3:6] = 1
    found = from_probability(np.full((64, 64, 3), 90, np.uint8), heat)
    assert abs((found.box.x0 + found.box.x1) / 2 - 36) < 8


@pytest.mark.parametrize("heat", [np.zeros((8, 8)), np.full((8, 8), np.nan), np.zeros((0, 4)), np.zeros(8), "warm", None])
def test_a_map_without_a_peak_is_refused(heat):
    with pytest.raises(AlignError):
        from_probability(np.zeros((32, 32, 3), np.uint8), heat)


@pytest.mark.parametrize(
    "image",
    [None, 3, [[1, 2]], np.zeros((0, 4, 3), np.uint8), np.zeros(9), np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.int64),
     np.full((4, 4, 3), np.nan), np.full((4, 4, 3), 7.0), np.zeros((4, 4, 3), complex), np.zeros((1, 20000, 3), np.uint8),
     np.zeros((2, 2, 2, 3), np.uint8), np.array([["a"]])],
)  # fmt: skip
def test_what_is_no_picture_is_refused_in_one_sentence(image):
    for source in (checked_image, from_control_map):
        with pytest.raises(AlignError) as error:
            source(image)
        assert str(error.value).endswith(".") and len(str(error.value)) < 160


@settings(deadline=None, max_examples=60)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3, 4]))))
def test_any_picture_gives_a_subject_or_a_sentence(image):
    rgb, alpha = on_white(np.repeat(image, 3, 2) if image.shape[2] == 1 else image), image[..., -1]
    for source in (
        lambda _: find_subject(rgb, alpha),
        lambda _: find_subject(rgb, drawn=alpha > 127),
        from_control_map,
        lambda i: from_probability(i, np.eye(4)),
    ):
        try:
            assert source(image).mask.shape == image.shape[:2]
        except AlignError as error:
            assert str(error).endswith(".")


def test_a_huge_photo_is_cut_out_as_quickly_as_a_small_one():
    image = np.full((4000, 3000, 3), 200, np.uint8)
    cv2.circle(image, (1500, 2000), 700, (40, 90, 10), -1)
    heat = cv2.GaussianBlur(cv2.circle(np.zeros((400, 300), np.float32), (150, 200), 70, 1.0, -1), (0, 0), 20)[5::10, 5::10]
    start = time.perf_counter()
    found = from_probability(image, heat)
    assert time.perf_counter() - start < 5 and found.size == (3000, 4000)
    assert found.box.x0 == pytest.approx(800, abs=30) and found.box.y1 == pytest.approx(2700, abs=30)
