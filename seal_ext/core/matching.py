"""Match: which token of the reference each token of the picture resembles, and whether it resembles it enough (the gate M)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

FEATURES = ("hidden", "qk", "qk_per_head")
THRESHOLDS = ("cosine", "quantile")
FLOAT = 4  # bytes
BUDGET = 256 * 2**20  # bytes that one matrix of similarities or attention weights may take

_FORBIDDEN = -4.0  # added to a cosine, stays below every allowed one, also below those of a weak reference


class Sliced(Protocol):
    """(tokens, tokens of the reference), of which some tokens are looked at together."""

    def __getitem__(self, some: slice, /) -> Tensor: ...


Guides = Tensor | Sequence[Sliced]  # one for each row, or one for all


@dataclass(frozen=True)
class Match:
    """Every token's most similar reference tokens. `groups` is 1, or the number of heads when each head matches by itself."""

    similarity: Tensor  # (rows, groups, tokens): the best cosine, at most 1, below −1 where no reference token is allowed
    index: Tensor  # (rows, groups, tokens, k): best first
    told: Tensor | None = None  # what a guide says of these pairs, of the shape of index


def statistics(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of every channel over a picture's tokens, and what makes its spread 1: (rows, 1, channels) in float32."""
    h = hidden.float()
    return h.mean(1, keepdim=True), (h.var(1, keepdim=True, unbiased=False) + 1e-6).rsqrt()


def hidden_feature(hidden: Tensor, known: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Hidden states (rows, tokens, channels), normalised over the picture's tokens: (rows, 1, tokens, channels), unit length.

    The mean and spread over a picture carry its light and style; without them the same part looks alike in two pictures. `known`: those of
    a picture of which these are only some tokens.
    """
    mean, spread = known or statistics(hidden)
    return F.normalize((hidden.float() - mean) * spread, dim=-1).to(hidden.dtype)[:, None]


def head_feature(x: Tensor, per_head: bool = False) -> Tensor:
    """Queries or keys (rows, heads, tokens, dim) as they are, of unit length: all heads together, or each for itself."""
    x = x if per_head else rearrange(x, "rows heads tokens dim -> rows 1 tokens (heads dim)")
    return F.normalize(x.float(), dim=-1).to(x.dtype)


def feature_of(kind: str, heads: Tensor, hidden: Tensor | None = None) -> Tensor:
    """The feature a setting names, from q (of the picture) or k (of the reference), or from the hidden states of either."""
    if kind != "hidden":
        return head_feature(heads, per_head=kind == "qk_per_head")
    if hidden is None:
        raise ValueError("matching on hidden states needs them: pass the attention layer's input, too")
    return hidden_feature(hidden)


@dataclass(frozen=True)
class Appearance:
    """What one attention layer kept of the reference: keys, values and the feature to match on, of the subject's tokens.

    `references` is 1 when all rows share them, else the number of rows.
    """

    k: Tensor  # (references, heads, tokens, dim)
    v: Tensor  # (references, heads, tokens, dim)
    feature: Tensor  # (references, groups, tokens, width), unit length
    weight: Tensor | None = None  # (references, tokens) in 0 … 1; 0 never competes; None is 1 everywhere
    # Features of the subject's surroundings (references, groups, tokens, width): a token that is more like these takes nothing. Zeros
    # only fill up shorter lists: their cosine is 0, so they stop only tokens that resemble the subject even less.
    rivals: Tensor | None = None

    @property
    def tokens(self) -> int:
        return self.k.shape[2]

    @property
    def counted(self) -> Tensor:
        """How many tokens each reference has (references,), a weaker one's counting less where there are stronger ones beside it."""
        if self.weight is None:
            return torch.full((self.k.shape[0],), float(self.tokens), device=self.k.device)
        return (self.weight.sum(1) / self.weight.amax(1).clamp(min=1e-6)).clamp(min=1)

    def weighted(self, weight: float) -> Appearance:
        """The same reference, infused by this much; a weight of ½ also costs it half a cosine where references compete."""
        own = torch.ones(self.k.shape[0], self.tokens, device=self.k.device) if self.weight is None else self.weight
        return self if weight == 1 else replace(self, weight=own * weight)

    def of(self, rows: slice | list[int]) -> Appearance:
        """The same for these rows."""
        if self.k.shape[0] == 1:
            return self
        weight, rivals = (None if x is None else x[rows] for x in (self.weight, self.rivals))
        return Appearance(self.k[rows], self.v[rows], self.feature[rows], weight, rivals)

    def to(self, like: Tensor) -> Appearance:
        """On the device and in the dtype of a live tensor; itself if it already is."""
        if self.k.device == like.device and self.k.dtype == like.dtype == self.feature.dtype:
            return self
        k, v, feature = (x.to(like.device, like.dtype) for x in self.kept)
        weight = None if self.weight is None else self.weight.to(like.device)
        return Appearance(k, v, feature, weight, None if self.rivals is None else self.rivals.to(like.device, like.dtype))

    @property
    def kept(self) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and features."""
        return self.k, self.v, self.feature


def together(references: Sequence[Appearance]) -> Appearance:
    """Several references that every row may draw from, side by side, each with the weight it has."""
    if len(references) == 1:
        return references[0]
    k, v, feature = (torch.cat(parts, 2) for parts in zip(*(r.kept for r in references), strict=True))
    surroundings = [r.rivals for r in references if r.rivals is not None]
    rivals = torch.cat(surroundings, 2) if surroundings else None
    if all(r.weight is None for r in references):
        return Appearance(k, v, feature, None, rivals)
    ones = [torch.ones(r.k.shape[0], r.tokens, device=k.device) if r.weight is None else r.weight for r in references]
    return Appearance(k, v, feature, torch.cat(ones, 1), rivals)


def row_by_row(references: Sequence[Appearance]) -> Appearance:
    """One reference for each row: shorter ones are filled up with tokens that never compete."""
    longest = max(r.tokens for r in references)
    k, v, feature = (torch.cat([_longer(x, longest) for x in parts]) for parts in zip(*(r.kept for r in references), strict=True))
    weights = [torch.ones(1, r.tokens, device=r.k.device) if r.weight is None else r.weight for r in references]
    weight = torch.cat([F.pad(w, (0, longest - w.shape[1])) for w in weights])
    most = max(0 if r.rivals is None else r.rivals.shape[2] for r in references)
    rivals = torch.cat([_longer(r.feature[:, :, :0] if r.rivals is None else r.rivals, most) for r in references]) if most else None
    return Appearance(k, v, feature, weight, rivals)


def _longer(x: Tensor, tokens: int) -> Tensor:
    return F.pad(x, (0, 0, 0, tokens - x.shape[2]))


@torch.no_grad()
def match(
    query: Tensor, key: Tensor, top_k: int = 1, weight: Tensor | None = None, budget: int = BUDGET, guide: Guides | None = None,
    worth: float = 1.0,
) -> Match:  # fmt: skip
    """sim_i = max_j cos(q_i, k_app,j) and the top-k j.

    query: (rows, groups, tokens, width) and key: (references, groups, tokens of the reference, width), both of unit length;
    `references` is 1 when all rows share them. weight: (references, tokens of the reference) in 0 … 1; 0 never competes, and a
    reference of weight w competes with its cosine less 1 − w, so that a weak one wins only where it fits much better. guide: for each row
    or for all (tokens, tokens of the reference), what else speaks for a pair; times its worth it is added to the cosines that compete, not
    to the one that comes back.
    """
    rows, shared, tokens = query.shape[0], key.shape[0] == 1, query.shape[2]
    if shared:  # one long list of queries, instead of a copy of the keys for every row
        query = rearrange(query, "rows groups tokens width -> 1 groups (rows tokens) width")
    kind = _matching_dtype(query)
    key = key.to(kind).transpose(-1, -2)
    handicap = None if weight is None else torch.where(weight > 0, weight - 1, _FORBIDDEN)[:, None, None].to(kind)
    size = pieces(budget, query.shape[0] * query.shape[1] * key.shape[-1] * FLOAT)
    starts = range(0, query.shape[2], size)
    found = []
    for start, part in zip(starts, query.split(size, dim=2), strict=True):
        some = slice(start, start + part.shape[2])
        extra, said = [] if handicap is None else [handicap], None
        if guide is not None:
            said = _of_list(guide, some, tokens) if shared else guided(guide, some, key.shape[-1])
            extra.append((worth * said)[:, None].to(kind))
        value, index = _ranked(part.to(kind), key, extra, min(top_k, key.shape[-1]))
        found.append((value, index, index if said is None else guide_at(said, index)))
    rank, index, told = (joined(parts, 2) for parts in zip(*found, strict=True))
    if shared:
        index, told = (rearrange(x, "1 groups (rows tokens) k -> rows groups tokens k", rows=rows) for x in (index, told))
        rank = rearrange(rank, "1 groups (rows tokens) -> rows groups tokens", rows=rows)
    if weight is not None:
        rank = rank + 1 - weight_at(weight, index[..., :1])[..., 0]
    if guide is not None:
        rank = rank - worth * told[..., 0]
    return Match(rank.clamp(max=1), index, None if guide is None else told)  # rounding may say 1.0000001, and τ = 1 has to close the gate


def guided(guide: Guides, some: slice, tokens: int) -> Tensor:
    """The guide of some tokens: (rows or 1, these tokens, so many tokens of the reference). Shorter lists of those are filled up."""
    if len(guide) == 1:
        return guide[0][some][None]
    rows = [row[some] for row in guide]
    return torch.stack([F.pad(row, (0, tokens - row.shape[1])) for row in rows])


def _of_list(guide: Guides, some: slice, tokens: int) -> Tensor:
    """The guide of some places in the long list of all rows' tokens: (1, these places, tokens of the reference)."""
    parts = []
    for row in range(some.start // tokens, (some.stop - 1) // tokens + 1):
        first, last = max(some.start - row * tokens, 0), min(some.stop - row * tokens, tokens)
        parts.append(guide[row if len(guide) > 1 else 0][first:last])
    return joined(parts, 0)[None]


def guide_at(guide: Tensor, index: Tensor) -> Tensor:
    """The guide (rows or 1, tokens, tokens of the reference) of the matched tokens: the shape of index."""
    return guide[:, None].expand(index.shape[0], index.shape[1], -1, -1).gather(3, index)


def _ranked(query: Tensor, key: Tensor, extra: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    rank = query @ key  # (references, groups, some tokens, tokens of the reference)
    for more in extra:
        rank += more
    value, index = rank.max(-1, keepdim=True) if k == 1 else rank.topk(k, dim=-1)
    return value[..., 0].float(), index


def _matching_dtype(x: Tensor) -> torch.dtype:
    # bfloat16 tells cosines apart only by steps of .004, and half precision is slow or missing on a CPU.
    return torch.float16 if x.dtype == torch.float16 and x.is_cuda else torch.float32


def gate(similarity: Tensor, tau: float, threshold: str = "cosine", softness: float = 0.0) -> Tensor:
    """M = [sim > τ] in float32; τ a cosine, or the quantile of the picture's own similarities that it has to exceed.

    A softness s > 0 opens the gate gradually from τ to τ + s: a token near τ then does not flicker from step to step.
    """
    # At least −1, so that nothing passes in a row without allowed tokens.
    level = tau if threshold == "cosine" else similarity.quantile(tau, dim=-1, keepdim=True).clamp(min=-1)
    if softness > 0:
        return ((similarity - level) / softness).clamp(0, 1)
    return (similarity > level).float()


def best(top_k: int, tokens: int) -> int:
    """How many tokens of a reference that has so many are the best matches: `top_k` of every hundred, 1 is one alone, 0 all."""
    return 1 if top_k == 1 else tokens if top_k == 0 else min(max(round(top_k * tokens / 100), 1), tokens)


def best_of_each(top_k: int, counted: Tensor) -> Tensor:
    """The same of several references that have so many (references,)."""
    return torch.ones_like(counted) if top_k == 1 else counted if top_k == 0 else (top_k * counted / 100).round().clamp(min=1)


def weight_at(weight: Tensor, index: Tensor) -> Tensor:
    """The weights (references, tokens of the reference) of the matched tokens: the shape of index."""
    rows, groups, tokens, k = index.shape
    every = weight[:, None].expand(rows, groups, -1)
    return every.gather(2, index.reshape(rows, groups, tokens * k)).reshape(index.shape)


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int] | None:
    """The grid a layer's tokens stand on when the latent is height × width; None when no grid fits (merged tokens)."""
    while height * width > tokens and max(height, width) > 1:
        height, width = (height + 1) // 2, (width + 1) // 2
    return (height, width) if height * width == tokens else None


def to_tokens(picture: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps or masks (pictures, height, width) on a layer's tokens: (pictures, tokens), averaged where many cells become one."""
    smaller = grid[0] <= picture.shape[-2] and grid[1] <= picture.shape[-1]
    mode = {"mode": "area"} if smaller else {"mode": "bilinear", "align_corners": False}
    return F.interpolate(picture[:, None].float(), size=grid, **mode).flatten(1)


def subject_tokens(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """The tokens that mostly show the subject, as booleans (pictures, tokens).

    Of a subject smaller than half a token, those that show the most of it: it does not vanish on coarse layers.
    """
    share = to_tokens(mask, grid)
    return (share > 0) & (share >= share.amax(1, keepdim=True).clamp(max=0.5))


def surrounding_tokens(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """The tokens that show nothing of the subject, as booleans (pictures, tokens)."""
    return to_tokens(mask, grid) == 0


def some_of(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Of a mask's tokens (tokens,) every second one of every second row; all of them where these would be none."""
    places = torch.zeros(grid, dtype=torch.bool, device=tokens.device)
    places[::2, ::2] = True
    some = tokens & places.flatten()
    return some if some.any() else tokens


def pieces(budget: int, bytes_each: int) -> int:
    """How many tokens at a time keep a matrix within its budget; at least one."""
    return max(1, budget // max(bytes_each, 1))


def joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """`torch.cat` that does not copy a single part."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
