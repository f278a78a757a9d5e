"""The reference pass: what the U-Net sees of each reference at T_app goes into the cache, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seal_ext.core.blocks import Blocks
from seal_ext.core.cache import AppearanceCache, Filling
from seal_ext.core.entry import Entry
from seal_ext.core.fingerprint import AppearanceKey, fingerprint
from seal_ext.core.keeping import kept
from seal_ext.core.matching import some_of, subject_tokens, surrounding_tokens, token_grid
from seal_ext.core.noise import reference_input, reference_noise
from seal_ext.layers import AttentionCall, Layers
from seal_ext.settings import Settings
from seal_ext.shelf import Shelf
from seal_ext.tensor_file import Damaged

from .parts import Encoded, Host

THINNED = 'The reference did not fit into SeAl\'s cache at every step, so SeAl keeps fewer steps. Raise "Cache (MB)".'


OVERFLOWED = ("In this precision the model's numbers overflow on the reference, so SeAl leaves it out. Use the model in full precision, or "
              "another VAE.")  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """Reads the references of a run. `key` says for an image what its reading depends on beside the reference itself."""

    settings: Settings
    references: Sequence[Sequence[Encoded]]  # of every image, or of all together
    cache: AppearanceCache
    key: Callable[[int], AppearanceKey]
    levels: Sequence[float]
    seeds: Sequence[int]
    layers: Layers
    note: Callable[[str], None]
    user: object = None  # who holds the entries from now on
    shelf: Shelf | None = None  # where readings are kept on disk

    @torch.no_grad()
    def entries(self, host: Host) -> list[list[tuple[Encoded, Entry]]]:
        """Of every image: its references and what the U-Net saw of them. What is cached already costs nothing."""
        steps = self.settings.appearance_steps().select(self.levels)
        plan = [(image, number, reference) for image, group in enumerate(self.references) for number, reference in enumerate(group)]
        found: list[list[tuple[Encoded, Entry]]] = [[] for _ in self.references]
        for done, (image, number, reference) in enumerate(plan):
            key = self._key(image, number, reference, steps)
            entry = self._kept(key, reference)
            if entry is None:
                with self.cache.filling(key, steps, self.user, self.settings.cache_place) as filling:
                    for count, t in enumerate(steps):
                        host.tell(done * len(steps) + count, len(plan) * len(steps))
                        if filling.wants(t):
                            self._read(host, filling, t, reference, image, number)
                entry = filling.entry
            if self.shelf is not None and not self._is_of_one_image:
                self.shelf.keep(key, entry)
            if entry.off:
                self.note(entry.off)
            else:
                found[image].append((reference, entry))
        if any(entry.thinned for group in found for _, entry in group):  # perhaps only when a later one was read
            self.note(THINNED)
        host.tell(len(plan) * len(steps), len(plan) * len(steps))
        return found

    def _kept(self, key: AppearanceKey, reference: Encoded) -> Entry | None:
        """What was read before: in memory, or on disk."""
        entry, place, device = self.cache.find(key, self.user), self.settings.cache_place, reference.latent.device
        if entry is not None:
            self.cache.lay(entry, place, device)
            return entry
        layers = None if self.shelf is None else self.shelf.of(key)
        if layers is None:
            return None
        try:
            with self.cache.filling(key, key.timesteps, self.user, place) as filling:
                for t, layer, tensors in layers:
                    if filling.wants(t):
                        filling.store(t, layer, **{name: x.to(device) for name, x in tensors.items()})
        except Damaged:
            return None
        return filling.entry

    @property
    def _is_of_one_image(self) -> bool:
        """Whether what is read serves a single image, and no other ever."""
        return self.settings.noise == "noised" and self.settings.seed_policy == "image"

    def _key(self, image: int, number: int, reference: Encoded, steps: tuple[float, ...]) -> AppearanceKey:
        settings, blocks = self.settings, self.settings.block_weights()
        noise = "clean" if settings.noise == "clean" else f"noised {self._noise_seed(image)} {number}"
        return replace(
            self.key(image),
            pixels=fingerprint(reference.latent),
            mask="" if reference.mask is None else fingerprint(reference.mask),
            size=(reference.latent.shape[-2], reference.latent.shape[-1]),
            timesteps=steps,
            layers=tuple(site.name for site in self.layers.sites if blocks.weight(site) > 0),
            holds=settings.cache_holds + " and rivals" * settings.rivals,
            noise=noise,
        )

    def _noise_seed(self, image: int) -> int:
        return self.seeds[min(image, len(self.seeds) - 1)] if self.settings.seed_policy == "image" else 0

    def _read(self, host: Host, filling: Filling, t: float, reference: Encoded, image: int, number: int) -> None:
        noise = None
        if self.settings.noise == "noised":
            noise = reference_noise([self._noise_seed(image)], reference.latent.shape[1:], number)
        alpha, sigma = host.signal(t)
        keeping = _Keeping(self.settings, self.settings.block_weights(), reference, filling, t)
        with self.layers.answering(keeping.answer):
            host.read(reference_input(reference.latent, noise, sigma, alpha), t, image)
        filling.passed()
        if keeping.last is not None and not keeping.last.isfinite().all():  # what overflows in one layer is no number in those after it
            filling.give_up(OVERFLOWED)


@dataclass
class _Keeping:
    """One U-Net call on a reference: every infused layer's hidden states are kept, of the subject's tokens and of some around it."""

    settings: Settings
    blocks: Blocks
    reference: Encoded
    filling: Filling
    t: float
    last: Tensor | None = None  # what the last of these layers gave

    def answer(self, call: AttentionCall) -> Tensor:
        if self.blocks.weight(call.site) > 0:
            dtype = call.q(1).dtype  # in which the layer computes: under autocast hidden states are in full precision
            tensors = kept(call.hidden, *self._tokens(call.hidden.shape[1]), dtype, self.settings.cache_holds)
            self.filling.store(self.t, call.site.name, **tensors)
            self.last = call.clean()
            return self.last
        return call.clean()

    def _tokens(self, tokens: int) -> tuple[Tensor | None, Tensor | None]:
        """Which of a layer's tokens are kept: the subject's, and the rivals'."""
        mask, grid = self.reference.mask, token_grid(tokens, *self.reference.latent.shape[-2:])
        if mask is None or grid is None:
            return None, None
        around = some_of(surrounding_tokens(mask[None], grid)[0], grid) if self.settings.rivals else None
        return subject_tokens(mask[None], grid)[0], around
