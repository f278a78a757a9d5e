"""Infusion: plain attention wherever nothing is asked for, and the paper's formula wherever something is."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_ext.core.blocks import Blocks
from seal_ext.core.infusion import FORMS, Asking, Infusion, active, attention, attention_after, change, negative_share
from seal_ext.core.matching import FEATURES, Appearance, feature_of, match, row_by_row, together
from seal_ext.layers import Site

FEW = settings(max_examples=25, deadline=None)
SEED = st.integers(0, 2**31)
ROWS, HEADS, TOKENS, DIM, KEYS = 4, 2, 12, 4, 9
ALL = (1.0,) * ROWS
KIND = st.sampled_from(FEATURES)
TOP_K = st.sampled_from([0, 1, 30, 90])  # of every hundred; of nine keys all, the best, three and eight


class Layer:
    """One attention layer's inputs and plain result, and what it saw of a reference."""

    def __init__(self, seed, kind="hidden", dtype=torch.float32, keys=KEYS):
        draw = torch.Generator().manual_seed(seed)
        shape = (ROWS, HEADS, TOKENS, DIM)
        self.q, self.k, self.v = (torch.randn(shape, generator=draw).to(dtype) for _ in range(3))
        self.hidden = torch.randn(ROWS, TOKENS, HEADS * DIM, generator=draw).to(dtype)
        k, v = (torch.randn(1, HEADS, keys, DIM, generator=draw).to(dtype) for _ in range(2))
        feature = feature_of(kind, k, torch.randn(1, keys, HEADS * DIM, generator=draw).to(dtype))
        self.appearance = Appearance(k, v, feature)
        self.base = F.scaled_dot_product_attention(self.q, self.k, self.v)

    def infused(self, how, rows=ALL, appearance=None, **more):
        return attention(self.q, self.k, self.v, Asking(rows, self.hidden, **more), appearance or self.appearance, how)

    def to(self, dtype):
        """The same layer in another precision; its plain result is computed anew."""
        other = object.__new__(Layer)
        other.q, other.k, other.v, other.hidden = (x.to(dtype) for x in (self.q, self.k, self.v, self.hidden))
        other.appearance = Appearance(*(x.to(dtype) for x in (self.appearance.k, self.appearance.v, self.appearance.feature)))
        other.base = F.scaled_dot_product_attention(other.q, other.k, other.v)
        return other

    def rows(self, order):
        other = object.__new__(Layer)
        other.__dict__ = {name: x[order] if isinstance(x, torch.Tensor) else x for name, x in self.__dict__.items()}
        return other


def only(seen, tokens):
    return Appearance(seen.k[:, :, tokens], seen.v[:, :, tokens], seen.feature[:, :, tokens])


def open_gate(**more):
    return Infusion(**{"tau": -1.0, "delta": 1.0, **more})


@FEW
@given(SEED, KIND, TOP_K, st.floats(0, 4))
def test_nothing_to_infuse_is_plain_attention_to_the_bit(seed, kind, k, delta):
    layer = Layer(seed, kind)
    for how in (Infusion(0.2, 0.0, feature=kind, top_k=k), Infusion(1.0, delta, feature=kind, top_k=k)):
        assert torch.equal(layer.infused(how), layer.base)
    assert torch.equal(layer.infused(open_gate(feature=kind, top_k=k), rows=(0.0,) * ROWS), layer.base)
    assert torch.equal(
        layer.infused(open_gate(feature=kind, top_k=k), appearance=only(layer.appearance, torch.zeros(KEYS) > 0)), layer.base
    )


@FEW
@given(SEED, KIND, TOP_K, st.floats(-0.9, 0.9), st.floats(0.1, 3))
def test_tokens_whose_gate_is_closed_and_rows_of_weight_zero_keep_their_bits(seed, kind, k, tau, delta):
    layer = Layer(seed, kind)
    how = Infusion(tau, delta, feature=kind, top_k=k, clamp=False)
    shown = []
    out = layer.infused(how, rows=(1.0, 0.0, 0.5, 0.0), watch=lambda matched, amount: shown.append(amount))
    assert torch.equal(out[[1, 3]], layer.base[[1, 3]])
    closed = (shown[0] == 0).expand(-1, HEADS, -1)
    assert torch.equal(out[[0, 2]][closed], layer.base[[0, 2]][closed])
    assert not (out[[0, 2]][~closed] == layer.base[[0, 2]][~closed]).all() or closed.all()


