"""One generation: settings, references, the cache's entries, and where the sampler stands. Made at its start, closed at its end.

A host gives the run few verbs and takes few from it. In return for `begin`, `infused`, `bridged` and `close` the host reads a
reference with the U-Net when the run asks (`Host.read`), tells progress, and undoes its own patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from seal_ext.core.cache import AppearanceCache, AppearanceKey, Entry, Filling, fingerprint
from seal_ext.core.delta import DeltaGate, add_delta
from seal_ext.core.infusion import Infusion, Queries, infuse, infuse_joint, infuse_kv, infuse_projected
from seal_ext.core.limbs import Body, guide
from seal_ext.core.matching import (
    Appearance,
    Match,
    feature_of,
    row_by_row,
    subject_tokens,
    surrounding_tokens,
    to_tokens,
    together,
    token_grid,
)
from seal_ext.core.noise import reference_input, reference_noise
from seal_ext.core.schedule import Progress
from seal_ext.settings import Settings

UNCONDITIONAL, CONDITIONAL, APPEARANCE = "unconditional", "conditional", "appearance"


@dataclass(frozen=True)
class Site:
    """A self-attention layer: layer `index` of a part of the U-Net, counted as the U-Net runs them."""

    name: str
    part: str  # down, mid or up
    index: int


@dataclass(frozen=True)
class Reference:
    """A picture of the character as the U-Net sees it, and where the character is on it."""

    latent: Tensor  # (1, channels, height, width), scaled as the U-Net expects
    mask: Tensor | None = None  # (height, width) of any size, true or 1 on the subject
    weight: float = 1.0
    body: Body | None = None  # its joints, in shares of the canvas, when they are known


@dataclass(frozen=True)
class Row:
    """A row of the U-Net's batch: what it is conditioned on, and which of the run's images it belongs to."""

    kind: str
    image: int


class Host(Protocol):
    """What a run needs of the program it runs in."""

    sites: Sequence[Site]

    def signal(self, t: float) -> tuple[float, float]:
        """α and σ of the U-Net's input z = α·x₀ + σ·ε at a timestep."""

    def read(self, latent: Tensor, t: float, image: int) -> None:
        """Run the clean U-Net on a reference of an image, with c_app; the layers' `observe` is called meanwhile."""

    def tell(self, done: int, total: int) -> None:
        """Show how far the reading is; may raise to stop the run."""


@dataclass
class Now:
    """The current model call."""

    t: float
    progress: Progress
    rows: tuple[Row, ...]
    latent: tuple[int, int]
    infusion: Infusion
    weights: tuple[float, ...]  # how much of the infusion each row gets
    yields: Tensor | None  # (images, height, width): what the Δ-gate leaves of the infusion
    appearances: dict[str, Appearance] = field(default_factory=dict)
    left: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # `yields` on the grids of tokens seen so far


