"""Reference-guided Appearance Infusion: A = (1 − δM)·A_base + δM·A_app, in the layers and rows that ask for it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .matching import BUDGET, FEATURES, THRESHOLDS, Appearance, Match, feature_of, gate, guide_at, joined, match, pieces, weight_at

PER_NAT = 0.1  # of cosine: how much a guide's logarithm says when places are matched

Watch = Callable[[Match, Tensor], None]


@dataclass(frozen=True)
class Blocks:
    """Which self-attention layers are infused and how strongly: layer `index` of a part, counted as the U-Net runs them."""

    terms: tuple[tuple[str, float, float, float], ...]  # part, first, last, weight; a later term has the last word

    @classmethod
    def parse(cls, text: str) -> Blocks:
        """From `mid up`, `up:0.8` or `mid up.0-3:0.5 up.4-`: part, layers, weight; what is not named is left alone."""
        terms = []
        for word in re.split(r"[\s,]+", text.strip().lower()):
            read = re.fullmatch(r"(down|mid|up)(?:\.(\d{1,3})(?:(-)(\d{1,3})?)?)?(?::(\d+(?:\.\d*)?|\.\d+))?", word)
            if read is None:
                raise ValueError(f"{word!r} is not a block: write `mid`, `up`, `up.3`, `up.0-3:0.5` or `up.4-`")
            part, first, dash, last, weight = read.groups()
            bounds = (0.0, math.inf) if first is None else (int(first), int(last) if last else math.inf if dash else int(first))
            if bounds[0] > bounds[1] or float(weight or 1) > 2:
                raise ValueError(f"{word!r}: layers run upwards, and a weight is at most 2")
            terms.append((part, *bounds, float(weight or 1)))
        return cls(tuple(terms))

    def weight(self, part: str, index: int) -> float:
        """How strongly this layer is infused, 0 when it is left alone."""
        return next((w for name, first, last, w in reversed(self.terms) if name == part and first <= index <= last), 0.0)


@dataclass(frozen=True)
class Infusion:
    """What one attention layer does at one step. `top_k` 0 attends to all of the reference's tokens."""

    tau: float
    delta: float
    threshold: str = "cosine"
    softness: float = 0.0
    ceiling: float = 1.0  # of δM; math.inf lifts the clamp
    top_k: int = 0
    feature: str = "hidden"
    budget: int = BUDGET

    def __post_init__(self):
        if self.threshold not in THRESHOLDS or self.feature not in FEATURES:
            raise ValueError(f"unknown threshold {self.threshold!r} or feature {self.feature!r}")
        if self.delta < 0 or self.softness < 0 or self.top_k < 0 or self.budget < 1:
            raise ValueError("δ, softness and top-k are not negative, and the budget is a number of bytes")
        if self.threshold == "quantile" and not 0 <= self.tau <= 1:
            raise ValueError("τ as a quantile lies between 0 and 1")

    @property
    def idle(self) -> bool:
        """Whether the outcome is plain attention: δ = 0, or τ = 1, which no cosine and no quantile exceeds."""
        return self.delta == 0 or self.tau >= 1

    def scaled(self, weight: float) -> Infusion:
        """The same for a layer whose block has this weight."""
        return self if weight == 1 else replace(self, delta=self.delta * weight)


@dataclass(frozen=True)
class Queries:
    """The picture's side of a layer: what looks for a match, and how much of it each row and token may take."""

    q: Tensor  # (rows, heads, tokens, dim)
    rows: Sequence[float]  # a weight for every row, 0 leaves it alone; who is who the host knows
    hidden: Tensor | None = None  # the layer's input (rows, tokens, channels), when the match is on hidden states
    yields: Tensor | None = None  # (rows, tokens) in 0 … 1: what the Δ-gate (1 − map) and a mask of the picture leave of the infusion
    watch: Watch | None = None  # is shown the match and the amounts
    guide: Tensor | None = None  # (rows or 1, tokens, tokens of the reference): logarithms, what else makes a pair likely

    def __post_init__(self):
        if len(self.rows) != self.q.shape[0]:
            raise ValueError(f"{self.q.shape[0]} rows came, and weights for {len(self.rows)}")


@dataclass(frozen=True)
class Share:
    """How much of the reference each token of the infused rows takes."""

    part: slice | list[int]  # the infused rows
    appearance: Appearance  # as those rows see it
    matched: Match
    amount: Tensor  # (rows of the part, groups, tokens): δM, clamped, times the row's weight and what the token yields
    guide: Tensor | None = None


@torch.no_grad()
def infuse(base: Tensor, queries: Queries, appearance: Appearance, how: Infusion) -> Tensor:
    """Infuse the reference into an attention's output (rows, heads, tokens, dim). With nothing to infuse, `base` itself comes back."""
    share = shared_out(queries, appearance, how)
    if share is None:
        return base
    seen = attend(queries.q[share.part], share.appearance.v, share, how)
    return _put(base, share.part, blend(base[share.part], seen, share.amount[..., None]))


