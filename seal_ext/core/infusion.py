"""Reference-guided Appearance Infusion: A = (1 − δM)·A_base + δM·A_app, in the layers and rows that ask for it.

`attention` is a layer's self-attention with the reference in it; `amount` is δM with every factor it has. Three forms of the blend:

  output  the paper's formula on the attention's results
  kv      the project page's drawing: K_blend and V_blend, then one attention over them
  joint   one softmax over the picture's tokens and the reference's, whose weights are multiplied by δM. It is the paper's formula with a
          share that attention itself settles, A = (1 − a)·A_base + a·A_app with a = δM·Z_app / (Z_base + δM·Z_app), Z being the softmaxes'
          sums: a place takes little where it has better neighbours of its own, and never goes beyond the reference. A sum grows with the
          number of its tokens, so the reference's counts as if its subject always filled the same share of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from . import places as tokens
from .held import Found, Look, Query
from .matching import (
    BUDGET,
    FEATURES,
    FLOAT,
    THRESHOLDS,
    Appearance,
    Guides,
    Match,
    best,
    best_of_each,
    feature_of,
    gate,
    guided,
    joined,
    match,
    pieces,
    weight_at,
)
from .places import Places

FORMS = ("output", "kv", "joint")
SAID = 64 * 2**20  # bytes of what is said to logits that a call keeps for layers alike
PER_NAT = 0.1  # how much cosine one unit of the guide's logarithm is worth in a match
FILLS = 0.37  # of the picture: in one softmax each reference counts as much as a subject of this size, whatever its own
LOUDEST = 3.0  # guidance may bring the reference this many times over before pictures break
COMMON = 7.0  # the guidance of most pictures

Watch = Callable[[Match, Tensor], None]
Rows = slice | list[int]


@dataclass(frozen=True)
class Infusion:
    """How one attention layer is infused at one step. `top_k`: how many of every hundred tokens of the reference a place attends to; 1 is
    the best match alone, 0 all of them."""

    tau: float  # τ(γ)
    delta: float  # δ(γ)
    strength: float = 1.0  # of the infusion as a whole
    block: float = 1.0  # of this layer
    clamp: bool = True  # keeps δM within what the reference holds
    form: str = "output"
    threshold: str = "cosine"
    softness: float = 0.0
    top_k: int = 0
    feature: str = "hidden"
    budget: int = BUDGET

    def __post_init__(self) -> None:
        if self.threshold not in THRESHOLDS or self.feature not in FEATURES or self.form not in FORMS:
            raise ValueError(f"unknown threshold {self.threshold!r}, feature {self.feature!r} or form {self.form!r}")
        if min(self.delta, self.strength, self.block, self.softness, self.top_k) < 0 or self.budget < 1:
            raise ValueError("δ, strength, block, softness and top-k are not negative, and the budget is a number of bytes")
        if self.threshold == "quantile" and not 0 <= self.tau <= 1:
            raise ValueError("τ as a quantile lies between 0 and 1")

    @property
    def idle(self) -> bool:
        """Whether the outcome is plain attention: δ = 0, or τ = 1, which no cosine and no quantile exceeds."""
        return self.delta * self.strength * self.block == 0 or self.tau >= 1

    @property
    def ceiling(self) -> float:
        """How large δM may become: 1, or the strength if that is larger. The joint form needs no limit: one softmax never overshoots."""
        return max(self.strength, 1.0) if self.clamp and self.form != "joint" else math.inf


@dataclass(frozen=True)
class Asking:
    """What the picture's side of a layer has beside q, k and v: what looks for a match, and how much each row and token may take."""

    rows: Sequence[float]  # a weight for every row, 0 leaves it alone; the host knows which row is which
    hidden: Tensor | None = None  # the layer's input (rows, tokens, channels), when the match is on hidden states
    yields: Tensor | None = None  # (rows, tokens that ask) in 0 … 1: what the figure and the Δ-gate (1 − map) leave of the infusion
    watch: Watch | None = None  # is shown the match and the amounts
    guide: Guides | None = None  # of each row or one for all (tokens that ask, the reference's): logarithms, what else makes a pair likely
    places: Places | None = None  # the tokens that ask, if not all do
    find: Callable[[Query, Look], Found] | None = None  # knows a match of this grid already, or looks for one
    settled: dict[Infusion, Taking] | None = None  # by layers of this grid before this one, in the same call


