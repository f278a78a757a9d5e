"""AnchorAlign on real cases: half bodies, hands, second persons, folded and lying bodies, and pictures of which nothing is known."""

import colorsys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from bench.align_pairs import paint
from seal_ext.core.anchor_align import UNKNOWN, UNREAD, anchor_align
from seal_ext.core.control_map import body_of, from_control_map
from seal_ext.core.geometry import STAYS, UNSURE, align
from seal_ext.core.joints import matched, refused
from seal_ext.core.mask import everything, subject_of
from seal_ext.core.pixels import AlignError
from seal_ext.core.proportions import stature, unseen_ends
from seal_ext.core.skeleton import NOSE, Skeleton, read_skeleton, read_skeletons
from seal_ext.settings import Settings
from tests.skeletons import STANDING

SIDE = 512
HEAD = {14: (0.485, 0.18), 15: (0.515, 0.18), 16: (0.46, 0.19), 17: (0.54, 0.19)}


def body(moved=None, without=(), scale=1.0, shift=(0.0, 0.0)):
    """A standing person's joints on a picture of 512 × 512, some of them moved or missing."""
    points = np.full((18, 2), np.nan)
    for joint, place in (STANDING | HEAD | (moved or {})).items():
        if joint not in without:
            points[joint] = np.array(place) * scale + shift
    return Skeleton(points * SIDE)


SITTING = {9: (0.3, 0.61), 10: (0.3, 0.77), 12: (0.7, 0.61), 13: (0.71, 0.77)}
HALF = (9, 10, 12, 13)


def aligned(reference, *bodies, mask=None, which="largest", joints=True, image=None):
    subject = body_of(reference, SIDE, SIDE) if mask is None else mask
    subject = replace(subject, source="drawn", skeleton=reference if joints else None)
    structure = paint([one.points for one in bodies], (SIDE, SIDE)) if image is None else image
    wishes = Settings(which=which).alignment()
    return anchor_align(subject, structure, (SIDE, SIDE), kind="skeleton", room=0.0, **wishes)


def placed(found, joints=(0, 1, 8, 11)):
    """Where the aligned figure's joints are, in pixels."""
    return found.bodies[0].points[list(joints)]


def test_a_half_body_is_not_dragged_down():
    bust = body(without=HALF, scale=0.5, shift=(0.2, 0.1))
    for joints in (True, False):
        found = aligned(body(), bust, joints=joints)
        assert not any("cut side" in reason for reason in found.alignment.reasons)
        assert found.bodies[0].points[NOSE, 1] == pytest.approx(body().points[NOSE, 1], abs=(4 if joints else 60))


def test_only_a_side_that_touches_the_frame_is_held():
    inside, outside = body(without=HALF, scale=0.5, shift=(0.2, 0.1)), body(without=HALF, shift=(0, 0.36))
    assert body_of(inside, SIDE, SIDE).cut == () and body_of(outside, SIDE, SIDE).cut == ("bottom",)
    assert body_of(body(), SIDE, SIDE).cut == ()


def test_knees_are_no_feet():
    assert unseen_ends(body()) == () and unseen_ends(body(without=(10, 13))) == ("bottom",)
    assert unseen_ends(body(without=(0, 14, 15, 16, 17))) == ("top",)
    lying = Skeleton(body(without=(10, 13)).points[:, ::-1])
    assert unseen_ends(lying) == ("right",)
    knees = align(subject_of(body_of(body(), SIDE, SIDE).mask, "drawn"), body_of(body(without=(10, 13)), SIDE, SIDE), (SIDE, SIDE))
    assert knees.anchor == "top" and knees.rule != "height"


