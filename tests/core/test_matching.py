"""Matching: the right token is found, masks and weights are obeyed, and neither memory nor order changes the outcome."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_ext.core import matching
from seal_ext.core.matching import (
    Appearance,
    feature_of,
    gate,
    head_feature,
    hidden_feature,
    match,
    row_by_row,
    some_of,
    statistics,
    subject_tokens,
    to_tokens,
    together,
    token_grid,
)

FEW = settings(max_examples=25, deadline=None)
SEED = st.integers(0, 2**31)


def tensors(seed, *shapes, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw).to(dtype) for shape in shapes]


def features(seed, rows=2, groups=1, tokens=9, keys=7, width=6):
    return [head_feature(x, per_head=True) for x in tensors(seed, (rows, groups, tokens, width), (1, groups, keys, width))]


@FEW
@given(SEED, st.integers(1, 3), st.integers(1, 3), st.integers(1, 12), st.integers(1, 12))
def test_the_best_match_is_the_largest_cosine(seed, rows, groups, tokens, keys):
    query, key = features(seed, rows, groups, tokens, keys)
    found = match(query, key, top_k=3)
    cosine = torch.einsum("rgnw,gmw->rgnm", query, key[0])
    best = cosine.topk(min(3, keys), dim=-1)
    torch.testing.assert_close(found.similarity, best.values[..., 0].clamp(max=1))
    assert torch.equal(found.index, best.indices)


@FEW
@given(SEED, st.integers(1, 4000), st.sampled_from([1, 3]))
def test_chunks_change_nothing(seed, budget, k):
    query, key = features(seed, rows=3, groups=2, tokens=40, keys=30)
    whole, chunked = match(query, key, k), match(query, key, k, budget=budget)
    assert torch.equal(whole.index, chunked.index)
    torch.testing.assert_close(whole.similarity, chunked.similarity, rtol=0, atol=1e-6)


def test_no_matrix_exceeds_the_budget(monkeypatch):
    sizes, ranked = [], matching._ranked

    def watched(query, key, handicap, k):
        sizes.append(query.shape[2] * key.shape[-1] * 4)
        return ranked(query, key, handicap, k)

    monkeypatch.setattr(matching, "_ranked", watched)
    query, key = features(1, rows=4, tokens=100, keys=50)
    match(query, key, budget=5000)
    assert max(sizes) <= 5000 and sum(sizes) == 4 * 100 * 50 * 4


@FEW
@given(SEED)
def test_the_order_of_reference_tokens_is_irrelevant(seed):
    query, key = features(seed)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    straight, shuffled = match(query, key), match(query, key[:, :, order])
    assert torch.equal(straight.index[..., 0], order[shuffled.index[..., 0]])


@FEW
@given(SEED, st.sampled_from([1, 2]))
def test_the_order_of_the_batch_is_irrelevant(seed, groups):
    query, key = features(seed, rows=4, groups=groups)
    order = [2, 0, 3, 1]
    assert torch.equal(match(query, key).index[order], match(query[order], key).index)
    torch.testing.assert_close(match(query, key).similarity[1:2], match(query[1:2], key).similarity)


@FEW
@given(SEED, st.lists(st.booleans(), min_size=7, max_size=7))
def test_keys_of_weight_zero_never_compete(seed, allowed):
    query, key = features(seed)
    found = match(query, key, weight=torch.tensor([allowed], dtype=torch.float32))
    if any(allowed):
        assert all(allowed[j] for j in found.index.flatten().tolist())
        only = match(query, key[:, :, torch.tensor(allowed)])
        torch.testing.assert_close(found.similarity, only.similarity)
    else:
        assert not gate(found.similarity, -1.0).any() and not gate(found.similarity, 0.3, "quantile").any()


def test_a_weak_reference_wins_only_where_it_fits_much_better():
    key = torch.eye(2)[None, None]
    query = torch.tensor([[0.6, 0.8], [0.1, 0.99]])[None, None]
    found = match(query, key, weight=torch.tensor([[1.0, 0.5]]))
    assert found.index.flatten().tolist() == [0, 1]
    torch.testing.assert_close(found.similarity.flatten(), torch.tensor([0.6, 0.99]))


def test_tau_1_closes_the_gate_even_for_the_same_picture():
    (x,) = tensors(3, (2, 2, 50, 33))
    feature = head_feature(x[:1])
    found = match(feature, feature)
    assert found.similarity.max() > 0.999
    assert not gate(found.similarity, 1.0).any() and not gate(found.similarity, 1.0, "quantile").any()
    assert not gate(found.similarity, 1.0, softness=0.2).any()


@FEW
@given(SEED, st.floats(0, 1))
def test_a_quantile_leaves_out_its_share_of_every_picture(seed, tau):
    (similarity,) = (x.tanh() for x in tensors(seed, (3, 1, 40)))
    open_share = gate(similarity, tau, "quantile").mean(-1)
    assert ((open_share - (1 - tau)).abs() <= 1 / 40 + 1e-6).all()


@FEW
@given(SEED, st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 0.5))
def test_a_higher_tau_never_opens_more(seed, a, b, softness):
    (similarity,) = tensors(seed, (2, 1, 30))
    low, high = sorted((a, b))
    opened, closed = gate(similarity, low, softness=softness), gate(similarity, high, softness=softness)
    assert (opened >= closed).all() and opened.min() >= 0 and opened.max() <= 1


def test_hidden_features_ignore_the_light_and_contrast_of_a_picture():
    (hidden,) = tensors(5, (1, 30, 8))
    torch.testing.assert_close(hidden_feature(hidden * 3 + 7), hidden_feature(hidden), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind,groups,width", [("hidden", 1, 12), ("qk", 1, 12), ("qk_per_head", 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_features_have_unit_length_and_in_the_live_dtype_the_values_of_single_precision(kind, groups, width, dtype):
    heads, hidden = tensors(2, (2, 3, 10, 4), (2, 10, 12), dtype=dtype)
    feature = feature_of(kind, heads, hidden)
    assert feature.shape == (2, groups, 10, width) and feature.dtype == dtype
    torch.testing.assert_close(feature.float().norm(dim=-1), torch.ones(2, groups, 10), rtol=0, atol=1e-2)
    torch.testing.assert_close(feature.float(), feature_of(kind, heads.float(), hidden.float()), rtol=0, atol=torch.finfo(dtype).eps)
    found, single = match(feature, feature[:1]), match(feature.float(), feature[:1].float())
    assert found.similarity.dtype == torch.float32
    torch.testing.assert_close(found.similarity, single.similarity, rtol=0, atol=2 * torch.finfo(dtype).eps)


def test_hidden_states_are_asked_for():
    with pytest.raises(ValueError, match="hidden"):
        feature_of("hidden", torch.zeros(1, 1, 1, 1))


def test_no_gradients_are_kept():
    query, key = features(1)
    assert not match(query.requires_grad_(), key).similarity.requires_grad


@pytest.mark.parametrize("size,tokens,grid", [((64, 64), 4096, (64, 64)), ((64, 64), 256, (16, 16)), ((60, 45), 30 * 23, (30, 23)),
                                              ((60, 45), 15 * 12, (15, 12)), ((64, 64), 3000, None), ((1, 1), 1, (1, 1))])  # fmt: skip
def test_a_layers_grid_follows_from_the_number_of_its_tokens(size, tokens, grid):
    assert token_grid(tokens, *size) == grid


def test_masks_reach_every_grid_and_the_smallest_subject_survives():
    mask = torch.zeros(2, 64, 64)
    mask[0, 16:48, 16:48], mask[1, 5, 5] = 1, 1
    assert to_tokens(mask, (16, 16)).shape == (2, 256)
    tokens = subject_tokens(mask, (8, 8))
    assert tokens[0].sum() == 16 and tokens[1].sum() == 1
    assert not subject_tokens(torch.zeros(1, 64, 64), (8, 8)).any()
    assert subject_tokens(mask, (128, 128))[0].float().mean() == pytest.approx(0.25, abs=0.02)


def appearance(seed, keys=6, references=1):
    return Appearance(*tensors(seed, (references, 2, keys, 4), (references, 2, keys, 4), (references, 1, keys, 8)))


def test_references_side_by_side_keep_their_weights():
    both = together([appearance(1), appearance(2, keys=3).weighted(0.5)])
    assert both.tokens == 9 and both.weight.tolist() == [[1.0] * 6 + [0.5] * 3]
    assert together([appearance(1), appearance(2)]).weight is None


def test_each_row_sees_its_own_reference_and_no_filling():
    short, long = appearance(1, keys=3), appearance(2, keys=6)
    both = row_by_row([short, long])
    assert both.k.shape == (2, 2, 6, 4) and both.weight.tolist() == [[1] * 3 + [0] * 3, [1] * 6]
    assert torch.equal(both.of(slice(1, 2)).k, long.k)


def test_of_a_mask_a_quarter_is_taken_and_never_nothing():
    tokens = torch.ones(6, 8) > 0
    tokens[:2] = False
    some = some_of(tokens.flatten(), (6, 8)).unflatten(0, (6, 8))
    assert some.sum() == tokens.sum() / 4 and (some & tokens).sum() == some.sum() and some[2, 0] and some[4, 6]
    tokens[:] = False
    tokens[1, 1] = True
    assert torch.equal(some_of(tokens.flatten(), (6, 8)), tokens.flatten())
    assert not some_of(torch.zeros(48) > 0, (6, 8)).any()


def test_some_tokens_of_a_picture_keep_the_features_that_they_have_in_it():
    hidden, some = torch.randn(1, 20, 6), torch.arange(20) % 3 == 0
    assert torch.equal(hidden_feature(hidden[:, some], statistics(hidden)), hidden_feature(hidden)[:, :, some])