@dataclass(frozen=True)
class Taking:
    """The rows that take part, what they found in the reference, and how much of it each token takes."""

    rows: Rows
    appearance: Appearance  # as those rows see it
    matched: Match
    amount: Tensor  # δM: (rows that take part, groups, tokens that ask)
    guide: Guides | None = None
    places: Places | None = None
    said: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict)  # what `_said` said, of layers alike


@torch.no_grad()
def attention(q: Tensor, k: Tensor, v: Tensor, asking: Asking, appearance: Appearance, how: Infusion) -> Tensor:
    """A layer's attention (rows, heads, tokens, dim) with the reference infused."""
    taking = take(q, asking, appearance, how)
    if taking is None:
        return plain(q, k, v, how.budget)
    if how.form == "output":
        base, here = plain(q, k, v, how.budget), taking.places
        seen = attend(tokens.asking(q[taking.rows], here), taking.appearance.v, taking, how)
        return _put(base, taking.rows, _blended(base[taking.rows], seen, taking.amount[..., None], here))
    rows = taking.rows
    seen = (_joint if how.form == "joint" else _kv)(q[rows], k[rows], v[rows], taking, how)
    return seen if len(seen) == len(q) else _put(plain(q, k, v, how.budget), rows, seen)


@torch.no_grad()
def change(q: Tensor, k: Tensor, v: Tensor, asking: Asking, appearance: Appearance, how: Infusion) -> Tensor:
    """What the reference changes of a layer's attention, for layers whose attention somebody else computes, in whatever way."""
    return attention(q, k, v, asking, appearance, how) - plain(q, k, v, how.budget)


def plain(q: Tensor, k: Tensor, v: Tensor, budget: int = BUDGET, beside: Callable[[slice], Tensor | None] = lambda some: None) -> Tensor:
    """Attention (rows, heads, tokens, dim) of as many tokens at a time as the budget allows; `beside`: what is added to their logits.

    The fused kernels never hold the whole matrix, but the plain one does, for every head, and which one runs is torch's choice.
    """
    rows, heads = q.shape[:2]
    size = pieces(budget, rows * heads * k.shape[2] * q.element_size())
    parts = []
    for start, part in zip(range(0, q.shape[2], size), q.split(size, 2), strict=True):
        parts.append(F.scaled_dot_product_attention(part, k, v, attn_mask=beside(slice(start, start + size))))
    return joined(parts, 2)


@torch.no_grad()
def attention_after(
    out: Tensor, project: Callable[[Tensor], Tensor], q: Tensor, asking: Asking, appearance: Appearance, how: Infusion
) -> Tensor:
    """The form `output` upon a layer's finished result (rows, tokens, channels), whoever computed it.

    The projection is affine and the weights of a blend sum to 1, so blending its results is projecting the blend; but heads are mixed by
    then, and must share one gate.
    """
    if how.feature == "qk_per_head" or how.form != "output":
        raise ValueError("a gate per head, and the other forms, need the heads apart: use attention()")
    taking = take(q, asking, appearance, how)
    if taking is None:
        return out
    seen = attend(tokens.asking(q[taking.rows], taking.places), taking.appearance.v, taking, how)
    seen = project(rearrange(seen, "r h n d -> r n (h d)"))
    return _put(out, taking.rows, _blended(out[taking.rows], seen, taking.amount[:, 0, :, None], taking.places, 1))


def take(q: Tensor, asking: Asking, appearance: Appearance, how: Infusion) -> Taking | None:
    """Match the rows that take part and settle how much each token takes; None when that is nothing for sure."""
    if len(asking.rows) != q.shape[0]:
        raise ValueError(f"{q.shape[0]} rows came, and weights for {len(asking.rows)}")
    rows = active(asking.rows)
    if how.idle or rows is None or appearance.tokens == 0:
        return None
    appearance = appearance.of(rows).to(q)
    if asking.settled is not None and how in asking.settled:
        taking = replace(asking.settled[how], appearance=appearance)
    else:
        taking = _taking(q, rows, asking, appearance, how)
    if asking.settled is not None:
        asking.settled[how] = taking
    if asking.watch is not None:
        asking.watch(taking.matched, taking.amount)
    return taking