@FEW
@given(SEED, KIND, st.floats(0, 3))
def test_all_of_the_reference_is_softmax_attention_blended_by_delta(seed, kind, delta):
    layer = Layer(seed, kind)
    seen = F.scaled_dot_product_attention(layer.q, layer.appearance.k.expand(ROWS, -1, -1, -1), layer.appearance.v.expand(ROWS, -1, -1, -1))
    out = layer.infused(open_gate(delta=delta, feature=kind, clamp=False))
    torch.testing.assert_close(out, (1 - delta) * layer.base + delta * seen, rtol=1e-4, atol=1e-4)
    clamped = layer.infused(open_gate(delta=delta, feature=kind))
    torch.testing.assert_close(clamped, (1 - min(delta, 1)) * layer.base + min(delta, 1) * seen, rtol=1e-4, atol=1e-4)


@FEW
@given(SEED, KIND)
def test_k_1_is_the_matched_value(seed, kind):
    layer = Layer(seed, kind)
    index = match(feature_of(kind, layer.q, layer.hidden), layer.appearance.feature).index[..., 0]
    values = torch.stack([layer.appearance.v[0, h][index[:, h % index.shape[1]]] for h in range(HEADS)], 1)
    torch.testing.assert_close(layer.infused(open_gate(top_k=1, feature=kind)), values)


@FEW
@given(SEED, KIND)
def test_every_key_by_top_k_is_attention_to_all(seed, kind):
    layer = Layer(seed, kind)
    # One key that never competes makes nine of ten take the way of the chosen keys.
    extra = together([layer.appearance, replace(Layer(seed + 1, kind, keys=1).appearance, weight=torch.zeros(1, 1))])
    torch.testing.assert_close(
        layer.infused(open_gate(top_k=99, feature=kind), appearance=extra), layer.infused(open_gate(feature=kind)), rtol=1e-4, atol=1e-5
    )


@FEW
@given(SEED, KIND, TOP_K)
def test_the_order_of_reference_tokens_changes_nothing(seed, kind, k):
    layer = Layer(seed, kind)
    order = torch.randperm(KEYS, generator=torch.Generator().manual_seed(seed))
    a = layer.appearance
    shuffled = Appearance(a.k[:, :, order], a.v[:, :, order], a.feature[:, :, order])
    how = Infusion(0.3, 0.8, top_k=k, feature=kind)
    straight, other = layer.infused(how), layer.infused(how, appearance=shuffled)
    torch.testing.assert_close(straight, other, rtol=1e-4, atol=1e-5)
    if k == 1:
        assert torch.equal(straight, other)


@FEW
@given(SEED, KIND, TOP_K)
def test_the_order_and_size_of_the_batch_are_irrelevant(seed, kind, k):
    layer, order, rows = Layer(seed, kind), [2, 0, 3, 1], (1.0, 0.4, 0.0, 1.0)
    how = Infusion(0.1, 0.9, top_k=k, feature=kind)
    out = layer.infused(how, rows)
    torch.testing.assert_close(out[order], layer.rows(order).infused(how, [rows[i] for i in order]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out[1:2], layer.rows([1]).infused(how, rows[1:2]), rtol=1e-4, atol=1e-5)


@FEW
@given(SEED, KIND, TOP_K, st.integers(1, 3000))
def test_chunks_change_nothing(seed, kind, k, budget):
    layer = Layer(seed, kind)
    how = Infusion(0.2, 0.9, top_k=k, feature=kind)
    torch.testing.assert_close(layer.infused(replace(how, budget=budget)), layer.infused(how), rtol=1e-4, atol=1e-5)


@FEW
@given(SEED, KIND, TOP_K, st.lists(st.booleans(), min_size=KEYS, max_size=KEYS))
def test_forbidden_reference_tokens_leave_no_trace(seed, kind, k, allowed):
    layer, kept = Layer(seed, kind), torch.tensor(allowed)
    how = Infusion(-1.0, 1.0, top_k=k, feature=kind)
    chosen = layer.infused(how, appearance=only(layer.appearance, kept))
    # The same by weights, with poison in what is forbidden.
    poison = torch.where(kept[:, None], layer.appearance.v, 1e4)
    weighed = layer.infused(how, appearance=replace(layer.appearance, v=poison, weight=kept.float()[None]))
    torch.testing.assert_close(weighed, chosen, rtol=1e-4, atol=1e-4)


@FEW
@given(SEED, KIND, TOP_K)
def test_what_a_token_yields_is_not_infused(seed, kind, k):
    layer = Layer(seed, kind)
    yields = torch.rand(ROWS, TOKENS, generator=torch.Generator().manual_seed(seed))
    yields[:, ::3] = 0
    how = open_gate(top_k=k, feature=kind)
    out, full = layer.infused(how, yields=yields), layer.infused(how)
    assert torch.equal(out[:, :, ::3], layer.base[:, :, ::3])
    torch.testing.assert_close(out, layer.base + yields[:, None, :, None] * (full - layer.base), rtol=1e-4, atol=1e-5)


# Values are of the size of 1: so much may rounding in attention and in the blend add up to.
ROUNDING = {torch.float16: 5e-3, torch.bfloat16: 4e-2, torch.float32: 1e-5, torch.float64: 1e-5}


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("k", [0, 1, 30])
@pytest.mark.parametrize("form", FORMS)
def test_every_precision_infuses_what_single_precision_infuses(dtype, k, form):
    layer, how, more = Layer(1, dtype=dtype), open_gate(top_k=k, delta=0.7, form=form), dict(rows=(1.0, 0.5, 0.0, 1.0))
    single, more["yields"] = layer.to(torch.float32), torch.ones(ROWS, TOKENS)
    out = layer.infused(how, **more)
    assert out.dtype == dtype and out.device == layer.q.device
    torch.testing.assert_close(out.float(), single.infused(how, **more), rtol=0, atol=ROUNDING[dtype])
    # The cache may hold the reference in half precision, whatever the model runs in.
    stored, coarse = layer.to(torch.float16).appearance, max(ROUNDING[dtype], ROUNDING[torch.float16])
    out = layer.infused(how, appearance=stored)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), single.infused(how), rtol=0, atol=coarse)


