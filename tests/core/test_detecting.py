"""Joints from a network: its looks must agree, in mirrors too, and lie on the mask; what only some of them say is left out."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from seal_ext.core.control_map import WORK_PIXELS
from seal_ext.core.detecting import LOOKS, detected, sticks_on
from seal_ext.core.mask import subject_of
from seal_ext.core.pixels import AlignError
from seal_ext.core.proportions import flesh
from seal_ext.core.skeleton import MIRRORED, Skeleton
from tests.skeletons import STANDING

SIDE, LEFT_ARM, ANKLE = 240, (5, 6, 7), 10
FACE = {14: (0.48, 0.185), 15: (0.52, 0.185), 16: (0.46, 0.19), 17: (0.54, 0.19)}


def body(scale=0.7, shift=(0.1, 0.1)):
    points = np.array([(STANDING | FACE)[joint] for joint in range(18)])
    return Skeleton((points * scale + shift) * SIDE)


BODY = body()
SUBJECT = subject_of(flesh(BODY, SIDE, SIDE), "drawn")


def picture(*bodies):
    """Green people whose left arms are red."""
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    for one in bodies or (BODY,):
        image[flesh(one, SIDE, SIDE)] = (40, 200, 40)
        for a, b in pairwise(LEFT_ARM):
            cv2.line(image, one.points[a].astype(int).tolist(), one.points[b].astype(int).tolist(), (200, 40, 40), 3)
    return image


def box(mask):
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min()]), np.array([columns.max() - columns.min(), rows.max() - rows.min()])


class Network:
    """Sees the green body that is leftmost in what it is shown; the red arm tells whether that is a mirror."""

    def __init__(self, change=lambda look, number: look):
        self.calls, self.change = 0, change

    def __call__(self, shown):
        assert shown.flags.c_contiguous and shown.dtype == np.uint8
        self.calls += 1
        levels = shown.astype(int)
        green, red = levels[..., 1] - levels[..., 0] > 80, levels[..., 0] - levels[..., 1] > 80
        labels = cv2.connectedComponents((green | red).astype(np.uint8))[1]
        corner, size = box(labels == labels[:, np.nonzero(green.any(0))[0][0]].max())
        mine = (red.nonzero()[1] >= corner[0]) & (red.nonzero()[1] <= corner[0] + size[0])
        low, wide = box(flesh(BODY, SIDE, SIDE))
        share = (BODY.points - low) / wide
        if red.nonzero()[1][mine].mean() < corner[0] + size[0] / 2:
            share = np.stack([1 - share[:, 0], share[:, 1]], 1)[list(MIRRORED)]  # what was the left arm looks like the right one
        return self.change(np.column_stack([share * size + corner, np.ones(18)]), self.calls - 1)


def test_joints_are_found_in_the_picture_s_pixels():
    network = Network()
    found = detected(picture(), SUBJECT, network)
    assert network.calls == len(LOOKS) and found.seen.all() and np.abs(found.points - BODY.points).max() < 3


def test_a_large_picture_is_looked_at_reduced_and_told_in_its_own_pixels():
    large = cv2.resize(picture(), None, fx=6, fy=6, interpolation=cv2.INTER_NEAREST)
    subject = subject_of(cv2.resize(SUBJECT.mask.astype(np.uint8), None, fx=6, fy=6, interpolation=cv2.INTER_NEAREST) > 0, "drawn")
    assert np.abs(detected(large, subject, Network()).points - 6 * BODY.points).max() < 18


def test_no_more_than_a_megapixel_is_worked_on(monkeypatch):
    large = cv2.resize(picture(), None, fx=16, fy=16, interpolation=cv2.INTER_NEAREST)
    subject = subject_of(cv2.resize(SUBJECT.mask.astype(np.uint8), None, fx=16, fy=16, interpolation=cv2.INTER_NEAREST) > 0, "drawn")
    sizes, own = [], cv2.distanceTransform
    monkeypatch.setattr(cv2, "distanceTransform", lambda mask, *how: sizes.append(mask.size) or own(mask, *how))
    monkeypatch.setattr(np, "argwhere", lambda _: pytest.fail("all pixels were listed"))
    assert np.abs(detected(large, subject, Network()).points - 16 * BODY.points).max() < 48
    assert len(sizes) == 2 + sum(alone for _, alone, _ in LOOKS) and max(sizes) < 1.02 * WORK_PIXELS


def ankle(number):
    """What the network calls it."""
    return MIRRORED[ANKLE] if LOOKS[number][2] else ANKLE


def jumping(look, number):
    look[ankle(number), :2] += 25 * np.array([np.cos(number), np.sin(number)])
    return look


def hiding(look, number):
    look[ankle(number), 2] = 0.1
    return look


@pytest.mark.parametrize("change", [jumping, hiding])
def test_a_joint_that_only_some_looks_see_is_not_known(change):
    found = detected(picture(), SUBJECT, Network(change))
    assert found.seen.sum() == 17 and not found.seen[ANKLE]


def some(look, number):
    return look if number % 2 else None


def turning(look, number):
    """It takes the same side for the left in a mirror, too."""
    return look[list(MIRRORED)] if LOOKS[number][2] else look


def wandering(look, number):
    look[:, :2] += 0.1 * number * np.ptp(look[:, 0])
    return look


def elsewhere(look, number):
    look[:, 1] += 0.6 * np.ptp(look[:, 1])
    return look


@pytest.mark.parametrize(("change", "said"), [
    (lambda look, number: None, "sees nobody"), (some, "not sure"), (turning, "another body each time"), (wandering, "another body"),
    (elsewhere, "somebody else"),
])  # fmt: skip
def test_what_the_looks_or_the_mask_do_not_bear_out_is_refused(change, said):
    with pytest.raises(AlignError, match=said):
        detected(picture(), SUBJECT, Network(change))


def test_somebody_else_in_the_picture_is_not_the_subject():
    """The network always takes the left one; without what is round the subject it is the right one."""
    other = body(0.35, (0.0, 0.5))
    mine = body(0.7, (0.25, 0.1))
    subject = subject_of(flesh(mine, SIDE, SIDE), "drawn")
    found = detected(picture(other, mine), subject, Network())
    assert np.abs(found.points - mine.points).max() < 4


def test_an_animal_s_sticks_count_where_they_lie_on_it():
    mask = np.zeros((SIDE, SIDE), bool)
    mask[80:160, 40:200] = True
    subject, shown = subject_of(mask, "drawn"), np.zeros((SIDE // 2, SIDE // 2, 3), np.uint8)
    for a, b in (((30, 50), (90, 50)), ((35, 50), (35, 75)), ((85, 50), (85, 75))):
        cv2.line(shown, a, b, (255, 150, 50), 3)
    found = sticks_on(shown, subject)
    assert abs(found.box.width - 126) < 8 and abs(found.box.height - 54) < 8 and found.size == (SIDE, SIDE)
    small = np.zeros_like(shown)
    small[50:70, 40:70] = cv2.resize(shown, (30, 20), interpolation=cv2.INTER_NEAREST)
    for wrong in (np.roll(shown, 40, 0), small):
        with pytest.raises(AlignError, match="not the character"):
            sticks_on(wrong, subject)
    with pytest.raises(AlignError):
        sticks_on(np.zeros_like(shown), subject)