def _taking(q: Tensor, rows: Rows, asking: Asking, appearance: Appearance, how: Infusion) -> Taking:
    guide = asking.guide
    if guide is not None and len(guide) > 1:
        guide = guide[rows] if isinstance(rows, slice) else [guide[row] for row in rows]

    def query() -> Tensor:
        feature = feature_of(how.feature, q[rows], None if asking.hidden is None else asking.hidden[rows])
        return tokens.asking(feature, asking.places)

    def look(query: Tensor) -> Found:
        most = best(how.top_k, appearance.tokens)
        most = most if most < appearance.tokens else 1  # all of them need no order
        matched = match(query, appearance.feature, most, appearance.weight, how.budget, guide, PER_NAT)
        return Found(matched, None if appearance.rivals is None else match(query, appearance.rivals, budget=how.budget))

    found = look(query()) if asking.find is None else asking.find(query, look)
    return Taking(rows, appearance, found.matched, amount(found, asking, appearance, how), guide, asking.places)


def amount(found: Found, asking: Asking, appearance: Appearance, how: Infusion) -> Tensor:
    """δM of every row that takes part, (rows, groups, tokens): all that makes a place take more or less of the reference is here."""
    matched, rival = found.matched, found.rival
    opened = gate(matched.similarity, how.tau, how.threshold, how.softness)  # the paper's M = [sim > τ]
    taken = how.delta * how.strength * how.block * opened  # its δ(γ); ours: the user's strength, the layer's weight
    taken = taken.clamp_(max=how.ceiling)
    if appearance.weight is not None:  # ours: a reference of weight ½ gives half
        taken = taken * weight_at(appearance.weight, matched.index[..., :1])[..., 0]
    if rival is not None:  # ours: a place that is more like the reference's background takes nothing of its subject
        taken = taken * (matched.similarity > rival.similarity)
    if how.form == "joint":  # ours: a sum over few tokens counts as much as one over many, whatever the picture's size and the mask's
        own = taken.shape[-1] if asking.places is None else asking.places.tokens
        taken = taken * (FILLS * own / appearance.counted)[:, None, None]
    for row, weight in enumerate(weight for weight in asking.rows if weight):  # ours: the negative prompt's rows take a share
        if weight != 1:
            taken[row] *= weight
    if asking.yields is not None:  # ours: only on the figure, and not where prompt and reference prompt disagree
        rows = active(asking.rows)
        taken = taken * asking.yields[rows if rows is not None else slice(0, 0)][:, None]
    return taken


def negative_share(share: float, form: str, guidance: float) -> float:
    """What the negative prompt's rows take of the reference, for a share that was asked for.

    Guidance brings δM of the prompt's rows less that of the negative ones w times over: w·δM − (w − 1)·share·δM. Their share rises with
    guidance, so that it brings the reference no more times over than in most pictures; and in the forms that put it wholly in
    the picture's place, no more than a few times, or the picture would break.
    """
    loudest, unmoved = (COMMON - (COMMON - 1) * share, COMMON) if form == "joint" else (LOUDEST, LOUDEST)
    return share if guidance <= unmoved else max(share, (guidance - loudest) / (guidance - 1))


def blend(base: Tensor, seen: Tensor, share: Tensor) -> Tensor:
    """(1 − a)·base + a·seen in base's dtype, and exactly base where a = 0."""
    return (seen.to(base.dtype) - base).mul_(share.to(base.dtype)).add_(base)


def _blended(base: Tensor, seen: Tensor, share: Tensor, places: Places | None, dim: int = 2) -> Tensor:
    """`blend` where tokens ask; the others stay as they are."""
    if places is None:
        return blend(base, seen, share)
    return base.index_copy(dim, places.asking, blend(tokens.asking(base, places, dim), seen, share))


def active(rows: Sequence[float]) -> Rows | None:
    """The rows whose weight is not 0: a slice, which copies nothing, wherever they lie side by side."""
    found = [row for row, weight in enumerate(rows) if weight]
    if not found:
        return None
    return slice(found[0], found[-1] + 1) if found[-1] - found[0] + 1 == len(found) else found


def _put(base: Tensor, rows: Rows, infused: Tensor) -> Tensor:
    if infused.shape[0] == base.shape[0]:
        return infused
    out = base.clone()
    out[rows] = infused
    return out


# ---- the forms


def _joint(q: Tensor, k: Tensor, v: Tensor, taking: Taking, how: Infusion) -> Tensor:
    """One softmax over the picture's own tokens and the reference's."""
    rows, appearance = q.shape[0], taking.appearance
    keys, values = (torch.cat([own, theirs.expand(rows, -1, -1, -1)], 2) for own, theirs in ((k, appearance.k), (v, appearance.v)))
    here = taking.places
    seen = plain(tokens.asking(q, here), keys, values, how.budget, lambda some: _known(taking, some, how, q.dtype, k.shape[2]))
    return seen if here is None else tokens.beside(seen, plain(q.index_select(2, here.others), k, v, how.budget), here)


