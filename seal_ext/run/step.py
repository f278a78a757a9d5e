"""Taking part in one model call: each infused layer's attention with what the U-Net saw of the references."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seal_ext.core import places
from seal_ext.core.entry import Entry
from seal_ext.core.guide import Guide
from seal_ext.core.held import HeldMatch
from seal_ext.core.infusion import Asking, Infusion, Taking, attention, attention_after, change, negative_share, plain
from seal_ext.core.keeping import appearance
from seal_ext.core.matching import Appearance, Match, row_by_row, subject_tokens, to_tokens, together, token_grid
from seal_ext.core.memory import ran_out
from seal_ext.core.places import Places
from seal_ext.core.schedule import Progress
from seal_ext.layers import AttentionCall, Site

from .parts import APPEARANCE, CONDITIONAL, UNCONDITIONAL, Encoded, Row

if TYPE_CHECKING:
    from . import Run

Watch = Callable[["Step", Site, Match, Tensor], None]
SPLIT = "Another extension splits the picture's batch inside the U-Net. SeAl leaves those parts alone."
MERGED = ("Tokens are merged (ToMe), or an extension changes how many tokens a layer has. There SeAl does not know what is where: "
          '"Only on the figure", the Δ-gate and "Guide" do nothing.')  # fmt: skip
GUIDES = 64 * 2**20  # bytes of limb guides that a run keeps whole; of larger ones it keeps coordinates


@dataclass
class Step:
    """One model call of a run."""

    run: Run
    t: float
    rows: tuple[Row, ...]
    latent: tuple[int, int]
    hires: bool = False
    # On the grids seen so far:
    left: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # what figure and Δ-gate leave
    settled: dict[tuple[int, int], dict[Infusion, Taking]] = field(default_factory=dict)  # what layers before took

    def __post_init__(self) -> None:
        settings, run = self.run.settings, self.run
        self.progress = Progress.at(self.t, run.levels)
        self.infusion = settings.infusion_at(self.progress, self.hires)
        negative = negative_share(settings.uncond_rows, settings.form, run.guidance)
        share = {UNCONDITIONAL: negative, CONDITIONAL: 1.0, APPEARANCE: 1.0}
        usable = bool(run.entries) and all(run.entries)
        self.weights = tuple(share[row.kind] if usable else 0.0 for row in self.rows)
        self.yields = run.gate.yields() if run.gate else None  # (images, height, width): what the Δ-gate leaves

    def weight(self, site: Site) -> float:
        """How strongly a site is infused in this call; 0: it is left alone."""
        if self.infusion.idle or not any(self.weights) or site.kind != "self" or self.run.short:
            return 0.0
        return self.run.blocks.weight(site)

    def answer(self, call: AttentionCall) -> Tensor:
        """A layer's result, infused."""
        weight = self.weight(call.site)
        if not weight:
            return call.own()
        if len(call.hidden) != len(self.rows):
            self.run.note(SPLIT)
            return call.own()
        return self._or_without(lambda: self._infused(call, weight), call.own)

    def _infused(self, call: AttentionCall, weight: float) -> Tensor:
        how, q = replace(self.infusion, block=weight), call.q()
        given = self.asking(call.site, q, call.hidden), self.appearance(call.site, call.hidden), how
        if how.form == "output" and how.feature != "qk_per_head":
            # The paper's own form needs only the layer's finished result, in which every optimisation and extension has had its part.
            return attention_after(call.own(), call.project, q, *given)
        k, v = call.kv()
        dtype = v.dtype
        if call.layers.upcast:
            q, k, v = q.float(), k.float(), v.float()
        with call.exactly():
            seen = attention(q, k, v, *given).to(dtype)
            alone = None if call.is_plain else plain(q, k, v).to(dtype)
        # Where somebody else has a hand in the layer, his result stands, and what the reference changes of the host's is added.
        return call.out(seen) if alone is None else call.own() + call.out(seen) - call.out(alone)

    def upon(self, site: Site, base: Tensor, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
        """Another extension's attention (rows, heads, tokens, dim) of these q, k and v, and what the reference changes of the host's."""
        weight = self.weight(site)
        if not weight or len(q) != len(self.rows):
            return base
        how = replace(self.infusion, block=weight)
        return self._or_without(
            lambda: base + change(q, k, v, self.asking(site, q, hidden), self.appearance(site, hidden), how), lambda: base
        )  # fmt: skip

    def _or_without(self, infused: Callable[[], Tensor], alone: Callable[[], Tensor]) -> Tensor:
        """A layer's result infused, or without SeAl from here on where there is not enough memory for it."""
        try:
            return infused()
        except Exception as error:
            if not ran_out(error):
                raise
        self.run.ran_out()
        return alone()

    # ---- what a layer asks with, and what it finds

    def asking(self, site: Site, q: Tensor, hidden: Tensor) -> Asking:
        watch = self.run.watch
        seen = None if watch is None else (lambda match, amount: watch(self, site, match, amount))
        places, grid = self._places(q.shape[2]), token_grid(q.shape[2], *self.latent)
        asking = Asking(self.weights, hidden, self._left(q.shape[2]), seen, self._guide(q), places)
        if grid is None or not self.run.settings.match_once or self.run.settings.feature == "qk_per_head":
            return asking
        held = self.run.matches.setdefault((grid, self.rows), HeldMatch())
        return replace(asking, find=partial(held.find, site.name), settled=self.settled.setdefault(grid, {}))

    def appearance(self, site: Site, hidden: Tensor) -> Appearance:
        """What the U-Net saw at the nearest timestep read, as the rows of this call with these hidden states see it."""
        images = [self._of_image(entries, site, hidden) for entries in self.run.entries]
        return images[0] if len(images) == 1 else row_by_row([images[row.image] for row in self.rows])

    def _of_image(self, entries: Sequence[tuple[Encoded, Entry]], site: Site, hidden: Tensor) -> Appearance:
        def made(entry: Entry) -> Appearance:
            tensors = self.run.fetching.at(entry, self.t, site.name, hidden.device)
            return appearance(tensors, self.infusion.feature, partial(self.run.layers.kv, site), hidden.dtype)

        return together([made(entry).weighted(seen.weight) for seen, entry in entries])

    def _left(self, tokens: int) -> Tensor | None:
        """What the figure's place and the Δ-gate leave of the infusion, for every row's tokens."""
        maps = [m for m in (self.run.figure, self.yields) if m is not None]
        grid = token_grid(tokens, *self.latent)
        if grid is None and (maps or self.run.guiding):
            self.run.note(MERGED)
        if grid is None or not maps:
            return None
        if grid not in self.left:
            images = [row.image for row in self.rows]
            rows = [to_tokens(m, grid) if len(m) == 1 else to_tokens(m, grid)[images] for m in maps]
            left = (rows[0] if len(rows) == 1 else rows[0] * rows[1]).expand(len(images), -1)
            self.left[grid] = places.asking(left, self._places(tokens), 1)
        return self.left[grid]

    def _places(self, tokens: int) -> Places | None:
        """Where the figure is, of any image; everywhere where somebody watches what is found."""
        run, grid = self.run, token_grid(tokens, *self.latent)
        if grid is None or run.figure is None or run.watch is not None:
            return None
        if grid not in run.places:
            run.places[grid] = Places.of((to_tokens(run.figure, grid) > 0).any(0))
        return run.places[grid]

    def _guide(self, q: Tensor) -> list[Guide] | None:
        """The limb guide of every row, or one for all; None where nothing is known that could guide."""
        grid = token_grid(q.shape[2], *self.latent)
        if grid is None or not self.run.guiding:
            return None
        guides = [self._guide_of(row.image, grid, q.device) for row in self.rows]
        if not any(guide.says for guide in guides):
            return None
        return guides if any(guide is not guides[0] for guide in guides) else guides[:1]

    def _guide_of(self, image: int, grid: tuple[int, int], device: torch.device) -> Guide:
        run = self.run
        picture, group = image if len(run.known) > 1 else 0, image if len(run.entries) > 1 else 0
        if (picture, group, grid) not in run.guides:
            references = []
            for seen, _ in run.entries[group]:
                subject = torch.ones(math.prod(grid)) if seen.mask is None else subject_tokens(seen.mask[None], grid)[0]
                references.append((seen.known, subject.nonzero()[:, 0].cpu()))
            here = self._places(math.prod(grid))
            made = Guide(run.known[picture], references, grid, run.settings.limbs, device, None if here is None else here.asking)
            if sum(guide.bytes for guide in run.guides.values() if guide.whole) + made.bytes <= GUIDES:
                made.keep()
            run.guides[picture, group, grid] = made
        return run.guides[picture, group, grid]