@FEW
@given(SEED, st.sampled_from(["hidden", "qk"]), TOP_K)
def test_after_the_projection_it_is_the_same(seed, kind, k):
    layer, project = Layer(seed, kind), torch.nn.Linear(HEADS * DIM, 5)
    how, rows = Infusion(0.1, 1.7, top_k=k, feature=kind, clamp=False), (0.0, 1.0, 1.0, 0.3)

    def merged(x):
        return project(x.transpose(1, 2).flatten(2))

    with torch.no_grad():
        asking = Asking(rows, layer.hidden)
        out = attention_after(merged(layer.base), project, layer.q, asking, layer.appearance, how)
        torch.testing.assert_close(out, merged(layer.infused(how, rows)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", [open_gate(feature="qk_per_head"), open_gate(form="joint"), open_gate(form="kv")])
def test_after_the_projection_heads_cannot_be_told_apart(how):
    layer = Layer(1, how.feature)
    with pytest.raises(ValueError, match="heads apart"):
        attention_after(layer.hidden, torch.nn.Identity(), layer.q, Asking(ALL, layer.hidden), layer.appearance, how)


@FEW
@given(SEED, KIND)
def test_keys_and_values_take_the_matched_ones(seed, kind):
    layer = Layer(seed, kind)
    out = layer.infused(open_gate(top_k=1, feature=kind, form="kv"), (1.0, 0.0, 1.0, 1.0))
    torch.testing.assert_close(out[1], layer.base[1])
    index = match(feature_of(kind, layer.q, layer.hidden), layer.appearance.feature).index[..., 0]
    for row in (0, 2, 3):
        k, v = (torch.stack([x[0, h][index[row, h % index.shape[1]]] for h in range(HEADS)]) for x in
                (layer.appearance.k, layer.appearance.v))  # fmt: skip
        torch.testing.assert_close(out[row], F.scaled_dot_product_attention(layer.q[row], k, v), rtol=1e-4, atol=1e-5)


@FEW
@given(SEED, KIND, TOP_K, st.floats(0.05, 4), st.integers(300, 4000))
def test_one_softmax_is_the_blend_whose_share_attention_settles(seed, kind, k, delta, budget):
    layer, shown = Layer(seed, kind), []
    how = Infusion(0.1, delta, form="joint", feature=kind, top_k=k, budget=budget)
    rows, watch = (1.0, 0.0, 0.5, 1.0), lambda matched, amount: shown.append((matched.index, amount))
    out = layer.infused(how, rows, watch=watch)
    torch.testing.assert_close(out[1], layer.base[1])
    index, amount = shown[0]
    for part, row in enumerate((0, 2, 3)):
        own = (layer.q[row] @ layer.k[row].transpose(-1, -2) / DIM**0.5).exp()  # (heads, tokens, tokens)
        theirs = (layer.q[row] @ layer.appearance.k[0].transpose(-1, -2) / DIM**0.5).exp()
        if k:
            allowed = torch.zeros(index.shape[1], TOKENS, KEYS).scatter(-1, index[part], 1.0)
            theirs = theirs * allowed
        theirs = theirs * amount[part][..., None]
        both = own.sum(-1) + theirs.sum(-1)
        wanted = (own @ layer.v[row] + theirs @ layer.appearance.v[0]) / both[..., None]
        torch.testing.assert_close(out[row], wanted, rtol=1e-4, atol=1e-4)


# ---- the reference's share is the settings', not its tokens'


JOINT = Infusion(-1.0, 1.0, form="joint", top_k=32)


def share(reference, how=JOINT, fine=1, rows=1):
    """How much of a layer's attention goes to references (keys, features): the reference's values are 1, the picture's 0."""
    draw = torch.Generator().manual_seed(0)
    q, k, hidden = (torch.randn(rows, HEADS, 256, 8, generator=draw) for _ in range(3))
    q, k, hidden = (x.repeat_interleave(fine, 2) for x in (q, k, hidden))
    if not isinstance(reference, Appearance):
        reference = together([Appearance(key, torch.ones_like(key), feature) for key, feature in reference])
    asking = Asking((1.0,) * rows, hidden.transpose(1, 2).flatten(2))
    return attention(q, k, torch.zeros_like(k), asking, reference, how).mean((1, 2, 3))


def drawn(tokens, seed=1, fine=1):
    """Keys and features of a reference whose tokens are `fine` times as many, and alike in as many."""
    draw = torch.Generator().manual_seed(seed)
    key, hidden = torch.randn(1, HEADS, tokens, 8, generator=draw), torch.randn(1, tokens, HEADS * 8, generator=draw)
    return key.repeat_interleave(fine, 2), feature_of("hidden", key, hidden).repeat_interleave(fine, 2)


@pytest.mark.parametrize("top_k", [0, 10, 32, 100])
def test_the_share_of_a_reference_is_that_of_its_copies_and_of_any_resolution_and_mask(top_k):
    how = Infusion(-1.0, 1.0, form="joint", top_k=top_k)
    usual = share([drawn(100)], how)
    for copies in (2, 4):
        torch.testing.assert_close(share([drawn(100)] * copies, how), usual, rtol=1e-4, atol=0)
    for fine in (2, 4, 16):
        torch.testing.assert_close(share([drawn(100, fine=fine)], how, fine), usual, rtol=0.02, atol=0)
    for area in (0.1, 0.2, 0.4, 0.6):  # of a picture of 1,024 tokens, whose subject is all alike
        torch.testing.assert_close(share([drawn(round(area * 1024))], how, 4), usual, rtol=0.05, atol=0)


@pytest.mark.parametrize("form", ["output", "kv"])
def test_where_values_are_blended_copies_and_resolution_change_nothing(form):
    how = Infusion(0.3, 0.7, form=form, top_k=32)
    usual = share([drawn(100)], how)
    torch.testing.assert_close(share([drawn(100)] * 2, how), usual, rtol=1e-4, atol=0)
    torch.testing.assert_close(share([drawn(100, fine=4)], how, 4), usual, rtol=0.02, atol=0)


def test_each_row_counts_the_tokens_of_its_own_references():
    few, many = ([drawn(tokens, fine=fine)] for tokens, fine in ((40, 1), (40, 4)))
    each = [Appearance(key, torch.ones_like(key), feature) for ((key, feature),) in (few, many)]
    torch.testing.assert_close(share(row_by_row(each), rows=2), share(row_by_row(each[::-1]), rows=2), rtol=0.02, atol=0)


def test_a_weak_reference_beside_a_strong_one_makes_the_strong_one_no_weaker():
    key, feature = drawn(100)
    one = Appearance(key, torch.ones_like(key), feature)
    nearly = together([one, replace(one, v=torch.zeros_like(key)).weighted(0.01)])
    torch.testing.assert_close(share(nearly), share(one), rtol=0.02, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_what_changes_is_told_apart(form):
    """Upon somebody else's attention that is the host's own, it makes the same picture; rows that take no part do not change at all."""
    layer, how, rows = Layer(1), open_gate(form=form, delta=0.7), (1.0, 0.0, 0.5, 1.0)
    changed = change(layer.q, layer.k, layer.v, Asking(rows, layer.hidden), layer.appearance, how)
    torch.testing.assert_close(layer.base + changed, layer.infused(how, rows), rtol=1e-5, atol=1e-6)
    assert not changed[1].any() and changed[0].any()


@pytest.mark.parametrize("form", FORMS)
def test_nothing_to_infuse_is_the_layers_own_attention(form):
    layer = Layer(1)
    assert torch.equal(layer.infused(open_gate(delta=0.0, form=form)), layer.base)
    assert torch.equal(layer.infused(open_gate(form=form), (0.0,) * ROWS), layer.base)


@pytest.mark.parametrize("guidance", [1.0, 1.5, 3.0, 4.0, 7.0, 12.0, 30.0])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_guidance_brings_the_reference_a_few_times_over_at_most(guidance, share):
    for form, unmoved, loudest in (("output", 3, 3), ("kv", 3, 3), ("joint", 7, 7 - 6 * share)):
        taken = negative_share(share, form, guidance)
        assert share <= taken <= 1
        assert taken == share if guidance <= unmoved else guidance - (guidance - 1) * taken <= loudest + 1e-9


@FEW
@given(SEED, TOP_K)
def test_rows_with_references_of_their_own_see_only_those(seed, k):
    layer = Layer(seed)
    own = [Layer(seed + i + 1, keys=KEYS - i).appearance for i in range(ROWS)]
    how = open_gate(top_k=min(k, 5), delta=0.6)
    out = layer.infused(how, rows=(1.0, 0.0, 1.0, 1.0), appearance=row_by_row(own))
    for row in (0, 2, 3):
        alone = layer.rows([row]).infused(how, (1.0,), appearance=own[row])
        torch.testing.assert_close(out[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_a_references_weight_is_its_share_of_the_infusion():
    layer = Layer(3)
    full = layer.infused(open_gate()) - layer.base
    half = layer.infused(open_gate(), appearance=layer.appearance.weighted(0.5)) - layer.base
    torch.testing.assert_close(half, full / 2, rtol=1e-4, atol=1e-5)
    none = together([layer.appearance, Layer(4).appearance.weighted(0.0)])
    torch.testing.assert_close(layer.infused(open_gate(), appearance=none) - layer.base, full, rtol=1e-4, atol=1e-5)


def test_no_gradients_are_kept():
    layer = Layer(1)
    layer.q.requires_grad_()
    layer.base.requires_grad_()
    for k in (0, 1, 30):
        assert not layer.infused(open_gate(top_k=k, delta=0.5)).requires_grad


def test_the_inputs_stay_as_they_are():
    layer = Layer(1)
    before = [x.clone() for x in (layer.base, layer.q, layer.hidden, layer.appearance.k, layer.appearance.v)]
    layer.infused(open_gate(delta=0.5), rows=(0.0, 0.5, 1.0, 0.0), yields=torch.full((ROWS, TOKENS), 0.5))
    assert all(map(torch.equal, before, (layer.base, layer.q, layer.hidden, layer.appearance.k, layer.appearance.v)))


def test_as_many_weights_as_rows():
    with pytest.raises(ValueError, match="4 rows"):
        Layer(1).infused(open_gate(), rows=(1.0,))


def test_rows_side_by_side_are_a_slice():
    assert active((0, 1, 1, 0)) == slice(1, 3) and active((1, 0, 1)) == [0, 2] and active((0, 0)) is None


@pytest.mark.parametrize("text,part,index,weight", [("mid up", "up", 7, 1), ("mid up", "down", 0, 0), ("up:0.5 up.3:1", "up", 3, 1),
                                                    ("up:0.5 up.3:1", "up", 2, 0.5), ("up.4-", "up", 3, 0), ("up.4-", "up", 30, 1),
                                                    ("up.0-3:.25, mid", "up", 3, 0.25), ("up up.2:0", "up", 2, 0),
                                                    ("up@1/4", "up", 2, 1), ("up@1/2 up@1/1", "up", 2, 0), ("mid@1/4", "up", 2, 0),
                                                    ("up:.5 UP@1/4:.75", "up", 2, 0.75), ("up@1/4 up.2:0", "up", 2, 0)])  # fmt: skip
def test_blocks_read_as_they_are_written(text, part, index, weight):
    assert Blocks.parse(text).weight(Site("", part, index, grid=4)) == weight


@pytest.mark.parametrize("text", ["", "upp", "up.3-1", "up:3", "up:nan", "up.-1", "mid up out", "up.1-2-3", "up@1/3", "up@2", "up@1/2.3"])
def test_a_block_that_does_not_read_says_so(text):
    with pytest.raises(ValueError):
        Blocks.parse(text)


@pytest.mark.parametrize("wrong", [dict(delta=-1.0), dict(threshold="maybe"), dict(feature="vibes"), dict(top_k=-1), dict(softness=-0.1)])
def test_an_impossible_infusion_is_refused(wrong):
    with pytest.raises(ValueError):
        open_gate(**wrong)
