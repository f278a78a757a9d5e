"""The limb guide: a place finds the same place of the same limb, however the limb is turned, sized or mirrored."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_ext.core.canvas import known_on
from seal_ext.core.guide import Guide, Known
from seal_ext.core.infusion import Asking, Infusion, attention, take
from seal_ext.core.limbs import Body
from seal_ext.core.mask import subject_of
from seal_ext.core.matching import Appearance, match
from seal_ext.core.skeleton import Skeleton
from tests.core.test_infusion import ALL, ROWS, TOKENS, Layer, open_gate
from tests.skeletons import STANDING

FEW = settings(max_examples=25, deadline=None)
GRID = (16, 16)
EVERY = torch.arange(256)
TOKEN = 1 / 64  # how exactly `expected` tells a place


def skeleton(moved=None):
    points = np.full((18, 2), np.nan)
    for joint, place in (STANDING | (moved or {})).items():
        points[joint] = place
    return Skeleton(points)


def guide(picture, reference, kept=EVERY):
    return Guide(Known(Body.of(picture)), [(Known(Body.of(reference)), kept)], GRID)[:]


def found(picture, reference, place):
    """Where a place of the picture looks first: (x, y)."""
    told = guide(picture, reference)
    x, y = (int(v * 16) for v in place)
    token = int(told[y * 16 + x].argmax())
    return np.array([(token % 16 + 0.5) / 16, (token // 16 + 0.5) / 16])


def middle(body, a, b):
    return (body.points[a] + body.points[b]) / 2


@pytest.mark.parametrize("limb", [(3, 4), (6, 7), (8, 9), (9, 10), (12, 13), (1, 0)])
def test_a_turned_limb_is_found_by_its_own_places(limb):
    raised = skeleton({3: (0.34, 0.25), 4: (0.3, 0.12), 9: (0.36, 0.7), 10: (0.3, 0.82)})
    there = found(raised, skeleton(), middle(raised, *limb))
    assert np.abs(there - middle(skeleton(), *limb)).max() <= 1.1 / 16


@FEW
@given(st.floats(0.5, 1.0), st.floats(0.0, 0.4), st.floats(0.0, 0.4))
def test_size_and_place_do_not_matter(scale, x, y):
    small = skeleton().moved((scale, scale), (x * (1 - scale), y * (1 - scale)))
    for limb in ((6, 7), (9, 10)):
        assert np.abs(found(small, skeleton(), middle(small, *limb)) - middle(skeleton(), *limb)).max() <= 1.6 / 16


def test_a_mirrored_body_keeps_its_sides():
    turned = Skeleton((skeleton().points - [0.5, 0]) * [-1, 1] + [0.5, 0])  # its right arm is now on the right
    beside = np.array([0.44, 0.45])  # between the torso's middle and its right side
    there = found(turned, skeleton(), np.array([1, 0]) + beside * [-1, 1])
    assert there[0] < 0.5
    assert found(skeleton(), skeleton(), beside)[0] < 0.5


FACE = {14: (0.485, 0.19), 15: (0.515, 0.19), 16: (0.47, 0.2), 17: (0.53, 0.2)}


def facing(yaw):
    """The same body, its torso and head turned to the picture's right."""
    points = skeleton(FACE).points.copy()
    for joint in (2, 5, 8, 11, 14, 15, 16, 17):
        points[joint, 0] = 0.5 + (points[joint, 0] - 0.5) * math.cos(yaw)
    points[0, 0] = 0.5 + 0.6 * 0.06 * math.sin(yaw)
    return Skeleton(points)


def expected(picture, reference, place, grid=(64, 64)):
    """The middle of where a place of the picture looks, in shares of the canvas."""
    told = Guide(Known(Body.of(picture)), [(Known(Body.of(reference)), torch.arange(math.prod(grid)))], grid)[:]
    x, y = (int(v * n) for v, n in zip(place, reversed(grid), strict=True))
    shares = told[y * grid[1] + x].exp()
    shares = (shares - 2 * shares.min()).clamp(min=0).reshape(grid)  # without what is everywhere
    rows, columns = ((torch.arange(n) + 0.5) / n for n in grid)
    return np.array([float((shares.sum(0) * columns).sum() / shares.sum()), float((shares.sum(1) * rows).sum() / shares.sum())])


@pytest.mark.parametrize(("ours", "theirs"), [(0.0, 0.6), (0.6, 0.0), (-0.5, 0.4), (0.3, 0.3)])
@pytest.mark.parametrize("part", ["torso", "head"])
def test_what_is_in_the_middle_stands_at_the_side_of_a_body_that_turns(ours, theirs, part):
    radius, y = (0.48 * 0.16, 0.45) if part == "torso" else (0.3 * 0.16, 0.22)
    at = 0.2  # a longitude on the body
    places = [np.array([0.5 + radius * math.sin(at + yaw), y]) for yaw in (ours, theirs)]
    assert np.abs(expected(facing(ours), facing(theirs), places[0]) - places[1]).max() < TOKEN


