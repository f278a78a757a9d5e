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

from .matching import BUDGET, FEATURES, THRESHOLDS, Appearance, Match, feature_of, gate, joined, match, pieces, weight_at

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
class Share:
    """How much of the reference each token of the infused rows takes."""

    part: slice | list[int]  # the infused rows
    appearance: Appearance  # as those rows see it
    matched: Match
    amount: Tensor  # (rows of the part, groups, tokens): δM, clamped, times the row's weight and what the token yields


@torch.no_grad()
def infuse(
    base: Tensor,
    q: Tensor,
    appearance: Appearance,
    how: Infusion,
    rows: Sequence[float],
    hidden: Tensor | None = None,
    yields: Tensor | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Infuse the reference into an attention's output. With nothing to infuse, `base` itself comes back.

    base, q: (rows, heads, tokens, dim). rows: a weight for every row, 0 leaves it alone; who is who the host knows.
    hidden: the layer's input (rows, tokens, channels), when the match is on hidden states. yields: (rows, tokens) in 0 … 1, what
    the Δ-gate (1 − map) and a mask of the picture leave of the infusion. watch: is shown the match and the amounts.
    """
    share = shared_out(q, appearance, how, rows, hidden, yields, watch)
    if share is None:
        return base
    seen = attend(q[share.part], share.appearance.v, share, how)
    return _put(base, share.part, blend(base[share.part], seen, share.amount[..., None]))


@torch.no_grad()
def infuse_projected(
    out: Tensor,
    project: Callable[[Tensor], Tensor],
    q: Tensor,
    appearance: Appearance,
    how: Infusion,
    rows: Sequence[float],
    hidden: Tensor | None = None,
    yields: Tensor | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """The same after the output projection, for hosts that only have the whole layer's result (rows, tokens, channels).

    The projection is affine and the weights of a blend sum to 1, so blending its results is projecting the blend; but heads
    are mixed by then, and must share one gate.
    """
    if how.feature == "qk_per_head":
        raise ValueError("a gate per head needs the heads apart: use infuse() before the output projection")
    share = shared_out(q, appearance, how, rows, hidden, yields, watch)
    if share is None:
        return out
    seen = project(rearrange(attend(q[share.part], share.appearance.v, share, how), "r h n d -> r n (h d)"))
    return _put(out, share.part, blend(out[share.part], seen, share.amount[:, 0, :, None]))


@torch.no_grad()
def infuse_kv(
    k: Tensor,
    v: Tensor,
    q: Tensor,
    appearance: Appearance,
    how: Infusion,
    rows: Sequence[float],
    hidden: Tensor | None = None,
    yields: Tensor | None = None,
    watch: Watch | None = None,
) -> tuple[Tensor, Tensor]:
    """The project page's other form: K_blend and V_blend for the layer's own attention, from the tokens matched."""
    share = shared_out(q, appearance, how, rows, hidden, yields, watch)
    if share is None:
        return k, v
    blended = []
    for own, theirs in ((k, share.appearance.k), (v, share.appearance.v)):
        seen = attend(q[share.part], theirs, share, how)
        blended.append(_put(own, share.part, blend(own[share.part], seen, share.amount[..., None])))
    return blended[0], blended[1]


def shared_out(
    q: Tensor,
    appearance: Appearance,
    how: Infusion,
    rows: Sequence[float],
    hidden: Tensor | None = None,
    yields: Tensor | None = None,
    watch: Watch | None = None,
) -> Share | None:
    """Match the rows that take part and settle how much each token takes; None when that is nothing for sure."""
    if len(rows) != q.shape[0]:
        raise ValueError(f"{q.shape[0]} rows came, and weights for {len(rows)}")
    part = active(rows)
    if how.idle or part is None or appearance.tokens == 0:
        return None
    appearance = appearance.of(part).to(q)
    query = feature_of(how.feature, q[part], None if hidden is None else hidden[part])
    matched = match(query, appearance.feature, max(how.top_k, 1), appearance.weight, how.budget)
    amount = infused_amount(matched, how, appearance.weight)
    for row, weight in enumerate(weight for weight in rows if weight):
        if weight != 1:
            amount[row] *= weight
    if yields is not None:
        amount *= yields[part][:, None]
    if watch is not None:
        watch(matched, amount)
    return Share(part, appearance, matched, amount)


def infused_amount(matched: Match, how: Infusion, weight: Tensor | None = None) -> Tensor:
    """δM: (rows, groups, tokens), at most the ceiling, times the weight of the reference that won the match."""
    amount = (how.delta * gate(matched.similarity, how.tau, how.threshold, how.softness)).clamp_(max=how.ceiling)
    return amount if weight is None else amount * weight_at(weight, matched.index[..., :1])[..., 0]


def attend(q: Tensor, values: Tensor, share: Share, how: Infusion) -> Tensor:
    """A_app: attention of q (rows, heads, tokens, dim) to the reference's matched tokens, or to all of them."""
    if how.top_k == 0 or how.top_k >= share.appearance.tokens:
        return _attend_all(q, values, share.appearance, how.budget)
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


def _attend_all(q: Tensor, values: Tensor, appearance: Appearance, budget: int) -> Tensor:
    rows, heads = q.shape[:2]
    keys, values = appearance.k.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)
    bias = None if appearance.weight is None else _bias(appearance.weight, q.dtype)[:, None, None]
    # The fused kernels never hold the whole matrix, but the plain one does, and which one runs is torch's choice.
    size = pieces(budget, rows * heads * appearance.tokens * q.element_size())
    return joined([F.scaled_dot_product_attention(part, keys, values, attn_mask=bias) for part in q.split(size, dim=2)], 2)


def _attend_matched(q: Tensor, values: Tensor, share: Share, budget: int) -> Tensor:
    heads, dim, index = q.shape[1], q.shape[3], share.matched.index
    size = pieces(budget, q.shape[0] * heads * index.shape[-1] * dim * q.element_size())
    parts = []
    for some, chosen in zip(q.split(size, dim=2), index.split(size, dim=2), strict=True):
        keys = _taken(share.appearance.k, chosen, heads)  # (rows, heads, some tokens, k, dim)
        logits = (some[..., None, :] @ keys.transpose(-1, -2))[..., 0, :] * dim**-0.5
        if share.appearance.weight is not None:
            logits = logits + _bias(weight_at(share.appearance.weight, chosen), logits.dtype)
        attention = logits.float().softmax(-1).to(q.dtype)
        parts.append((attention[..., None, :] @ _taken(values, chosen, heads))[..., 0, :])
    return joined(parts, 2)


def _taken(x: Tensor, index: Tensor, heads: int) -> Tensor:
    """The matched tokens of x (references, heads, tokens, dim): (rows, heads, tokens, k, dim)."""
    rows, _, tokens, k = index.shape
    x = x.expand(rows, -1, -1, -1)
    places = index.expand(-1, heads, -1, -1).reshape(rows, heads, tokens * k, 1).expand(-1, -1, -1, x.shape[-1])
    return x.gather(2, places).reshape(rows, heads, tokens, k, x.shape[-1])


def _bias(weight: Tensor, dtype: torch.dtype) -> Tensor:
    # A finite floor instead of −∞: a row whose tokens are all forbidden then yields numbers, which its closed gate ignores.
    return weight.float().log().clamp(min=-3e4).to(dtype)
