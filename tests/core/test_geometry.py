"""AnchorAlign: the two boxes meet, nothing is lost, every step can be undone, and poses do not make giants."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.align_report import measure
from bench.world.identity import sample_identities
from bench.world.pose import sample_poses
from bench.world.render import body
from bench.world.structure import draw_structure
from bench.world.words import POSE
from seal_ext.core.canvas import CROP, FILL, STRETCH, place, resize_mode
from seal_ext.core.control_map import from_control_map
from seal_ext.core.geometry import ANCHORS, Correction, align
from seal_ext.core.mask import Box, subject_of
from seal_ext.core.pixels import AlignError
from seal_ext.core.proportions import unseen_ends
from seal_ext.core.scale import calmed
from seal_ext.core.skeleton import Skeleton, read_skeleton
from seal_ext.core.warping import apply

MODES = (STRETCH, CROP, FILL)
sizes = st.tuples(st.integers(24, 160), st.integers(24, 160))
canvases = st.tuples(st.integers(3, 24), st.integers(3, 24)).map(lambda n: (8 * n[0], 8 * n[1]))
modes, anchors = st.sampled_from(MODES), st.sampled_from(ANCHORS)


def rectangle(size, x0, y0, x1, y1):
    mask = np.zeros(size[::-1], bool)
    mask[y0:y1, x0:x1] = True
    return mask


@st.composite
def subjects(draw, room=1):
    """A rectangle that keeps `room` pixels from its frame."""
    width, height = draw(sizes)
    x0, y0 = draw(st.integers(room, width // 2 - 4)), draw(st.integers(room, height // 2 - 4))
    x1, y1 = draw(st.integers(width // 2 + 4, width - room)), draw(st.integers(height // 2 + 4, height - room))
    return subject_of(rectangle((width, height), x0, y0, x1, y1), "test")


def point(box, anchor):
    return (box.x0 + box.x1) / 2, {"bottom": box.y1, "centre": (box.y0 + box.y1) / 2, "top": box.y0}[anchor]


def stays(found):
    """Whether the alignment leaves the structure where the resize mode puts it."""
    return found.scale == pytest.approx(1) and found.shift == pytest.approx((0, 0), abs=1e-3)


def inside(box, canvas, slack=1e-6):
    return box.x0 >= -slack and box.y0 >= -slack and box.x1 <= canvas[0] + slack and box.y1 <= canvas[1] + slack


@settings(deadline=None)  # the machine may be busy
@given(subjects(), canvases, st.sampled_from((STRETCH, FILL)), anchors)
def test_equal_subjects_are_left_alone(subject, canvas, mode, anchor):
    found = align(subject, subject, canvas, mode, anchor=anchor)
    assert stays(found) and found.rule == "height"
    assert vars(found.aligned_box) == pytest.approx(vars(found.reference_box))


def middle(subject):
    return np.average(np.arange(subject.size[0]) + 0.5, weights=subject.mask.sum(0))


@settings(deadline=None)  # the machine may be busy
@given(subjects(), subjects(), canvases, st.sampled_from((STRETCH, FILL)), anchors)
def test_anchors_coincide_unless_the_canvas_forbids(reference, structure, canvas, mode, anchor):
    found = align(reference, structure, canvas, mode, anchor=anchor, fit=False)
    mine, theirs = point(found.aligned_box, anchor), point(found.reference_box, anchor)
    assert mine[1] == pytest.approx(theirs[1], abs=1e-6)
    if {"left", "right"} & {*reference.cut, *structure.cut}:
        assert mine[0] == pytest.approx(theirs[0], abs=1e-6)
    else:
        placed = place(reference.size, canvas, mode)
        there = placed.scale[0] * middle(reference) + placed.shift[0]
        assert found.matrix[0, 0] * middle(structure) + found.matrix[0, 2] == pytest.approx(there, abs=1e-6)
    if found.rule == "height" and not found.reasons:
        assert found.aligned_box.height == pytest.approx(found.reference_box.height, rel=1e-6)


def test_an_arm_that_reaches_out_does_not_push_the_body_aside():
    reference = subject_of(rectangle((128, 128), 50, 20, 70, 100), "test")
    reaching = rectangle((128, 128), 50, 20, 70, 100)
    reaching[30:36, 70:100] = True
    found = align(reference, subject_of(reaching, "test"), (128, 128), alike=0.25)
    assert found.scale == 1 and abs(found.shift[0]) <= 3 and found.shift[1] == 0  # between the boxes' middles lie 15 pixels


def test_sizes_that_are_alike_count_as_the_same():
    reference = subject_of(rectangle((128, 128), 40, 20, 70, 100), "test")
    smaller, larger = (subject_of(rectangle((128, 128), 10, 30, 36, 30 + tall), "test") for tall in (70, 50))
    exact, kept = align(reference, smaller, (128, 128)), align(reference, smaller, (128, 128), alike=0.25)
    assert exact.scale == pytest.approx(80 / 70) and exact.shift[0] % 1
    assert kept.scale == 1 and all(by == round(by) for by in kept.shift) and "nearly the same" in kept.reasons[-1]
    assert point(kept.aligned_box, "bottom") == pytest.approx(point(kept.reference_box, "bottom"), abs=0.5)
    assert align(reference, larger, (128, 128), alike=0.25, rule="height").scale == pytest.approx(80 / 50)


def test_between_the_same_size_and_another_nothing_jumps():
    ratios = np.exp(np.linspace(-1.2, 1.2, 2001))
    found = np.array([calmed(ratio, 0.25) for ratio in ratios])
    steps = np.diff(np.log(found))
    assert steps.min() >= -1e-12 and steps.max() < 2.01 * np.diff(np.log(ratios)).max()
    assert np.allclose(found[(ratios > 0.8) & (ratios < 1.25)], 1) and np.allclose(found[ratios > 1.57], ratios[ratios > 1.57])
    assert np.allclose([calmed(ratio, 0.0) for ratio in ratios], ratios)


@settings(deadline=None)  # the machine may be busy
@given(subjects(), subjects(), canvases, modes, modes, anchors, st.sampled_from((0.0, 0.1)))
def test_an_aligned_subject_never_leaves_the_canvas(reference, structure, canvas, mode, reference_mode, anchor, margin):
    found = align(reference, structure, canvas, mode, reference_mode, anchor, margin=margin)
    box, edge = found.aligned_box, margin * min(canvas)
    assert inside(Box(box.x0 - edge, box.y0 - edge, box.x1 + edge, box.y1 + edge), canvas)


@settings(deadline=None)  # the machine may be busy
@given(subjects(), subjects(), canvases, modes)
def test_the_matrix_takes_the_structure_s_own_box_to_the_aligned_one(reference, structure, canvas, mode):
    found = align(reference, structure, canvas, mode)
    box, aligned = structure.box, found.aligned_box
    low, high = (found.matrix @ (*corner, 1) for corner in ((box.x0, box.y0), (box.x1, box.y1)))
    assert (*low, *high) == pytest.approx((aligned.x0, aligned.y0, aligned.x1, aligned.y1), abs=1e-6 * max(canvas))


@settings(deadline=None)  # the machine may be busy
@given(subjects(), subjects(), canvases)
def test_a_canvas_twice_as_large_shifts_twice_as_far(reference, structure, canvas):
    # The one resize mode that never rounds to whole pixels: with the others only a pixel may differ.
    small, large = (align(reference, structure, (canvas[0] * k, canvas[1] * k), STRETCH, rule="height", fit=False) for k in (1, 2))
    assert large.scale == pytest.approx(small.scale) and large.shift == pytest.approx([2 * t for t in small.shift], abs=1e-6)


@settings(deadline=None)  # the machine may be busy
@given(subjects(), st.integers(1, 6), canvases)
def test_a_taller_reference_makes_a_larger_structure(structure, step, canvas):
    size = (200, 200)
    references = [subject_of(rectangle(size, 80, 100 - n, 120, 150), "test") for n in (30, 30 + 8 * step)]
    short, tall = (align(r, structure, canvas, FILL, rule="height", fit=False) for r in references)
    assert tall.scale > short.scale or (tall.scale == short.scale and any("limit" in reason for reason in short.reasons))


@settings(deadline=None)  # the machine may be busy
@given(sizes, canvases)
def test_images_are_placed_as_controlnet_places_them(size, canvas):
    (width, height), (w, h) = size, canvas
    for mode, k in ((FILL, min(h / height, w / width)), (CROP, max(h / height, w / width))):
        new_w, new_h = max(1, round(width * k)), max(1, round(height * k))
        placed = place(size, canvas, mode)
        assert placed.scale == (new_w / width, new_h / height)
        bars = (max(0, (w - new_w) // 2), max(0, (h - new_h) // 2))
        lost = (max(0, (new_w - w) // 2), max(0, (new_h - h) // 2))
        assert placed.shift == (bars[0] - lost[0], bars[1] - lost[1])
    assert place(size, canvas, STRETCH).scale == (w / width, h / height)
    # An aligned map has the canvas's size, so the unit's own resize changes nothing any more.
    assert all(place(canvas, canvas, mode) == place(canvas, canvas, STRETCH) for mode in MODES)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(90, 61), (64, 128), (130, 130)])
def test_without_a_transform_the_map_is_what_the_unit_would_have_made(mode, size):
    canvas = (96, 64)
    y, x = np.mgrid[: size[1], : size[0]]
    image = np.stack([x * 2, y * 2, 60 + 40 * np.sin(x / 9)], 2).clip(0, 255).astype(np.uint8)
    subject = subject_of(rectangle(size, 20, 20, 40, 50), "test")
    found = align(subject, subject, canvas, mode, rule="one", fit=False)
    if mode == CROP and not stays(found):
        found = type(found)(canvas, size, mode, mode, found.reference_box, found.structure_box)
    placed = place(size, canvas, mode)
    resized = cv2.resize(image, [round(n * k) for n, k in zip(size, placed.scale, strict=True)], interpolation=cv2.INTER_LINEAR)
    tx, ty = (int(t) for t in placed.shift)
    expected = np.zeros((64, 96, 3), np.uint8)
    expected[:] = np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]), axis=0)
    piece = resized[max(0, -ty) :, max(0, -tx) :][: 64 - max(0, ty), : 96 - max(0, tx)]
    expected[max(0, ty) :, max(0, tx) :][: piece.shape[0], : piece.shape[1]] = piece
    assert np.abs(apply(image, found).astype(int) - expected).mean() < 1.5


@settings(deadline=None)
@given(subjects(room=3), subjects(room=3), canvases, modes)
def test_the_picture_shows_what_the_data_say(reference, structure, canvas, mode):
    found = align(reference, structure, canvas, mode)
    image = np.where(structure.mask[..., None], np.uint8([200, 90, 10]), np.uint8([5, 5, 5]))
    result = apply(image, found)
    assert result.shape == (canvas[1], canvas[0], 3) and result.dtype == np.uint8
    shown = (result != 5).any(2)
    box, seen = found.aligned_box, (np.nonzero(shown.any(0))[0], np.nonzero(shown.any(1))[0])
    if min(box.width, box.height) > 4:
        assert [seen[0][0], seen[1][0], seen[0][-1] + 1, seen[1][-1] + 1] == pytest.approx([box.x0, box.y0, box.x1, box.y1], abs=1.6)


def test_a_portrait_stays_at_the_edge_that_cuts_it():
    bust = subject_of(rectangle((100, 100), 30, 40, 70, 100), "test")
    small = subject_of(rectangle((100, 100), 40, 10, 60, 50), "test")
    found = align(small, bust, (100, 100))
    assert found.aligned_box.y1 >= 100 - 1e-6 and any("cut" in reason for reason in found.reasons)
    assert found.anchor == "top"


def test_what_fills_its_frame_stays_and_says_so():
    whole, part = subject_of(np.ones((40, 40), bool), "test"), subject_of(rectangle((40, 40), 5, 5, 20, 30), "test")
    found = align(part, whole, (80, 80))
    assert stays(found) and any("fills" in reason for reason in found.reasons)


def test_a_subject_too_large_is_shrunk_and_the_reason_told():
    flat, thin = subject_of(rectangle((100, 100), 30, 20, 60, 98), "test"), subject_of(rectangle((100, 100), 2, 40, 98, 60), "test")
    found = align(flat, thin, (100, 100), rule="height")
    assert found.aligned_box.width == pytest.approx(100) and any("as large as it should be" in reason for reason in found.reasons)


def test_the_hand_has_the_last_word():
    a, b = (subject_of(rectangle((100, 100), *box), "test") for box in ((30, 20, 60, 80), (20, 30, 40, 60)))
    plain, hand = align(a, b, (100, 100)), Correction(0.7, -0.1, 1.5)
    found = align(a, b, (100, 100), correction=hand)
    assert found.correction == hand and found.scale == pytest.approx(1.5 * plain.scale)
    (x, y), (u, v) = point(plain.aligned_box, "bottom"), point(found.aligned_box, "bottom")
    assert (u - x, v - y) == pytest.approx((70, -10)) and not inside(found.aligned_box, (100, 100))


@pytest.mark.parametrize(("shift", "said"), [(0.05, None), (0.45, "50%"), (0.9, "100%")])
def test_what_the_hand_pushes_out_of_the_picture_is_said(shift, said):
    a, b = (subject_of(rectangle((100, 100), *box), "test") for box in ((40, 20, 70, 80), (20, 30, 50, 90)))
    told = " ".join(align(a, b, (100, 100), correction=Correction(shift)).reasons)
    assert (f"By your correction {said} of the figure lies outside" in told) if said else ("By your correction" not in told)


GOOD = subject_of(rectangle((30, 30), 5, 5, 20, 25), "test")


@pytest.mark.parametrize(
    "call",
    [
        lambda: align(GOOD, GOOD, (0, 64)),
        lambda: align(GOOD, GOOD, (64.5, 64)),
        lambda: align(GOOD, GOOD, "64x64"),
        lambda: align(GOOD, GOOD, (1 << 20, 64)),
        lambda: align(GOOD, GOOD, (64, 64), "zoom"),
        lambda: align(GOOD, GOOD, (64, 64), anchor="left"),
        lambda: align(GOOD, GOOD, (64, 64), rule="magic"),
        lambda: align(GOOD, GOOD, (64, 64), margin=float("nan")),
        lambda: align(GOOD, GOOD, (64, 64), margin=0.9),
        lambda: Correction(scale=float("inf")),
        lambda: Correction(dx=1e9),
        lambda: resize_mode(True),
        lambda: apply(np.zeros((9, 9, 3), np.uint8), align(GOOD, GOOD, (64, 64))),
        lambda: apply(np.zeros((30, 30, 3), np.uint8), align(GOOD, GOOD, (64, 64)), detail=float("nan")),
        lambda: apply(np.full((30, 30, 3), np.nan, np.float32), align(GOOD, GOOD, (64, 64))),
    ],
)
def test_nonsense_is_refused_in_one_sentence(call):
    with pytest.raises(AlignError) as error:
        call()
    assert str(error.value).endswith(".") and len(str(error.value)) < 200


def test_controlnets_names_and_numbers_are_understood():
    assert [resize_mode(m) for m in (0, 1, 2, 3, "Inner Fit (Scale to Fit)", "fill")] == [STRETCH, CROP, FILL, STRETCH, CROP, FILL]


def larger(image, times, **options):
    """The map with its figure `times` as large, in a canvas that has room for it."""
    height, width = image.shape[:2]
    subject = subject_of(rectangle((width, height), width // 4, height // 4, width // 2, height // 2), "test")
    found = align(subject, subject, (width, height), rule="one", correction=Correction(scale=times), anchor="centre")
    return apply(image, found, **options)


@pytest.mark.parametrize("times", [0.4, 0.7, 1.6, 3.0])
def test_named_colours_stay_clean_and_lines_stay_lines(times):
    labels = np.zeros((100, 100, 3), np.uint8)
    cv2.circle(labels, (40, 40), 12, (255, 85, 0), -1)
    cv2.line(labels, (40, 40), (60, 70), (0, 51, 153), 4)
    known = {tuple(c) for c in labels.reshape(-1, 3).tolist()}
    assert {tuple(c) for c in larger(labels, times).reshape(-1, 3).tolist()} <= known

    lines = np.zeros((100, 100), np.uint8)
    cv2.circle(lines, (38, 38), 12, 255, 1)
    result = larger(lines, times, kind="edges")
    assert result.shape == lines.shape and set(np.unique(result)) == {0, 255}
    assert cv2.connectedComponents(result)[0] == 2 and not cv2.erode(result, np.ones((3, 3), np.uint8)).any()
    assert cv2.connectedComponents((result == 0).astype(np.uint8), connectivity=4)[0] == 3  # the circle is still closed


def test_every_kind_of_image_keeps_its_type():
    grey, colour = np.random.default_rng(0).random((50, 40)), np.random.default_rng(1).random((50, 40, 4)).astype(np.float32)
    for image in (grey, colour):
        result = larger(image, 1.3)
        assert result.dtype == image.dtype and result.shape == image.shape and result.min() >= 0 and result.max() <= 1
        assert np.array_equal(larger(image, 1.0), image)


def test_a_later_larger_pass_gets_the_same_picture_finer():
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 4)
    found = align(subject_of(rectangle((64, 64), 10, 5, 50, 60), "test"), subject_of(rectangle((64, 64), 20, 20, 40, 50), "test"), (64, 64))
    once, fine = apply(image, found), apply(image, found, detail=2)
    assert fine.shape == (128, 128, 3)
    assert np.abs(cv2.resize(fine, (64, 64), interpolation=cv2.INTER_AREA).astype(int) - once).mean() < 2


def test_joints_are_read_where_they_were_drawn():
    who = sample_identities(torch.arange(30), person=True)
    parts = body(who, sample_poses(torch.arange(30), who))
    maps = (draw_structure("skeleton", who, parts, 192).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    off = []
    for image, truth in zip(maps, parts.keypoints.numpy() * 192, strict=True):
        found = read_skeleton(image)
        assert found.seen.sum() >= 14
        off += np.hypot(*(found.points - truth)[found.seen].T).tolist()
    assert np.percentile(off, 95) < 2.5


def test_of_two_bodies_the_larger_is_read_and_noise_is_no_body():
    who = sample_identities(torch.arange(2), person=True)
    parts = body(who, sample_poses(torch.arange(2), who, torch.full((2,), POSE.index("standing"))))
    one, two = ((draw_structure("skeleton", who, parts, s).permute(0, 2, 3, 1) * 255).round().byte().numpy() for s in (256, 128))
    both = np.hstack([one[0], np.pad(two[1], ((128, 0), (0, 0), (0, 0)))])
    found = read_skeleton(both)
    assert np.nanmax(found.points[:, 0]) < 256 and found.seen.sum() >= 14
    assert read_skeleton(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)) is None
    assert read_skeleton(np.zeros((8, 8, 3), np.uint8)) is None


def test_a_pose_map_without_legs_is_a_portrait():
    points = np.full((18, 2), np.nan)
    points[[0, 1, 2, 3, 5, 6, 8, 11]] = [(50, 20), (50, 35), (40, 36), (38, 50), (60, 36), (62, 50), (46, 62), (54, 62)]
    image = np.zeros((100, 100, 3), np.uint8)
    for joint in np.nonzero(np.isfinite(points[:, 0]))[0]:
        hue = np.float32([[[20.0 * joint, 1, 1]]])
        colour = (cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0] * 255).round().tolist()
        cv2.circle(image, tuple(points[joint].astype(int).tolist()), 2, colour, -1)
    found = from_control_map(image)
    assert isinstance(found.skeleton, Skeleton) and unseen_ends(found.skeleton) == ("bottom",) and "legs" in found.reasons[0]


def test_the_chosen_rule_beats_the_papers_where_poses_differ():
    """Small, so that it is quick; `python dev.py bench align --rules` has the whole table."""
    for person, seeds, better in ((True, range(120), 0.9), (False, range(40), 0.7)):
        errors = measure(seeds, person)
        differ = errors.families[:, 0] != errors.families[:, 1]

        def median(known, rule, errors=errors, differ=differ):
            return np.nanmedian(np.abs(errors.log_error[known, rule][differ]))

        assert median("mask, silhouette", "auto") < better * median("mask, silhouette", "height")
        assert median("joints, skeleton", "auto") < 0.04
        # No tool writes an animal's joints into a person's eighteen.
        assert not person or median("mask, skeleton", "auto") < 0.09
