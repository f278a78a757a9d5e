"""The model that a WebUI has loaded, and what its other networks make of references and words before the U-Net takes them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from modules import devices, extra_networks, prompt_parser, sd_vae, shared
from torch import Tensor

from seal_ext.asking import NARROW, SMALL
from seal_ext.core.skeleton import Skeleton
from seal_ext.layers import Site
from seal_ext.reference import Reference
from seal_ext.run import Encoded
from seal_ext.settings import Settings

from . import conditioning, options, process_state

CELL = 8  # pixels of a latent's cell
WITHOUT = "The picture is drawn without SeAl."
ENCODERS = ("text_processing_engine", "text_processing_engine_l", "text_processing_engine_g", "cond_stage_model")  # as hosts name them


class Refusal(Exception):
    """SeAl cannot work here; the message is a sentence for the user."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the autoencoder makes of the references and the text encoder of c_app, for one model and size."""

    checkpoint: object
    size: tuple[int, int]  # of the latent
    references: list[Encoded]
    prompt: object | None  # c_app as the host schedules prompts, when there is one
    wordless: object | None  # and no words, when references are read with none


class Model:
    """The model that the WebUI has loaded: its kind, what changes its weights, and how it sees pictures and words."""

    def __init__(self) -> None:
        self.sd = shared.sd_model
        self.checkpoint = self.sd.sd_checkpoint_info

    @property
    def unet(self) -> torch.nn.Module | None:
        """The U-Net it draws with."""
        raise NotImplementedError

    def extras(self) -> tuple[tuple[str, float], ...]:
        """What changes its weights, and how strongly: hypernetworks and LoRAs, where the host lists them."""
        # Readings outlive the process: a file of the same name may have been trained on meanwhile.
        found = [(f"{network.name} {getattr(network, 'mtime', '')}", float(network.unet_multiplier))
                 for network in getattr(sys.modules.get("networks"), "loaded_networks", ())]  # fmt: skip
        beside = [(f"{net.name} {getattr(net, 'step', '')}", float(net.multiplier)) for net in getattr(shared, "loaded_hypernetworks", ())]
        return (*found, *beside)

    def encode(self, image: Tensor) -> Tensor:
        """A picture (1, 3, height, width) in 0 … 1 as the U-Net sees it."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuse a model that lacks something SeAl needs, before any of it is used."""

    def signal(self, t: float) -> tuple[float, float]:
        """α and σ of the U-Net's input at a timestep."""
        raise NotImplementedError

    def read(self, latent: Tensor, t: float, cond: conditioning.Cond, kept: Mapping[Site, torch.nn.Module]) -> None:
        """Run the clean U-Net on a reference at a timestep, told these words; only the `kept` layers stay patched."""
        raise NotImplementedError

    def attention(self) -> dict[str, Any]:
        """What `Layers` has to know of how this host attends."""
        return {}

    def computing(self) -> AbstractContextManager:
        """The precision in which the host computes while it draws."""
        return devices.autocast()

    def fetch(self, rows: Sequence[int]) -> None:
        """Have the U-Net where it computes, with room for latents of this shape; the encoders may have sent it away."""

    @property
    def side(self) -> int:
        """About how many pixels a side it was trained at."""
        channels = getattr(self.unet, "model_channels", NARROW)
        return SMALL if channels < NARROW else 1024 if self.architecture() == "sdxl" else 512

    def tokens(self, text: str) -> list[int]:
        """A text's tokens in the places in which the U-Net gets them, from the start's to the end's; none if nobody knows."""
        known = (getattr(self.sd, name, None) for name in ENCODERS)
        encoder = next((one for one in known if hasattr(one, "process_texts")), None)
        return [] if encoder is None else [token for chunk in encoder.process_texts([text])[0][0] for token in chunk.tokens]

    def conditioned(self, text: str, size: tuple[int, int], steps: int = 1) -> Any:
        """What the text encoder makes of a prompt for a picture of this width and height, as the host schedules prompts."""
        words = prompt_parser.SdConditioning([extra_networks.parse_prompt(text)[0]], width=size[0], height=size[1])
        how = (shared.opts.use_old_scheduling,) if hasattr(shared.opts, "use_old_scheduling") else ()  # Forge Neo knows one way alone
        return prompt_parser.get_learned_conditioning(self.sd, words, steps, None, *how)

    def weights(self) -> str:
        """A text that tells its weights and their precision from all others'."""
        stored = getattr(devices, "fp8", False)  # the weights, in eight bits
        return f"{self.checkpoint.filename} {self.checkpoint.sha256 or self.checkpoint.hash} {devices.dtype_unet}{' fp8' * stored}"

    def vae(self) -> str:
        """What its autoencoder is known by, beside the checkpoint."""
        return str(sd_vae.loaded_vae_file)

    def is_loaded(self) -> bool:
        """Whether it is still the one that the WebUI draws with."""
        return shared.sd_model is self.sd and self.sd.sd_checkpoint_info is self.checkpoint

    def architecture(self) -> str:
        return "sdxl" if getattr(self.sd, "is_sdxl", False) else "sd2" if getattr(self.sd, "is_sd2", False) else "sd1"

    def settings(self, asked: Settings) -> Settings:
        """A run's settings as they are for this kind of model."""
        return asked.for_architecture(self.architecture())

    def cache_bytes(self, asked: Settings) -> int:
        """How large the cache is in such a run."""
        return options.cache_mb(asked.cache_mb, self.settings(asked).cache_mb) * process_state.MEGABYTE

    def prepare(self, session: Any, size: tuple[int, int], steps: int) -> Prepared:
        """Everything that other networks than the U-Net have to say."""
        poses = session.structures.poses
        references = [self._encoded(reference, size, poses.get(number)) for number, reference in enumerate(session.references)]
        text, canvas = session.settings.appearance_prompt, (session.p.width, session.p.height)
        prompt = self.conditioned(text, canvas, steps) if text.strip() else None
        wordless = self.conditioned("", canvas) if session.settings.read_with == "no words" else None
        return Prepared(self.checkpoint, size, references, prompt, wordless)

    def _encoded(self, reference: Reference, size: tuple[int, int], pose: Skeleton | None) -> Encoded:
        """A reference as the U-Net reads it; its limbs only where the structure's are known, too."""
        height, width = (CELL * n for n in size)
        image, mask, known = replace(reference, pose=pose).on_canvas(height, width)
        return Encoded(self.latent(reference, image), mask, reference.weight, known)

    def latent(self, reference: Reference, image: Tensor) -> Tensor:
        """A reference that was fitted into a canvas (1, 3, height, width), encoded once and kept in main memory."""
        name = (reference.hash, *image.shape[-2:], str(self.checkpoint.filename), self.vae())
        return process_state.latent(name, lambda: _finite(self.encode(image)))


def in_parts() -> bool:
    """Whether this host holds a model's parts apart, as Forge and its relatives do."""
    return hasattr(shared.sd_model, "forge_objects")


@contextmanager
def settled(like: Tensor) -> Iterator[None]:
    """What an autoencoder draws at random is the same each time, and the host's own random numbers are left alone."""
    with torch.random.fork_rng(devices=[like.device] if like.is_cuda else []):
        torch.manual_seed(0)
        yield


def _finite(latent: Tensor) -> Tensor:
    if not torch.isfinite(latent).all():
        raise Refusal(f"The VAE cannot encode the reference in this precision: try --no-half-vae. {WITHOUT}")
    return latent.detach()