class Run:
    """`references`: those that all images share, or one list for each image. `figure`: where the picture's own subject will be, as
    its structure shows it, (1 or images, height, width) in 0 … 1 and of any size; None: anywhere. `bodies`: its joints in shares of the
    canvas, one for all images or one for each."""

    def __init__(
        self,
        settings: Settings,
        references: Sequence[Reference] | Sequence[Sequence[Reference]],
        cache: AppearanceCache,
        key: Callable[[int], AppearanceKey],
        levels: Sequence[float],
        seeds: Sequence[int] = (0,),
        watch: Callable[[Site, Match, Tensor], None] | None = None,
        figure: Tensor | None = None,
        bodies: Sequence[Body | None] = (),
    ):
        self.settings, self.cache, self.key, self.levels, self.watch = settings, cache, key, tuple(levels), watch
        shared = not references or isinstance(references[0], Reference)
        self.references = [list(references)] if shared else [list(r) for r in references]
        self.seeds, self.figure = tuple(seeds), figure
        self.bodies, self._guides = list(bodies), {}
        self.blocks = settings.block_weights()
        self.lam = settings.lambda_schedule()
        self.low_pass = settings.low_pass()
        self.gate = DeltaGate(settings.disagreement()) if settings.gate else None
        self.entries: list[list[tuple[Reference, Entry]]] = []  # of every image: references and what the U-Net saw of them
        self.now: Now | None = None
        self.notes: list[str] = []  # plain sentences for the user
        self._filling: tuple[Filling, float, Reference] | None = None
        self.closed = False

    # ---- the reference pass

    def wanted(self, sites: Sequence[Site]) -> list[Site]:
        """The sites that are infused at all."""
        return [site for site in sites if self.blocks.weight(site.part, site.index) > 0]

    @torch.no_grad()
    def read_references(self, host: Host) -> None:
        """Fill the cache with what the U-Net sees of each reference at T_app; what is cached already costs nothing."""
        steps = self.settings.appearance_steps().select(self.levels)
        plan = [(image, number, reference) for image, group in enumerate(self.references) for number, reference in enumerate(group)]
        self.entries = [[] for _ in self.references]
        for done, (image, number, reference) in enumerate(plan):
            key = self._key(image, number, reference, steps, host)
            entry = self.cache.find(key)
            if entry is None:
                with self.cache.filling(key, steps) as filling:
                    for count, t in enumerate(steps):
                        host.tell(done * len(steps) + count, len(plan) * len(steps))
                        if filling.wants(t):
                            self._read(host, filling, t, reference, image, number)
                entry = filling.entry
            if entry.off:
                self.note(entry.off)
                continue
            if entry.thinned:
                self.note("SeAl's cache was too small for every step of the reference, so fewer are used: raise the cache budget.")
            self.entries[image].append((reference, entry))
        host.tell(len(plan) * len(steps), len(plan) * len(steps))

    def note(self, sentence: str) -> None:
        """Something the user should read, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _key(self, image: int, number: int, reference: Reference, steps: tuple[float, ...], host: Host) -> AppearanceKey:
        settings = self.settings
        noise = "clean" if settings.noise == "clean" else f"noised {self._noise_seed(image)} {number}"
        return replace(
            self.key(image),
            pixels=fingerprint(reference.latent),
            mask="" if reference.mask is None else fingerprint(reference.mask),
            size=tuple(reference.latent.shape[-2:]),
            timesteps=steps,
            layers=tuple(site.name for site in self.wanted(host.sites)),
            feature=settings.feature + " and rivals" * settings.rivals,
            noise=noise,
        )

    def _noise_seed(self, image: int) -> int:
        return self.seeds[min(image, len(self.seeds) - 1)] if self.settings.seed_policy == "image" else 0

    def _read(self, host: Host, filling: Filling, t: float, reference: Reference, image: int, number: int) -> None:
        noise = None
        if self.settings.noise == "noised":
            noise = reference_noise([self._noise_seed(image)], reference.latent.shape[1:], number)
        alpha, sigma = host.signal(t)
        self._filling = (filling, t, reference)
        try:
            host.read(reference_input(reference.latent, noise, sigma, alpha), t, image)
            filling.passed()
        finally:
            self._filling = None

    @property
    def reading(self) -> bool:
        """Whether the U-Net is looking at a reference just now."""
        return self._filling is not None

    def observe(self, site: Site, k: Tensor, v: Tensor, hidden: Tensor) -> None:
        """Keep what a layer made of the reference: k, v (1, heads, tokens, dim) and the feature to match on, of the subject's tokens."""
        filling, t, reference = self._filling
        appearance = Appearance(k, v, feature_of(self.settings.feature, k, hidden))
        if reference.mask is not None:
            grid = token_grid(k.shape[2], *reference.latent.shape[-2:])
            if grid is not None:
                around = surrounding_tokens(reference.mask[None], grid)[0] if self.settings.rivals else None
                appearance = appearance.only(subject_tokens(reference.mask[None], grid)[0], around)
        kept = {"k": appearance.k, "v": appearance.v, "feature": appearance.feature, "rivals": appearance.rivals}
        filling.store(t, site.name, **{name: x for name, x in kept.items() if x is not None})

    # ---- a model call

    def bridging(self, t: float) -> float:
        """λ of a model call at timestep t. Where it is 0 the host need not add rows conditioned on c_app."""
        return self.lam(Progress.at(t, self.levels))

    def begin(self, t: float, rows: Sequence[Row], latent: tuple[int, int], hires: bool = False) -> None:
        """A model call at timestep t, with these rows."""
        progress = Progress.at(t, self.levels)
        infusion = self.settings.infusion_at(progress, hires)
        usable = bool(self.entries) and all(self.entries)
        share = {UNCONDITIONAL: self.settings.uncond_rows, CONDITIONAL: 1.0, APPEARANCE: 1.0}
        weights = tuple(share[row.kind] if usable else 0.0 for row in rows)
        yields = self.gate.yields() if self.gate else None
        self.now = Now(t, progress, tuple(rows), latent, infusion, weights, yields)
        if self.gate and progress.gamma > self.settings.lam_start and self.lam(progress) == 0:
            self.gate.freeze()

    def weight(self, site: Site) -> float:
        """How strongly a site is infused in this call; 0: leave it alone."""
        if self.now is None or self.now.infusion.idle or not any(self.now.weights):
            return 0.0
        return self.blocks.weight(site.part, site.index)

    def infused(self, site: Site, out: Tensor, project: Callable[[Tensor], Tensor], q: Tensor, hidden: Tensor) -> Tensor:
        """A layer's result (rows, tokens, channels) with the reference infused."""
        weight = self.weight(site)
        if not weight:
            return out
        how = self.now.infusion.scaled(weight)
        if self.settings.form == "joint":  # whose δ has no end: another's result is blended with, not gone beyond
            how = replace(how, ceiling=min(how.ceiling, 1.0))
        return infuse_projected(out, project, self._queries(site, q, hidden), self._appearance(site, q), how)

    @property
    def needs_heads(self) -> bool:
        """Whether a layer's finished result is too late: K and V take part in the blend, or every head has its own gate."""
        return self.settings.form != "output" or self.settings.feature == "qk_per_head"

    def attention(self, site: Site, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
        """A layer's attention (rows, heads, tokens, dim) with the reference infused, where the finished result is too late."""
        given = (self._queries(site, q, hidden), self._appearance(site, q), self.now.infusion.scaled(self.weight(site)))
        if self.settings.form == "joint":
            seen = infuse_joint(k, v, *given)
            return F.scaled_dot_product_attention(q, k, v) if seen is None else seen
        if self.settings.form == "kv":
            return F.scaled_dot_product_attention(q, *infuse_kv(k, v, *given))
        return infuse(F.scaled_dot_product_attention(q, k, v), *given)

    def _queries(self, site: Site, q: Tensor, hidden: Tensor) -> Queries:
        watch = None if self.watch is None else (lambda match, amount: self.watch(site, match, amount))
        return Queries(q, self.now.weights, hidden, self._left(q.shape[2]), watch, self._guide(q))

    def _appearance(self, site: Site, like: Tensor) -> Appearance:
        kept = self.now.appearances.get(site.name)
        if kept is None:
            images = [self._of_image(entries, site, like) for entries in self.entries]
            if len(images) == 1:
                kept = images[0]
            else:
                rows = [images[row.image] for row in self.now.rows]
                kept = row_by_row(rows)
            self.now.appearances[site.name] = kept
        return kept

    def _of_image(self, entries: list[tuple[Reference, Entry]], site: Site, like: Tensor) -> Appearance:
        seen = []
        for reference, entry in entries:
            kept = entry.at(self.now.t, site.name, like)
            seen.append(Appearance(**kept).weighted(reference.weight))
        return together(seen)

    def _guide(self, q: Tensor) -> Tensor | None:
        """The limb guide of every row, or one for all; None where joints are not known."""
        grid = token_grid(q.shape[2], *self.now.latent)
        if grid is None or not self.settings.limbs or not any(self.bodies):
            return None
        alone = len(self.entries) == len(self.bodies) == 1
        images = (0,) if alone else tuple(row.image for row in self.now.rows)
        if (grid, images) not in self._guides:
            rows = [self._guide_of(image, grid) for image in images]
            longest = max(row.shape[1] for row in rows)
            told = torch.stack([F.pad(row, (0, longest - row.shape[1])) for row in rows])
            self._guides[grid, images] = (told * self.settings.limbs).to(q.device)
        return self._guides[grid, images]

    def _guide_of(self, image: int, grid: tuple[int, int]) -> Tensor:
        body, parts = self.bodies[image if len(self.bodies) > 1 else 0], []
        for reference, _ in self.entries[image if len(self.entries) > 1 else 0]:
            subject = torch.ones(grid).flatten() if reference.mask is None else subject_tokens(reference.mask[None], grid)[0]
            kept = subject.nonzero()[:, 0].cpu()
            known = body is not None and reference.body is not None
            parts.append(guide(body, reference.body, grid, kept) if known else torch.zeros(grid[0] * grid[1], len(kept)))
        return torch.cat(parts, 1)

    def _left(self, tokens: int) -> Tensor | None:
        """What the figure's place and the Δ-gate leave of the infusion, for every row's tokens."""
        now = self.now
        grid = token_grid(tokens, *now.latent)
        maps = [m for m in (self.figure, now.yields) if m is not None]
        if grid is None or not maps:
            return None
        if grid not in now.left:
            images = [row.image for row in now.rows]
            rows = [to_tokens(m, grid) if len(m) == 1 else to_tokens(m, grid)[images] for m in maps]
            now.left[grid] = math.prod(rows).expand(len(images), -1)
        return now.left[grid]

    def bridged(self, gen: Tensor, app: Tensor, lam: float, to_epsilon: float = 1.0) -> Tensor:
        """λ·LowPass(Δ) of one model call, to be added to the guided prediction; the Δ-gate learns from it.

        gen, app: (images, channels, height, width), predictions of any one kind; `to_epsilon` turns their difference into one of ε.
        """
        delta = gen - app
        if self.gate:
            self.gate.update(delta * to_epsilon)
        return add_delta(torch.zeros_like(gen), gen, app, lam, self.low_pass)

    def close(self) -> None:
        """Let go of everything the run held; the cache keeps what it kept."""
        self.entries, self.now, self._filling, self.closed = [], None, None, True
