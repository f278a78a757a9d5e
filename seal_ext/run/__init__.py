"""One generation: settings, references, and where the sampler stands. Made at its start, closed at its end.

A host patches the U-Net's attention layers and gives them to the run. It lets the run read the references (`read_references`), makes
each of its U-Net calls inside `step`, and adds `bridged` to what guidance made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from seal_ext.core.cache import AppearanceCache
from seal_ext.core.delta import DeltaGate, Held, add_delta
from seal_ext.core.entry import Entry
from seal_ext.core.fingerprint import AppearanceKey
from seal_ext.core.guide import Guide, Known
from seal_ext.core.held import HeldMatch
from seal_ext.core.memory import ran_out
from seal_ext.core.places import Places
from seal_ext.core.schedule import Progress
from seal_ext.layers import Layers
from seal_ext.settings import Settings
from seal_ext.shelf import Shelf

from .fetching import Fetching
from .parts import APPEARANCE, CONDITIONAL, UNCONDITIONAL, Encoded, Host, Row
from .reading import Reading
from .step import Step, Watch

__all__ = ["APPEARANCE", "CONDITIONAL", "RAN_OUT", "UNCONDITIONAL", "Encoded", "Host", "Row", "Run", "Step", "Watch"]

ROUNDING = 1e-4  # of the noise, whose size is 1: what predictions from the same words may differ by
SAME_WORDS = ("Delta-Bridge had no effect: another extension gave the reference prompt the same words as the prompt. Describe the "
              "difference in that extension's own fields.")  # fmt: skip
NO_LAYER = 'SeAl takes nothing from the reference: "{}" names no layer of this model that could use it. Change "Blocks".'
RAN_OUT = ("Memory ran out. SeAl has given back what it kept of references and takes no further part in this picture. Draw a smaller "
           'picture, or set "Cache lies in" to "ordinary memory".')  # fmt: skip


class Run:
    """`references`: those that all images share, or one list for each image. `figure`: where the picture's own subject will be, as
    its structure shows it, (1 or images, height, width) in 0 … 1 and of any size; None: anywhere. `known`: how it stands in shares of
    the canvas, one for all images or one for each. `guidance`: the scale w of classifier-free guidance.
    `shelf`: where readings are kept on disk."""

    def __init__(
        self,
        settings: Settings,
        references: Sequence[Encoded] | Sequence[list[Encoded]],
        cache: AppearanceCache,
        key: Callable[[int], AppearanceKey],
        levels: Sequence[float],
        layers: Layers,
        *,
        seeds: Sequence[int] = (0,),
        watch: Watch | None = None,
        figure: Tensor | None = None,
        known: Sequence[Known] = (),
        guidance: float = 1.0,
        images: int = 1,
        shelf: Shelf | None = None,
    ):
        self.settings, self.levels, self.layers, self.watch = settings, tuple(levels), layers, watch
        self.figure, self.guidance = figure, guidance
        self.known = list(known)
        self.references: list[list[Encoded]] = [list(group) for group in references if not isinstance(group, Encoded)]
        self.references = self.references or [[one for one in references if isinstance(one, Encoded)]]
        self._cache, self._key, self._seeds, self._images = cache, key, tuple(seeds), images
        self._shelf = shelf
        self.blocks = settings.block_weights()
        self.lam = settings.lambda_schedule()
        self.low_pass = settings.low_pass()
        self.gate = DeltaGate(settings.disagreement()) if settings.gate else None
        self._held = Held(settings.lam_every)
        self.entries: list[list[tuple[Encoded, Entry]]] = []  # of every image: references and what the U-Net saw of them
        self.guides: dict[tuple, Guide] = {}  # the limb guides made so far
        self.matches: dict[tuple, HeldMatch] = {}  # what was found so far, by grid and rows
        self.places: dict[tuple[int, int], Places | None] = {}  # which tokens ask, by grid
        self.fetching = Fetching(self.levels)
        self.now: Step | None = None
        self.notes: list[str] = []  # plain sentences for the user
        self._moved: Tensor | None = None  # how large Δ was at most, beside the noise
        self.closed = False
        self.short = False  # whether memory ran out

    @property
    def guiding(self) -> bool:
        """Whether something is known of the picture's figure that a guide could tell of."""
        return self.settings.limbs > 0 and any(known.body or known.extent for known in self.known)

    def read_references(self, host: Host) -> None:
        """Fill the cache with what the U-Net sees of each reference at T_app."""
        settings, images = self.settings, range(self._images)
        if not any(self.blocks.weight(site) > 0 for site in self.layers.sites):
            self.note(NO_LAYER.format(settings.blocks))
            return
        alone = settings.noise == "noised" and settings.seed_policy == "image"
        if len(self.references) < len(images) and (alone or len(set(map(self._key, images))) > 1):
            self.references = self.references * len(images)  # each image reads for itself, since it reads with other words or other noise
        reading = Reading(settings, self.references, self._cache, self._key, self.levels, self._seeds, self.layers, self.note, self,
                          self._shelf)  # fmt: skip
        with self._ending_where_memory_does():
            self.entries = reading.entries(host)

    def note(self, sentence: str) -> None:
        """Something the user should read, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def bridging(self, t: float) -> float:
        """λ of a model call at timestep t. Where it is 0 the host need not add rows conditioned on c_app."""
        return 0.0 if self.short else self.lam(Progress.at(t, self.levels))

    def asks(self, t: float) -> bool:
        """Whether a bridged model call at t needs rows conditioned on c_app; else Δ is as a step before it found it."""
        return not self._held.serves(Progress.at(t, self.levels))

    @contextmanager
    def step(self, t: float, rows: Sequence[Row], latent: tuple[int, int], hires: bool = False) -> Iterator[Step]:
        """A model call at timestep t, with these rows: inside, the layers are infused."""
        self.fetching.begin((entry for group in self.entries for _, entry in group), t)
        self.now = Step(self, t, tuple(rows), latent, hires)
        if self.gate and self.now.progress.gamma > self.settings.lam_start and self.lam(self.now.progress) == 0:
            self.gate.freeze()
        with self._ending_where_memory_does(), self.layers.answering(self.now.answer):
            yield self.now

    @contextmanager
    def _ending_where_memory_does(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if ran_out(error):  # whoever asked for it: others' pictures go on, and ours can be read again
                self.ran_out()
            raise

    def ran_out(self) -> None:
        """Give back all that is kept of references, and take no further part."""
        self.short = True
        self.note(RAN_OUT)
        self._release()
        self._cache.clear()

    @torch.no_grad()
    def bridged(self, t: float, gen: Tensor, app: Tensor | None, to_epsilon: float = 1.0) -> Tensor:
        """λ·LowPass(Δ) of a model call at t, to be added to the guided prediction; the Δ-gate learns from what is seen anew.

        gen, app: (images, channels, height, width), predictions of any one kind; `to_epsilon` turns their difference into one of ε.
        app None: this call did not ask.
        """
        lam = self.bridging(t)
        if app is None:
            return lam * self._held.delta(to_epsilon).to(gen)
        delta = gen - app
        moved = (delta.abs().amax() * abs(to_epsilon)).detach()
        self._moved = moved if self._moved is None else torch.maximum(self._moved, moved)
        if self.gate:
            self.gate.update(delta * to_epsilon)
        broad = add_delta(torch.zeros_like(gen), gen, app, 1.0, self.low_pass)
        self._held.keep(broad, Progress.at(t, self.levels), to_epsilon)
        return lam * broad

    def close(self) -> None:
        """Let go of everything the run held; the cache keeps what it kept. The last notes are there afterwards."""
        if self._moved is not None and float(self._moved) < ROUNDING:
            self.note(SAME_WORDS)
        if self._shelf is not None and (failed := self._shelf.settle()):
            self.note(failed)
        self.now, self._moved, self.closed = None, None, True
        self._release()

    def _release(self) -> None:
        self.entries = []
        for made in (self.guides, self.matches, self.places):
            made.clear()
        self.fetching.end()
        self._cache.let_go(self)