def test_a_face_tells_by_how_much_both_are_turned():
    """Both pictures show the shoulders equally narrow: only the faces tell that the torsos look to opposite sides."""
    there = expected(facing(0.5), facing(-0.5), (0.5, 0.45))
    assert there[0] == pytest.approx(0.5 + 0.48 * 0.16 * math.sin(-1.0), abs=TOKEN)


def test_without_a_face_or_shoulders_nothing_turns():
    faceless, narrow = facing(0.7), facing(0.7)
    faceless.points[[14, 15, 16, 17]] = np.nan
    narrow.points[[2, 5, 16, 17]] = np.nan
    for body in (faceless, narrow):
        assert expected(body, skeleton(), (0.5, 0.45))[0] == pytest.approx(0.5, abs=TOKEN)


def test_a_head_with_one_ear_and_no_nose_on_reversed_shoulders_looks_away():
    behind = facing(math.pi)
    behind.points[[0, 14, 15, 17]] = np.nan  # of the face only its right ear is seen, on our right
    there = expected(behind, facing(2 * math.pi / 3), (0.5, 0.22))
    assert there[0] == pytest.approx(0.5, abs=2 * TOKEN)


def test_in_profile_without_a_face_nothing_turns():
    """Shoulders that nearly meet say nothing: noise decides which of them is on the left."""
    for yaw in (1.52, 1.62):
        edge_on = facing(yaw)
        edge_on.points[[14, 15, 16, 17]] = np.nan
        assert expected(edge_on, skeleton(FACE), (0.53, 0.45))[0] > 0.5


def test_a_hidden_ear_is_a_head_that_looks_that_way():
    seen = facing(math.pi / 3)
    alone = Skeleton(np.where((np.arange(18) == 17)[:, None], np.nan, seen.points))
    assert expected(alone, skeleton(FACE), (0.5, 0.22))[0] < 0.48


def test_a_wide_canvas_changes_nothing():
    """A limb that is turned keeps its places beside its middle, however the canvas is shaped."""
    raised = skeleton({3: (0.34, 0.25), 4: (0.3, 0.12)})
    beside = middle(raised, 3, 4) + np.array([0.02, 0.0])
    square = expected(raised, skeleton(), beside)
    half = [Skeleton(body.points * [0.5, 1] + [0.25, 0]) for body in (raised, skeleton())]
    wide = expected(*half, beside * [0.5, 1] + [0.25, 0], (64, 128))
    assert np.abs((wide - [0.25, 0]) / [0.5, 1] - square).max() < 0.006


def box(left, top, right, bottom, size=(64, 64)):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def shown(mask):
    """What is known of a figure by its mask alone."""
    return Known.of(subject_of(mask, "drawn", True), None, mask.shape)


