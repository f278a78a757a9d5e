"""Taking part in one model call: each infused layer's attention with what the U-Net saw of the references."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from seal_ext.core.cache import Entry
from seal_ext.core.infusion import Asking, attention, attention_after, change, negative_share
from seal_ext.core.matching import Appearance, Match, row_by_row, subject_tokens, to_tokens, together, token_grid
from seal_ext.core.schedule import Progress
from seal_ext.layers import AttentionCall, Site

from .parts import APPEARANCE, CONDITIONAL, UNCONDITIONAL, Encoded, Row

if TYPE_CHECKING:
    from . import Run

Watch = Callable[["Step", Site, Match, Tensor], None]
SPLIT = "Another extension splits the picture's batch inside the U-Net. SeAl leaves those parts alone."
MERGED = ("Tokens are merged (ToMe), or an extension changes how many tokens a layer has. There SeAl does not know what is where: *Only on "
          "the figure*, the Δ-gate and the limb guide do nothing.")  # fmt: skip


@dataclass
class Step:
    """One model call of a run."""

    run: Run
    t: float
    rows: tuple[Row, ...]
    latent: tuple[int, int]
    hires: bool = False
    appearances: dict[str, Appearance] = field(default_factory=dict)  # of the layers seen so far
    left: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # what figure and Δ-gate leave, on the grids seen so far

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
        if self.infusion.idle or not any(self.weights) or site.kind != "self":
            return 0.0
        return self.run.blocks.weight(site.part, site.index)

    def answer(self, call: AttentionCall) -> Tensor:
        """A layer's result, infused."""
        weight = self.weight(call.site)
        if not weight:
            return call.own()
        if len(call.hidden) != len(self.rows):
            self.run.note(SPLIT)
            return call.own()
        how, q = replace(self.infusion, block=weight), call.q()
        given = self.asking(call.site, q, call.hidden), self.appearance(call.site, q), how
        if how.form == "output" and how.feature != "qk_per_head":
            # The paper's own form needs only the layer's finished result, in which every optimisation and extension has had its part.
            return attention_after(call.own(), call.project, q, *given)
        k, v = call.kv()
        dtype = v.dtype
        if call.layers.upcast:
            q, k, v = q.float(), k.float(), v.float()
        with call.exactly():
            seen = attention(q, k, v, *given).to(dtype)
            plain = None if call.is_plain else F.scaled_dot_product_attention(q, k, v).to(dtype)
        # Where somebody else has a hand in the layer, his result stands, and what the reference changes of the host's is added.
        return call.out(seen) if plain is None else call.own() + call.out(seen) - call.out(plain)

    def upon(self, site: Site, base: Tensor, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
        """Another extension's attention (rows, heads, tokens, dim) of these q, k and v, and what the reference changes of the host's."""
        weight = self.weight(site)
        if not weight or len(q) != len(self.rows):
            return base
        how = replace(self.infusion, block=weight)
        return base + change(q, k, v, self.asking(site, q, hidden), self.appearance(site, q), how)

    # ---- what a layer asks with, and what it finds

    def asking(self, site: Site, q: Tensor, hidden: Tensor) -> Asking:
        watch = self.run.watch
        seen = None if watch is None else (lambda match, amount: watch(self, site, match, amount))
        return Asking(self.weights, hidden, self._left(q.shape[2]), seen, self._guide(q))

    def appearance(self, site: Site, like: Tensor) -> Appearance:
        """What the U-Net saw at the nearest timestep read, as the rows of this call see it."""
        kept = self.appearances.get(site.name)
        if kept is None:
            images = [self._of_image(entries, site, like) for entries in self.run.entries]
            kept = images[0] if len(images) == 1 else row_by_row([images[row.image] for row in self.rows])
            self.appearances[site.name] = kept
        return kept

    def _of_image(self, entries: Sequence[tuple[Encoded, Entry]], site: Site, like: Tensor) -> Appearance:
        return together([Appearance(**entry.at(self.t, site.name, like)).weighted(seen.weight) for seen, entry in entries])

    def _left(self, tokens: int) -> Tensor | None:
        """What the figure's place and the Δ-gate leave of the infusion, for every row's tokens."""
        maps = [m for m in (self.run.figure, self.yields) if m is not None]
        grid = token_grid(tokens, *self.latent)
        if grid is None and (maps or (self.run.settings.limbs and any(self.run.bodies))):
            self.run.note(MERGED)
        if grid is None or not maps:
            return None
        if grid not in self.left:
            images = [row.image for row in self.rows]
            rows = [to_tokens(m, grid) if len(m) == 1 else to_tokens(m, grid)[images] for m in maps]
            self.left[grid] = (rows[0] if len(rows) == 1 else rows[0] * rows[1]).expand(len(images), -1)
        return self.left[grid]

    def _guide(self, q: Tensor) -> Tensor | None:
        """The limb guide of every row, or one for all; None where joints are not known."""
        run, grid = self.run, token_grid(q.shape[2], *self.latent)
        if grid is None or not run.settings.limbs or not any(run.bodies):
            return None
        alone = len(run.entries) == len(run.bodies) == 1
        images = (0,) if alone else tuple(row.image for row in self.rows)
        if (grid, images) not in run.guides:
            rows = [self._guide_of(image, grid) for image in images]
            longest = max(row.shape[1] for row in rows)
            told = torch.stack([F.pad(row, (0, longest - row.shape[1])) for row in rows])
            run.guides[grid, images] = (told * run.settings.limbs).to(q.device)
        return run.guides[grid, images]

    def _guide_of(self, image: int, grid: tuple[int, int]) -> Tensor:
        run, parts = self.run, []
        body = run.bodies[image if len(run.bodies) > 1 else 0]
        for seen, _ in run.entries[image if len(run.entries) > 1 else 0]:
            subject = torch.ones(math.prod(grid)) if seen.mask is None else subject_tokens(seen.mask[None], grid)[0]
            kept = subject.nonzero()[:, 0].cpu()
            parts.append(torch.zeros(math.prod(grid), len(kept)) if body is None else body.guide(seen.body, grid, kept))
        return torch.cat(parts, 1)