@torch.no_grad()
def infuse_projected(out: Tensor, project: Callable[[Tensor], Tensor], queries: Queries, appearance: Appearance, how: Infusion) -> Tensor:
    """The same after the output projection, for hosts that only have the whole layer's result (rows, tokens, channels).

    The projection is affine and the weights of a blend sum to 1, so blending its results is projecting the blend; but heads
    are mixed by then, and must share one gate.
    """
    if how.feature == "qk_per_head":
        raise ValueError("a gate per head needs the heads apart: use infuse() before the output projection")
    share = shared_out(queries, appearance, how)
    if share is None:
        return out
    seen = project(rearrange(attend(queries.q[share.part], share.appearance.v, share, how), "r h n d -> r n (h d)"))
    return _put(out, share.part, blend(out[share.part], seen, share.amount[:, 0, :, None]))


@torch.no_grad()
def infuse_kv(k: Tensor, v: Tensor, queries: Queries, appearance: Appearance, how: Infusion) -> tuple[Tensor, Tensor]:
    """The project page's other form: K_blend and V_blend for the layer's own attention, from the tokens matched."""
    share = shared_out(queries, appearance, how)
    if share is None:
        return k, v
    blended = []
    for own, theirs in ((k, share.appearance.k), (v, share.appearance.v)):
        seen = attend(queries.q[share.part], theirs, share, how)
        blended.append(_put(own, share.part, blend(own[share.part], seen, share.amount[..., None])))
    return blended[0], blended[1]


@torch.no_grad()
def infuse_joint(k: Tensor, v: Tensor, queries: Queries, appearance: Appearance, how: Infusion) -> Tensor | None:
    """One softmax over the picture's own tokens and the reference's, whose weights are multiplied by δM; None: nothing to infuse.

    It is the same blend with a share that attention itself settles, A = (1 − a)·A_base + a·A_app, a = δM·Z_app / (Z_base + δM·Z_app),
    Z being the sums of the softmaxes: a place takes little where it has better neighbours of its own, and never overshoots.
    """
    share = shared_out(queries, appearance, how)
    if share is None:
        return None
    q, own_k, own_v = (x[share.part] for x in (queries.q, k, v))
    rows = q.shape[0]
    keys, values = (torch.cat([own, theirs.expand(rows, -1, -1, -1)], 2)
                    for own, theirs in ((own_k, share.appearance.k), (own_v, share.appearance.v)))  # fmt: skip
    size = pieces(how.budget, rows * share.amount.shape[1] * keys.shape[2] * q.element_size())
    seen = []
    for start, part in zip(range(0, q.shape[2], size), q.split(size, 2), strict=True):
        beside = F.pad(_given(share, slice(start, start + size), how), (own_k.shape[2], 0))
        seen.append(F.scaled_dot_product_attention(part, keys, values, attn_mask=beside))
    seen = joined(seen, 2)
    if rows == queries.q.shape[0]:
        return seen
    return _put(F.scaled_dot_product_attention(queries.q, k, v), share.part, seen)


def _given(share: Share, some: slice, how: Infusion) -> Tensor:
    """What is added to the logits of the reference's tokens, for some tokens of the picture; its own stay as they are."""
    appearance, dtype = share.appearance, share.appearance.k.dtype
    given = _bias(share.amount[:, :, some], dtype)[..., None].expand(-1, -1, -1, appearance.tokens)
    if 0 < how.top_k < appearance.tokens:
        index = share.matched.index[:, :, some]
        given = torch.full_like(given, _NOTHING).scatter(-1, index, given[..., :1].expand_as(index))
    if appearance.weight is not None:
        given = given + _bias(appearance.weight, dtype)[:, None, None]
    return given if share.guide is None else given + share.guide[:, None, some].to(dtype)


def shared_out(queries: Queries, appearance: Appearance, how: Infusion) -> Share | None:
    """Match the rows that take part and settle how much each token takes; None when that is nothing for sure."""
    q, hidden = queries.q, queries.hidden
    part = active(queries.rows)
    if how.idle or part is None or appearance.tokens == 0:
        return None
    appearance = appearance.of(part).to(q)
    query = feature_of(how.feature, q[part], None if hidden is None else hidden[part])
    guide = queries.guide if queries.guide is None or len(queries.guide) == 1 else queries.guide[part]
    told = None if guide is None else guide * PER_NAT
    matched = match(query, appearance.feature, max(how.top_k, 1), appearance.weight, how.budget, told)
    amount = infused_amount(matched, how, appearance.weight)
    if appearance.rivals is not None:
        amount *= matched.similarity > match(query, appearance.rivals, budget=how.budget).similarity
    for row, weight in enumerate(weight for weight in queries.rows if weight):
        if weight != 1:
            amount[row] *= weight
    if queries.yields is not None:
        amount *= queries.yields[part][:, None]
    if queries.watch is not None:
        queries.watch(matched, amount)
    return Share(part, appearance, matched, amount, guide)