def test_without_joints_a_place_is_found_between_the_figures_sides():
    figure, subject = box(8, 8, 24, 56), box(24, 16, 56, 40)
    kept = torch.from_numpy(subject.flatten().nonzero()[0])
    told = Guide(shown(figure), [(shown(subject), kept)], (64, 64))[:]
    for share in (0.1, 0.5, 0.9):
        token = int(kept[told[int(8 + 48 * share) * 64 + int(8 + 16 * share)].argmax()])
        assert abs(token % 64 - (24 + 32 * share)) < 2 and abs(token // 64 - (16 + 24 * share)) < 2
    assert (told[40] == 0).all(), "outside the figure it says nothing"
    torch.testing.assert_close(told.exp().mean(1), torch.ones(64 * 64), rtol=1e-4, atol=1e-4)


def test_a_figure_that_fits_better_mirrored_looks_the_other_way():
    figure = box(8, 24, 56, 40) | box(40, 8, 56, 24)  # a body with a head on its right
    places = torch.arange(64 * 64)
    head = 16 * 64 + 48
    for other, there in ((figure, 48), (figure[:, ::-1], 15)):
        told = Guide(shown(figure), [(shown(other), places)], (64, 64))[:]
        assert abs(int(told[head].argmax()) % 64 - there) <= 1


def test_joints_tell_more_than_extents_and_nothing_is_no_guide():
    body, extent = Body.of(skeleton()), shown(box(16, 8, 48, 56)).extent
    joints = Guide(Known(body), [(Known(body), EVERY)], GRID)[:]
    assert torch.equal(Guide(Known(body, extent), [(Known(body, extent), EVERY)], GRID)[:], joints)
    assert not torch.equal(Guide(Known(body, extent), [(Known(None, extent), EVERY)], GRID)[:], joints)
    for nothing in (Known(), shown(np.ones((16, 16), bool)), Known.of(None, None, (16, 16))):
        told = Guide(nothing, [(Known(body, extent), EVERY)], GRID)
        assert not told.says and (told[:] == 0).all()


def test_what_the_frame_cuts_on_one_alone_has_no_sides():
    whole, bust, other = box(20, 8, 40, 56), box(10, 20, 50, 64), box(16, 30, 44, 64)
    for one, two, says in ((whole, whole, True), (whole, bust, False), (bust, whole, False), (bust, other, True)):
        assert Guide(shown(one), [(shown(two), EVERY)], GRID).says is says


def test_a_pictures_extent_lies_where_the_canvas_shows_it():
    """Of a wide picture on a square canvas the bars say nothing about the figure."""
    known = known_on(subject_of(box(8, 8, 24, 56, (64, 128)), "drawn"), None, (64, 128), 96, 96)
    assert known.extent.low.tolist() == pytest.approx([8 / 128, 0.25 + 8 / 128])
    assert known.extent.high.tolist() == pytest.approx([24 / 128, 0.25 + 56 / 128])


def test_far_from_every_limb_and_without_common_limbs_it_says_nothing():
    told = guide(skeleton(), skeleton())
    assert (told[0] == 0).all()
    arm = np.full((18, 2), np.nan)
    arm[[2, 3, 4]] = [(0.2, 0.2), (0.3, 0.3), (0.4, 0.4)]
    leg = np.full((18, 2), np.nan)
    leg[[8, 9, 10]] = [(0.5, 0.5), (0.5, 0.7), (0.5, 0.9)]
    assert (guide(Skeleton(arm), Skeleton(leg)) == 0).all()
    assert Body.of(Skeleton(np.full((18, 2), np.nan))) is None


def test_it_only_moves_the_look_and_only_to_kept_tokens():
    kept = EVERY[40:200:3]
    told = guide(skeleton(), skeleton({4: (0.2, 0.2)}), kept)
    assert told.shape == (256, len(kept))
    torch.testing.assert_close(told.exp().mean(1), torch.ones(256), rtol=1e-4, atol=1e-4)


def test_match_obeys_the_guide_and_still_tells_the_true_cosine():
    layer = Layer(3)
    query, key = layer.appearance.feature[:, :, :4], layer.appearance.feature
    wanted = torch.tensor([5, 6, 7, 8])
    told = torch.full((1, 4, key.shape[2]), -5.0).scatter(2, wanted[None, :, None], 5.0)
    for budget in (1, 1 << 20):
        seen = match(query, key, guide=told, budget=budget)
        assert torch.equal(seen.index[0, 0, :, 0], wanted)
        cosine = (query[0, 0] * key[0, 0, wanted]).sum(-1)
        torch.testing.assert_close(seen.similarity[0, 0], cosine.clamp(max=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("top_k", [0, 1, 30])
@pytest.mark.parametrize("rows", [1, ROWS])
def test_attention_goes_where_the_guide_says(top_k, rows):
    """A guide that leaves one token of the reference makes every form take that token's value."""
    layer = Layer(4)
    chosen = torch.randint(layer.appearance.tokens, (rows, TOKENS), generator=torch.Generator().manual_seed(0))
    told = torch.full((rows, TOKENS, layer.appearance.tokens), -200.0).scatter(2, chosen[..., None], 0.0)
    asking = Asking(ALL, layer.hidden, guide=told)
    value = layer.appearance.v[0][:, chosen.expand(ROWS, -1)].transpose(0, 1)
    how = open_gate(top_k=top_k)
    for form in (how, Infusion(-2.0, 1e9, top_k=top_k, form="joint")):
        seen = attention(layer.q, layer.k, layer.v, asking, layer.appearance, form)
        torch.testing.assert_close(seen, value, rtol=1e-3, atol=1e-3)
    assert take(layer.q, asking, layer.appearance, how).guide.shape[0] == rows


def test_rivals_close_the_gate():
    layer = Layer(5)
    own = layer.appearance
    beaten = Appearance(own.k, own.v, own.feature, None, layer.appearance.feature)
    asking = Asking(ALL, layer.hidden)
    assert torch.equal(attention(layer.q, layer.k, layer.v, asking, beaten, open_gate()), layer.base)
    nothing = Appearance(own.k, own.v, own.feature, None, torch.zeros_like(own.feature[:, :, :2]))
    share = take(layer.q, asking, nothing, open_gate())
    assert torch.equal(share.amount > 0, share.matched.similarity > 0)
