"""The limb guide: a place finds the same place of the same limb, however the limb is turned, sized or mirrored."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_ext.core.infusion import Asking, Infusion, attention, take
from seal_ext.core.limbs import Body, Guide, Known
from seal_ext.core.matching import Appearance, match
from seal_ext.core.skeleton import Skeleton
from tests.core.test_infusion import ALL, ROWS, TOKENS, Layer, open_gate
from tests.skeletons import STANDING

FEW = settings(max_examples=25, deadline=None)
GRID = (16, 16)
EVERY = torch.arange(256)


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


@pytest.mark.parametrize("top_k", [0, 1, 3])
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