def infused_amount(matched: Match, how: Infusion, weight: Tensor | None = None) -> Tensor:
    """δM: (rows, groups, tokens), at most the ceiling, times the weight of the reference that won the match."""
    amount = (how.delta * gate(matched.similarity, how.tau, how.threshold, how.softness)).clamp_(max=how.ceiling)
    return amount if weight is None else amount * weight_at(weight, matched.index[..., :1])[..., 0]


def attend(q: Tensor, values: Tensor, share: Share, how: Infusion) -> Tensor:
    """A_app: attention of q (rows, heads, tokens, dim) to the reference's matched tokens, or to all of them."""
    if how.top_k == 0 or how.top_k >= share.appearance.tokens:
        return _attend_all(q, values, share, how.budget)
    if how.top_k == 1:  # the softmax of one number is 1: A_app is the matched value itself
        return _taken(values, share.matched.index, q.shape[1])[..., 0, :]
    return _attend_matched(q, values, share, how.budget)


def blend(base: Tensor, seen: Tensor, amount: Tensor) -> Tensor:
    """(1 − a)·base + a·seen in base's dtype, and exactly base where a = 0."""
    return (seen.to(base.dtype) - base).mul_(amount.to(base.dtype)).add_(base)


def active(rows: Sequence[float]) -> slice | list[int] | None:
    """The rows whose weight is not 0: a slice, which copies nothing, wherever they lie side by side."""
    found = [row for row, weight in enumerate(rows) if weight]
    if not found:
        return None
    return slice(found[0], found[-1] + 1) if found[-1] - found[0] + 1 == len(found) else found


def _put(base: Tensor, part: slice | list[int], infused: Tensor) -> Tensor:
    if infused.shape[0] == base.shape[0]:
        return infused
    out = base.clone()
    out[part] = infused
    return out


def _attend_all(q: Tensor, values: Tensor, share: Share, budget: int) -> Tensor:
    (rows, heads), appearance = q.shape[:2], share.appearance
    keys, values = appearance.k.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)
    bias = None if appearance.weight is None else _bias(appearance.weight, q.dtype)[:, None, None]
    # The fused kernels never hold the whole matrix, but the plain one does, and which one runs is torch's choice.
    size = pieces(budget, rows * heads * appearance.tokens * q.element_size())
    parts = []
    for start, part in zip(range(0, q.shape[2], size), q.split(size, dim=2), strict=True):
        told = None if share.guide is None else share.guide[:, None, start : start + size].to(q.dtype)
        mask = told if bias is None else bias if told is None else bias + told
        parts.append(F.scaled_dot_product_attention(part, keys, values, attn_mask=mask))
    return joined(parts, 2)


def _attend_matched(q: Tensor, values: Tensor, share: Share, budget: int) -> Tensor:
    heads, dim, index = q.shape[1], q.shape[3], share.matched.index
    size = pieces(budget, q.shape[0] * heads * index.shape[-1] * dim * q.element_size())
    parts = []
    starts = range(0, q.shape[2], size)
    for start, some, chosen in zip(starts, q.split(size, dim=2), index.split(size, dim=2), strict=True):
        keys = _taken(share.appearance.k, chosen, heads)  # (rows, heads, some tokens, k, dim)
        logits = (some[..., None, :] @ keys.transpose(-1, -2))[..., 0, :] * dim**-0.5
        if share.appearance.weight is not None:
            logits = logits + _bias(weight_at(share.appearance.weight, chosen), logits.dtype)
        if share.guide is not None:
            logits = logits + guide_at(share.guide[:, start : start + size], chosen).to(logits.dtype)
        attention = logits.float().softmax(-1).to(q.dtype)
        parts.append((attention[..., None, :] @ _taken(values, chosen, heads))[..., 0, :])
    return joined(parts, 2)


def _taken(x: Tensor, index: Tensor, heads: int) -> Tensor:
    """The matched tokens of x (references, heads, tokens, dim): (rows, heads, tokens, k, dim)."""
    rows, _, tokens, k = index.shape
    x = x.expand(rows, -1, -1, -1)
    places = index.expand(-1, heads, -1, -1).reshape(rows, heads, tokens * k, 1).expand(-1, -1, -1, x.shape[-1])
    return x.gather(2, places).reshape(rows, heads, tokens, k, x.shape[-1])


_NOTHING = -3e4  # a finite floor instead of −∞: a row whose tokens are all forbidden then yields numbers, which its closed gate ignores


def _bias(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.float().log().clamp(min=_NOTHING).to(dtype)
