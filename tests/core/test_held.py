"""A match that serves many layers and steps, and tokens of the picture that do not ask for one."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from seal_ext.core import infusion
from seal_ext.core.guide import Guide, Known
from seal_ext.core.held import ALIKE, Found, HeldMatch
from seal_ext.core.infusion import Asking, Infusion, attention, attention_after, take
from seal_ext.core.matching import Appearance, Match, hidden_feature
from seal_ext.core.places import Places
from tests.test_memory import body

ROWS, HEADS, TOKENS, DIM, THEIRS = 2, 2, 36, 4, 9
OPEN = torch.tensor([7, 8, 9, 13, 14, 15, 20, 30])
HERE = Places.of(torch.zeros(TOKENS, dtype=torch.bool).index_fill(0, OPEN, True))


def layer(seed, **more):
    """q, k, v and hidden states of the picture, and what was seen of a reference."""
    draw = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, ROWS, HEADS, TOKENS, DIM, generator=draw)
    hidden = torch.randn(ROWS, TOKENS, HEADS * DIM, generator=draw)
    theirs = torch.randn(2, 1, HEADS, THEIRS, DIM, generator=draw)
    feature = F.normalize(torch.randn(1, 1, THEIRS, HEADS * DIM, generator=draw), dim=-1)
    return q, k, v, hidden, Appearance(*theirs, feature, **more)


def features(seed, share=0.0):
    """Some, a share of the way to others."""
    one, other = (torch.randn(2, 1, 50, 16, generator=torch.Generator().manual_seed(s)) for s in (seed, seed + 1))
    return F.normalize((1 - share) * one + share * other, dim=-1)


def test_layers_of_a_grid_share_the_match_of_the_first():
    held, how = HeldMatch(), Infusion(-1.0, 1.0, top_k=3, form="joint")
    found = []
    for name, seed in (("first", 0), ("second", 1), ("third", 2)):
        q, *_, hidden, seen = layer(seed)
        found.append(take(q, Asking((1.0,) * ROWS, hidden, find=lambda *how, name=name: held.find(name, *how)), seen, how))
    assert held.made == 1 and held.leader == "first"
    assert torch.equal(found[0].matched.index, found[1].matched.index) and torch.equal(found[0].matched.index, found[2].matched.index)
    q, *_, hidden, seen = layer(1)
    assert not torch.equal(take(q, Asking((1.0,) * ROWS, hidden), seen, how).matched.index, found[1].matched.index)


def test_a_match_serves_until_the_picture_has_changed():
    held, seen = HeldMatch(), []

    def look(query):
        seen.append(query)
        return Found(Match(query[..., 0], query[..., :1]))

    first = held.find("a", lambda: features(0), look)
    little, much = features(0, 0.1), features(0, 0.6)
    assert (features(0) * little).sum(-1).mean() > ALIKE > (features(0) * much).sum(-1).mean()
    assert held.find("a", lambda: little, look) is first and len(seen) == 1
    assert held.find("b", lambda: much, look) is first  # only the layer that leads tells how far the picture has come
    later = held.find("a", lambda: much, look)
    assert later is not first and held.find("b", lambda: little, look) is later and held.made == 2
    assert held.find("a", lambda: much[:1], look) is not later  # other rows


@pytest.mark.parametrize("form", ["joint", "output", "kv"])
@pytest.mark.parametrize("how", [{"top_k": 0}, {"top_k": 1}, {"top_k": 3}, {"top_k": 3, "feature": "qk_per_head"}])
@pytest.mark.parametrize("guided", [False, True])
def test_tokens_that_may_take_nothing_need_not_ask(form, how, guided):
    q, k, v, hidden, seen = layer(3, weight=torch.linspace(0.2, 1, THEIRS)[None])
    if "feature" in how:
        seen = replace(seen, feature=F.normalize(seen.k, dim=-1))
    told = torch.randn(1, TOKENS, THEIRS, generator=torch.Generator().manual_seed(9)) if guided else None
    yields = torch.rand(ROWS, TOKENS, generator=torch.Generator().manual_seed(5)) * torch.zeros(TOKENS).index_fill(0, OPEN, 1.0)
    how = Infusion(-1.0, 1.0, form=form, **how)
    whole = attention(q, k, v, Asking((1.0, 0.5), hidden, yields, guide=told), seen, how)
    asked = Asking((1.0, 0.5), hidden, yields[:, OPEN], guide=None if told is None else told[:, OPEN], places=HERE)
    torch.testing.assert_close(attention(q, k, v, asked, seen, how), whole, rtol=1e-4, atol=1e-5)
    if form == "output" and how.feature == "hidden":
        out = torch.randn(ROWS, TOKENS, HEADS * DIM, generator=torch.Generator().manual_seed(6))
        project = torch.nn.Linear(HEADS * DIM, HEADS * DIM)
        every = Asking((1.0, 0.5), hidden, yields, guide=told)
        one, other = (attention_after(out, project, q, asking, seen, how) for asking in (every, asked))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert torch.equal(other[:, HERE.others], out[:, HERE.others])


def test_where_nearly_all_may_take_all_ask():
    assert Places.of(torch.ones(100, dtype=torch.bool)) is None
    few = Places.of(torch.arange(100) < 30)
    assert few.asking.tolist() == list(range(30)) and few.others.tolist() == list(range(30, 100))


def test_layers_alike_settle_once_in_a_call(monkeypatch):
    settled, held, how = {}, HeldMatch(), Infusion(-1.0, 1.0, top_k=3, form="joint")
    counted, own = [], infusion.amount
    monkeypatch.setattr(infusion, "amount", lambda *args: counted.append(args) or own(*args))
    for name, seed, block in (("a", 0, 1.0), ("b", 1, 1.0), ("c", 2, 0.5)):
        q, k, v, hidden, seen = layer(seed)
        here = replace(how, block=block)
        more = {"find": lambda *how, name=name: held.find(name, *how), "settled": settled}
        together = attention(q, k, v, Asking((1.0, 1.0), hidden, **more), seen, here)
        by_itself = len(counted)
        alone = attention(q, k, v, Asking((1.0, 1.0), hidden, find=lambda *how: held._found), seen, here)
        del counted[by_itself:]
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert len(counted) == 2  # the layer of another weight settles for itself


def test_a_guide_for_some_tokens_is_that_part_of_the_guide():
    kept, some = torch.arange(0, 256, 3), torch.arange(40, 200, 7)
    pairs = [(Known(body()), kept), (Known(), torch.arange(7))]
    whole, part = (Guide(Known(body({4: (0.2, 0.2)})), pairs, (16, 16), 0.5, asking=asking) for asking in (None, some))
    assert part.shape == (len(some), whole.shape[1])
    assert torch.equal(part[:], whole[:][some]) and torch.equal(part[3:6], whole[:][some[3:6]])


def test_features_of_a_step_later_are_still_alike():
    """The bound is of a mean cosine of centred features: noise of a third of their size keeps it."""
    hidden = torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(0))
    later = hidden + 0.3 * torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(1))
    assert (hidden_feature(hidden) * hidden_feature(later)).sum(-1).mean() > ALIKE
