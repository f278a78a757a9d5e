"""From where words see a character to all that belongs to it."""

import pytest
import torch

from seal_ext.core import grouping
from seal_ext.core.grouping import Groups, _edges, looks

SIDE = 16
THING = torch.zeros(SIDE, SIDE, dtype=torch.bool)
THING[4:12, 6:10] = True


def of_two_things(side=SIDE):
    """q and k (rows, heads, tokens, dim) of a layer whose places look at what is the same thing as they are."""
    thing = torch.nn.functional.interpolate(THING[None, None].float(), size=(side, side))[0, 0].flatten() > 0
    own = torch.stack([thing, ~thing], 1).float()[None, None].repeat(1, 2, 1, 1) * 6
    return own, own.clone()


def test_a_whole_thing_is_found_from_one_place_of_it():
    groups, seen, inside = Groups((SIDE, SIDE)), torch.zeros(SIDE, SIDE), torch.ones(SIDE, SIDE, dtype=torch.bool)
    seen[5, 7], seen[0, 0] = 1.0, 0.2  # mostly there, and a little beside it
    groups.add(*of_two_things())
    found = groups.apart(seen, inside)
    assert found[THING].min() > 0.9 and found[~THING].max() < 0.2
    assert torch.equal(Groups((SIDE, SIDE)).apart(seen, inside), seen)
    assert torch.equal(groups.apart(torch.ones(SIDE, SIDE), inside), torch.ones(SIDE, SIDE))


def test_what_looks_like_the_edges_is_behind_even_where_words_see_something():
    groups, inside = Groups((SIDE, SIDE)), torch.ones(SIDE, SIDE, dtype=torch.bool)
    groups.add(*of_two_things())
    seen = 0.8 * torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    seen[5:8, 7:9] = 1.0
    found = groups.apart(seen, inside)
    assert found[THING].min() > found[~THING].max()


def test_bars_beside_a_picture_are_not_its_edges():
    inside = torch.zeros(6, 8, dtype=torch.bool)
    inside[:, 2:6] = True
    edges = _edges(inside) > 0
    assert not edges[:, :2].any() and not edges[:, 6:].any() and not edges[1:, 3:5].any()
    assert edges[0, 2:6].all() and edges[:, 2].all() and edges[:, 5].all()


def test_coarse_layers_and_merged_tokens_say_nothing():
    groups = Groups((SIDE, SIDE))
    groups.add(*of_two_things(8))
    groups.add(*(x[:, :, :200] for x in of_two_things()))
    assert not groups.grids


def test_layers_of_several_grids_are_heard_alike():
    groups, seen = Groups((2 * SIDE, 2 * SIDE)), torch.rand(2 * SIDE, 2 * SIDE)
    for side in (SIDE, 2 * SIDE, 2 * SIDE):
        groups.add(*of_two_things(side))
    assert {grid: count for grid, (_, count) in groups.grids.items()} == {(SIDE, SIDE): 1, (2 * SIDE, 2 * SIDE): 2}
    found = groups.spread(seen)
    assert found.shape == seen.shape and found.std() < seen.std()


def test_what_places_look_at_sums_to_one_and_stays_within_memory(monkeypatch):
    q, k = torch.randn(3, 4, 30, 8), torch.randn(3, 4, 30, 8)
    seen = looks(q, k)
    expected = (q[0] @ k[0].transpose(-1, -2) * 8**-0.5).softmax(-1).mean(0)
    assert torch.allclose(seen, expected, atol=1e-6) and seen.sum(1).numpy() == pytest.approx(1)
    monkeypatch.setattr(grouping, "BUDGET", 30 * 30 * 4 - 1)
    assert looks(q, k) is None
