"""Pose maps drawn anew: thin sticks and small dots at every size, pure colours, and nothing lost."""

import cv2
import numpy as np
import pytest

from bench.align_pairs import paint
from seal_ext.core import redrawing
from seal_ext.core.anchor_align import anchor_align
from seal_ext.core.canvas import FILL
from seal_ext.core.control_map import body_of
from seal_ext.core.geometry import Alignment
from seal_ext.core.mask import Box
from seal_ext.core.skeleton import read_skeletons
from seal_ext.core.warping import apply
from seal_ext.settings import Settings
from tests.core.test_alignment import SIDE, body, hand

WHOLE = Box(0.0, 0.0, float(SIDE), float(SIDE))


def grown(image, times, about=(256.0, 256.0)):
    """The map with all figures so many times as large about a point."""
    shift = tuple((1 - times) * at for at in about)
    found = Alignment((SIDE, SIDE), (SIDE, SIDE), FILL, FILL, WHOLE, WHOLE, scale=times, shift=shift)
    return apply(image, found, "skeleton", bodies=read_skeletons(image))


def radii(image, colour):
    """Half the thickness of every piece of a colour."""
    count, labels = cv2.connectedComponents((image == colour).all(2).astype(np.uint8))
    return [cv2.distanceTransform((labels == n).astype(np.uint8), cv2.DIST_L2, 5).max() for n in range(1, count)]


@pytest.mark.parametrize("times", [0.4, 0.8, 1.3, 2.0, 5.7])
def test_bodies_grow_and_their_strokes_do_not(times):
    small = body(scale=0.5, shift=(0.25, 0.25)) if times < 3 else body(scale=0.25, shift=(0.375, 0.3625))
    image = paint([small.points], (SIDE, SIDE))
    result = grown(image, times)
    assert {tuple(c) for c in result.reshape(-1, 3).tolist()} <= {tuple(c) for c in image.reshape(-1, 3).tolist()}
    (found,) = read_skeletons(result)
    expected = times * small.points + (1 - times) * 256
    both = found.seen & ((expected > 4) & (expected < SIDE - 4)).all(1)
    assert both.sum() >= (12 if times < 3 else 5) and np.hypot(*(found.points - expected)[both].T).max() < max(2.5, 0.7 * times)
    for colour in ((85, 255, 0), (170, 255, 0)):  # an elbow and a wrist
        assert radii(result, colour) == pytest.approx(radii(image, colour), abs=1.2)


def test_a_soft_map_stays_soft_and_thin():
    image = cv2.GaussianBlur(paint([body(scale=0.4, shift=(0.3, 0.3)).points], (SIDE, SIDE)), (0, 0), 0.7)
    result = grown(image, 2.2)
    assert len(np.unique(result.reshape(-1, 3), axis=0)) > 200
    assert (result.max(2) > 60).sum() == pytest.approx(2.2 * (image.max(2) > 60).sum(), rel=0.25)  # longer by so much, and not thicker


@pytest.mark.parametrize("times", [0.6, 2.0])
def test_hands_and_faces_are_not_lost(times):
    shown = body(scale=0.4, shift=(0.3, 0.3))
    image = paint([shown.points], (SIDE, SIDE))
    hand(image, shown.points[7], 50)
    face = [shown.points[0] + 26 * np.array([np.cos(turn), np.sin(turn)]) for turn in np.linspace(0, np.pi, 9)]
    for place in face:
        cv2.circle(image, place.astype(int).tolist(), 3, (255, 255, 255), -1)
    result = grown(image, times)
    for place in times * np.array(face) + (1 - times) * 256:
        x, y = place.astype(int)
        assert (result[y - 2 : y + 3, x - 2 : x + 3] == 255).all(2).any()
    hues = [{tuple(c) for c in picture[picture.max(2) == 255].tolist()} for picture in (image, result)]
    assert len(hues[1]) >= (0.8 if times > 1 else 0.5) * len(hues[0])  # closer together they hide one another
    assert max(radii(result, (0, 0, 255))) <= (6 if times > 1 else 8)


def animal():
    """As an animal detector paints it: other joints, other bones, other colours."""
    places = {
        0: (90, 180),
        1: (130, 220),
        2: (390, 215),
        3: (150, 300),
        4: (145, 380),
        5: (185, 300),
        6: (190, 380),
        7: (370, 300),
        8: (375, 380),
    }
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    for number, (a, b) in enumerate(((0, 1), (1, 2), (1, 3), (3, 4), (1, 5), (5, 6), (2, 7), (7, 8))):
        cv2.line(image, places[a], places[b], (60 + 20 * number, 200 - 20 * number, 90), 5)
    for joint, place in places.items():
        cv2.circle(image, place, 5, (255, 255 - 25 * joint, 100), -1)
    return image, places


@pytest.mark.parametrize("times", [0.6, 2.0])
def test_animals_are_drawn_anew_too(times):
    image, places = animal()
    result = grown(image, times)
    for joint, place in places.items():
        x, y = (times * np.array(place) + (1 - times) * 256).astype(int)
        if min(x, y) > 6 and max(x, y) < SIDE - 6:
            colour = (255, 255 - 25 * joint, 100)
            assert (result[y - 1 : y + 2, x - 1 : x + 2] == colour).all(2).any()
            assert max(radii(result, colour)) == pytest.approx(max(radii(image, colour)), abs=1.3)
    ink = [(picture.max(2) > 0).astype(np.uint8) for picture in (image, result)]
    assert (times > 1 or cv2.connectedComponents(ink[1])[0] == 2) and cv2.distanceTransform(ink[1], cv2.DIST_L2, 5).max() < 7.5


def test_what_only_moves_by_pixels_stays_as_it_is():
    image = paint([body(scale=0.5).points], (SIDE, SIDE))
    found = Alignment((SIDE, SIDE), (SIDE, SIDE), FILL, FILL, WHOLE, WHOLE, shift=(30.0, 40.0))
    result = apply(image, found, "skeleton", bodies=read_skeletons(image))
    assert np.array_equal(result[40:, 30:], image[:-40, :-30])


def test_a_later_larger_pass_has_thicker_strokes():
    image = paint([body(scale=0.5, shift=(0.2, 0.2)).points], (SIDE, SIDE))
    wishes = Settings().alignment()
    subject = body_of(body(), SIDE, SIDE)
    once, fine = (anchor_align(subject, image, (SIDE, SIDE), kind="skeleton", detail=k, room=0.0, **wishes).map for k in (1.0, 2.0))
    elbow = (170, 255, 0)
    assert max(radii(fine, elbow)) == pytest.approx(2 * max(radii(once, elbow)), rel=0.2)


def test_a_map_of_crumbs_is_not_drawn_anew(monkeypatch):
    """Each piece is compared with all dots: what is nothing but noise would take minutes."""
    monkeypatch.setattr(redrawing, "_stick", lambda *_: pytest.fail("crumbs were compared"))
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)], np.uint8)
    noise = colours[np.random.default_rng(0).integers(0, 6, (64, 64))]
    assert redrawing.redrawn(noise, [], np.eye(2, 3) * 1.5, (64, 64), 1.0, True) is None