def hand(image, wrist, size):
    """As DWPose paints one: 21 small blue dots, and lines of all hues."""
    places = [np.array(wrist)]
    for finger in range(5):
        way = np.array([np.sin(0.45 * finger - 1.2), np.cos(0.45 * finger - 1.2)])
        places += [places[0] + size * (0.35 + 0.2 * step) * way for step in range(4)]
    for line in range(20):
        colour = [round(255 * level) for level in colorsys.hsv_to_rgb(line / 20, 1, 1)]
        start = 0 if line % 4 == 0 else line
        cv2.line(image, places[start].astype(int).tolist(), places[line + 1].astype(int).tolist(), colour, 2)
    for place in places:
        cv2.circle(image, place.astype(int).tolist(), 4, (0, 0, 255), -1)


@pytest.mark.parametrize("size", [22, 40, 70])
@pytest.mark.parametrize("without", [(), HALF, (12, 13), (13,)])
def test_hands_and_faces_are_no_joints(size, without):
    shown = body(without=without, scale=0.7, shift=(0.1, 0.1))
    image = paint([shown.points], (SIDE, SIDE))
    for wrist in (4, 7):
        hand(image, shown.points[wrist], size)
    for turn in np.linspace(0, np.pi, 17):
        cv2.circle(image, (shown.points[0] + 30 * np.array([np.cos(turn), np.sin(turn)])).astype(int).tolist(), 3, (255, 255, 255), -1)
    (found,) = read_skeletons(image)
    assert not found.seen[list(without)].any()
    off = np.hypot(*(found.points - shown.points)[found.seen & shown.seen].T)
    assert off.max() < 8 and found.seen[[1, 2, 3, 5, 6, 8, 11]].all()


def test_a_lone_spot_is_no_joint():
    image = paint([body(without=(12, 13)).points], (SIDE, SIDE))
    cv2.circle(image, (400, 300), 4, (0, 0, 255), -1)
    assert not read_skeleton(image).seen[12]


@pytest.mark.parametrize("axis", [0, 1])
def test_joints_in_one_line_are_aligned(axis):
    line = body(scale=0.5, shift=(0.25, 0.25)).points
    line[:, axis] = 256.0
    shown = replace(body_of(body(), SIDE, SIDE), skeleton=Skeleton(line))
    assert align(shown, shown, (SIDE, SIDE)).scale == pytest.approx(1)


def test_where_the_subject_is_unknown_nothing_moves():
    image = paint([body(scale=0.4).points], (SIDE, SIDE))
    wishes = Settings().alignment()
    found = anchor_align(everything(SIDE, SIDE), image, (SIDE, SIDE), kind="skeleton", room=0.0, **wishes)
    assert not found.moves and np.array_equal(found.map, image) and found.alignment.reasons == (UNKNOWN,)


def test_where_the_joints_do_not_tell_nothing_moves_and_that_is_said():
    head_and_feet = body(without=(1, 2, 3, 4, 5, 6, 7, 8, 11, 15, 16, 17)), body(scale=0.4)
    found = aligned(head_and_feet[0], head_and_feet[1], mask=body_of(body(), SIDE, SIDE))
    assert not found.moves and found.alignment.rule == STAYS and UNSURE in found.alignment.reasons and found.alignment.scale == 1
    image = paint([body(without=(0, 1, *range(5, 18))).points], (SIDE, SIDE))
    unread = aligned(body(), image=image)
    assert not unread.moves and UNREAD in unread.alignment.reasons and np.array_equal(unread.map, image)


def test_two_figures_move_together_and_the_character_is_chosen():
    large, small = body(scale=0.6, shift=(-0.05, 0.2)), body(scale=0.35, shift=(0.6, 0.3))
    for which, first in (("largest", large), ("left", large), ("right", small)):
        found = aligned(body(), large, small, which=which)
        assert len(found.bodies) == 2
        assert placed(found) == pytest.approx(placed(aligned(body(), first)), abs=3)
        apart = found.bodies[1].points[NOSE] - found.bodies[0].points[NOSE]
        other = small if first is large else large
        assert apart == pytest.approx(found.alignment.scale * (other.points - first.points)[NOSE], abs=4)
        leaves = ((found.bodies[1].points < 0) | (found.bodies[1].points > SIDE)).any()
        assert any("out of the picture" in reason for reason in found.alignment.reasons) == leaves
        assert found.known.body is not None and found.known.body.points * SIDE == pytest.approx(found.bodies[0].points, nan_ok=True)