def _kv(q: Tensor, k: Tensor, v: Tensor, taking: Taking, how: Infusion) -> Tensor:
    """K_blend and V_blend from the tokens matched, for the layer's own attention."""
    share = taking.amount[..., None]
    pairs = ((k, taking.appearance.k), (v, taking.appearance.v))
    asked = tokens.asking(q, taking.places)
    keys, values = (_blended(own, attend(asked, theirs, taking, how), share, taking.places) for own, theirs in pairs)
    return plain(q, keys, values, how.budget)


def _known(taking: Taking, some: slice, how: Infusion, dtype: torch.dtype, own: int) -> Tensor:
    """What is added to the logits of a picture's own tokens, nothing, and to the reference's; kept for layers alike where it is small."""
    if taking.amount.numel() * (own + taking.appearance.tokens) * FLOAT > SAID:
        return F.pad(_said(taking, some, how, dtype), (own, 0))
    if (some.start, dtype) not in taking.said:
        taking.said[some.start, dtype] = F.pad(_said(taking, some, how, dtype), (own, 0))
    return taking.said[some.start, dtype]


def _said(taking: Taking, some: slice, how: Infusion, dtype: torch.dtype) -> Tensor:
    """What is added to the logits of the reference's tokens, for some tokens of the picture: log δM and what speaks for each pair."""
    said, pairs = _log(taking.amount[:, :, some], dtype)[..., None], _pairs(taking, some, how, dtype)
    return said.expand(-1, -1, -1, taking.appearance.tokens) if pairs is None else said + pairs


def _pairs(taking: Taking, some: slice, how: Infusion, dtype: torch.dtype) -> Tensor | None:
    """What speaks for each pair of some tokens of the picture and the reference's: log weights, the guide, and of most that they are not
    among the best matches. None where that is nothing."""
    appearance, matched = taking.appearance, taking.matched
    if best(how.top_k, appearance.tokens) < appearance.tokens:
        index = matched.index[:, :, some]
        said = torch.zeros_like(index, dtype=dtype) if matched.told is None else matched.told[:, :, some].to(dtype)
        if appearance.weight is not None:
            said = said + _log(weight_at(appearance.weight, index), dtype)
            most = best_of_each(how.top_k, appearance.counted)[:, None, None, None]  # a row with a shorter list has fewer best ones
            said = said.masked_fill(torch.arange(index.shape[-1], device=index.device) >= most, _NOTHING)
        return said.new_full((*index.shape[:-1], appearance.tokens), _NOTHING).scatter_(-1, index, said)
    weight = None if appearance.weight is None else _log(appearance.weight, dtype)[:, None, None]
    guide = None if taking.guide is None else guided(taking.guide, some, appearance.tokens)[:, None].to(dtype)
    return guide if weight is None else weight if guide is None else weight + guide


# ---- A_app


def attend(q: Tensor, values: Tensor, taking: Taking, how: Infusion) -> Tensor:
    """A_app: attention of q (rows, heads, tokens, dim) to the reference's matched tokens, or to all of them."""
    if how.top_k == 1:  # the paper's k: the softmax of one number is 1, and A_app the matched value itself
        return _taken(values, taking.matched.index, q.shape[1])[..., 0, :]
    keys, values = (x.expand(q.shape[0], -1, -1, -1) for x in (taking.appearance.k, values))
    return plain(q, keys, values, how.budget, lambda some: _pairs(taking, some, how, q.dtype))


def _taken(x: Tensor, index: Tensor, heads: int) -> Tensor:
    """The matched tokens of x (references, heads, tokens, dim): (rows, heads, tokens, k, dim)."""
    rows, _, tokens, k = index.shape
    x = x.expand(rows, -1, -1, -1)
    places = index.expand(-1, heads, -1, -1).reshape(rows, heads, tokens * k, 1).expand(-1, -1, -1, x.shape[-1])
    return x.gather(2, places).reshape(rows, heads, tokens, k, x.shape[-1])


_NOTHING = -3e4  # finite instead of −∞: a row whose tokens are all forbidden gives numbers, not NaN, and its gate is closed


def _log(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.float().log().clamp(min=_NOTHING).to(dtype)