def test_of_two_silhouettes_one_is_the_character():
    image = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(image, (150, 300), (40, 120), 0, 0, 360, 255, -1)
    cv2.ellipse(image, (400, 300), (30, 80), 0, 0, 360, 255, -1)
    reference = subject_of(body_of(body(), SIDE, SIDE).mask, "drawn")
    boxes = {}
    for which in ("largest", "left", "right"):
        wishes = Settings(which=which, alike=0.0).alignment()
        found = anchor_align(reference, image, (SIDE, SIDE), kind="silhouette", room=0.0, **wishes).alignment
        boxes[which] = found.structure_box
        assert any(which in reason for reason in found.reasons)
    assert boxes["largest"] == boxes["left"] and boxes["left"].x1 < 200 and boxes["right"].x0 > 360


def test_two_skeletons_that_overlap_are_two():
    one, other = body(scale=0.6, shift=(0.1, 0.2)), body(scale=0.5, shift=(0.28, 0.27))
    found = read_skeletons(paint([one.points, other.points], (SIDE, SIDE)))
    assert len(found) == 2
    for read, true in zip(found, (one, other), strict=True):
        off = np.hypot(*(read.points - true.points)[read.seen & true.seen].T)
        assert off.max() < 4 and (read.seen & true.seen).sum() >= 15


def test_a_raised_elbow_does_not_move_the_head():
    raised = body({3: (0.3, 0.2), 4: (0.25, 0.05), 6: (0.72, 0.2), 7: (0.75, 0.06)}, scale=0.8, shift=(0.1, 0.15))
    found = aligned(body(), raised)
    assert placed(found) == pytest.approx(placed(aligned(body(), body())), abs=3) and found.alignment.rule == "joints"


@pytest.mark.parametrize("pose", [SITTING, {9: (0.44, 0.74), 10: (0.25, 0.74), 12: (0.56, 0.74), 13: (0.37, 0.74)}])
def test_folded_bodies_are_compared_by_their_limbs(pose):
    folded = body(pose, scale=0.5, shift=(0.2, 0.2))
    found = aligned(body(), folded)
    assert found.alignment.scale == pytest.approx(2, rel=0.02) and placed(found) == pytest.approx(placed(aligned(body(), body())), abs=4)
    # Without the reference's joints: how tall the folded body would stand, against how tall the reference stands.
    blind = aligned(body(), folded, joints=False)
    assert blind.alignment.rule == "stature" and blind.alignment.scale == pytest.approx(2, rel=0.05)


def test_a_lying_body_is_as_large_as_a_standing_one():
    lying = Skeleton((body(scale=0.5).points[:, ::-1]) * (1, 1) + (0, 200))
    found = matched(body(), lying, (0.4, 0.4))
    assert found.scale == pytest.approx(2, rel=0.01)
    assert stature(lying) == pytest.approx(stature(body()) / 2) and stature(body(SITTING)) == pytest.approx(stature(body()), rel=0.1)


def test_what_is_seen_from_behind_has_its_sides_exchanged():
    behind = body(scale=0.5, shift=(0.2, 0.2)).mirrored()
    found = matched(body(), behind, (0.4, 0.4))
    assert found.scale == pytest.approx(2, rel=0.01)


def test_a_noisy_detector_moves_the_scale_little():
    chance, off = np.random.default_rng(0), []
    for _ in range(60):
        noisy = Skeleton(body().points + chance.normal(0, 0.03 * body().extent, (18, 2)))
        found = matched(noisy, body(SITTING, scale=0.5), (0.4, 0.4))
        off.append(abs(np.log(found.scale / 2)) if found else 0.0)
    assert np.median(off) < 0.06 and np.percentile(off, 90) < 0.15


def test_detected_joints_are_held_against_the_mask():
    subject = replace(body_of(body(scale=0.8, shift=(0.1, 0.1)), SIDE, SIDE), skeleton=None)
    right = body(scale=0.8, shift=(0.1, 0.1))
    assert refused(right, subject) is None and refused(body(without=HALF, scale=0.8, shift=(0.1, 0.1)), subject) is None
    chance = np.random.default_rng(0)
    assert refused(Skeleton(right.points + chance.normal(0, 0.03 * right.extent, (18, 2))), subject) is None
    assert "somebody else" in refused(body(scale=0.4, shift=(0.62, 0.1)), subject)  # beside it
    assert "explain" in refused(body(scale=0.25, shift=(0.375, 0.28)), subject)  # a face in a shirt's print
    assert "far too long" in refused(Skeleton(right.points + np.where(np.arange(18)[:, None] == 3, 400, 0)), subject)
    assert "too few" in refused(body(without=range(2, 18)), subject)


def scene(floor=0.0, normal=False):
    """A round figure as depth or normal maps show it, and its mask."""
    y, x = np.mgrid[:256, :256].astype(np.float32)
    mask = ((x - 128) / 40) ** 2 + ((y - 120) / 90) ** 2 < 1
    height = np.sqrt(np.clip(1 - ((x - 128) / 40) ** 2 - ((y - 120) / 90) ** 2, 0, 1))
    if normal:
        z = cv2.GaussianBlur(height.clip(0, 0.5) * 40, (0, 0), 2)  # as flat in front as the wall behind
        way = np.dstack([-np.gradient(z, axis=1), np.gradient(z, axis=0), np.ones_like(z)])
        return ((way / np.linalg.norm(way, axis=2, keepdims=True) + 1) * 127.5).round().astype(np.uint8), mask
    ramp = np.clip((y - 256 * (1 - floor)) / (256 * max(floor, 1e-6)), 0, 1) * 0.9 * (floor > 0)
    depth = np.where(mask, 0.35 + 0.5 * height, ramp)
    return np.repeat((depth * 255).astype(np.uint8)[..., None], 3, 2), mask


@pytest.mark.parametrize("how", [{"normal": True}, {"floor": 0.3}, {"floor": 0.5}, {}])
def test_a_map_s_figure_is_neither_its_rim_nor_the_floor(how):
    image, mask = scene(**how)
    found = from_control_map(image)
    assert (found.mask & mask).sum() / (found.mask | mask).sum() > (0.8 if "normal" in how else 0.9)  # normals reach beyond the edge
    assert any("floor" in reason for reason in found.reasons) == ("floor" in how)


def test_crumbs_belong_to_the_figure_and_nothing_but_crumbs_is_none():
    chance = np.random.default_rng(0)
    blocks = cv2.resize((chance.random((64, 64)) < 0.55).astype(np.uint8), (256, 256), interpolation=cv2.INTER_NEAREST)
    found = from_control_map(scene()[0] * blocks[..., None])
    assert found.box.height == pytest.approx(180, abs=12)
    dust = np.zeros((256, 256), np.uint8)
    for x, y in chance.integers(1, 15, (60, 2)):
        dust[16 * y : 16 * y + 7, 16 * x : 16 * x + 7] = 200
    with pytest.raises(AlignError, match="none of which"):
        from_control_map(dust)


def test_room_is_a_disc_s_width_on_all_sides_and_quick():
    mask = np.zeros((200, 200), bool)
    mask[80:120, 90:110] = True
    subject = subject_of(mask, "test")
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (41, 41))
    slow, quick = cv2.dilate(mask.astype(np.uint8), disc) > 0, subject.with_room(0.5)
    assert (slow ^ quick).mean() < 0.005 and np.array_equal(subject.with_room(0), mask)
