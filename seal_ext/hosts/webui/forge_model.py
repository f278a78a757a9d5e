"""A model as Forge's engine holds it: parts that the host moves between memories."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from modules import shared
from modules.processing import txt2img_image_conditioning
from torch import Tensor

from seal_ext.core.keeping import bytes_of
from seal_ext.core.memory import ORDINARY
from seal_ext.layers import Site, clean, find_sites, shadow
from seal_ext.settings import Settings

from . import conditioning, model, process_state
from .model import CELL, WITHOUT, Refusal, settled

NEEDED = ("clone", "set_model_unet_function_wrapper", "add_conditioning_modifier", "set_model_sampler_post_cfg_function")
UNKNOWN = f"SeAl does not know this relative of Forge: its U-Net lacks hooks that SeAl needs. {WITHOUT}"
SWAPPED = "The refiner replaced the model's weights, and SeAl cannot tell them apart. The rest of the picture is drawn without SeAl."


class Model(model.Model):
    """A model as Forge's engine holds it: parts that the host moves between memories."""

    @property
    def objects(self) -> Any:
        return getattr(self.sd, "forge_objects", None)

    @property
    def unet(self) -> torch.nn.Module | None:
        return getattr(getattr(getattr(self.objects, "unet", None), "model", None), "diffusion_model", None)

    @property
    def scale(self) -> Any:
        """What counts its noise levels: Forge and reForge name it differently."""
        inner = self.objects.unet.model
        return getattr(inner, "predictor", None) or getattr(inner, "model_sampling", None)

    def check(self) -> None:
        unet, vae = self.objects.unet, getattr(self.objects, "vae", None)
        has = [(unet, name) for name in (*NEEDED, "model_options")] + [(self.scale, name) for name in ("timestep", "sigma")]
        has += [(self.objects, "shallow_copy"), (self.sd, "encode_first_stage"), (getattr(vae, "patcher", None), "clone")]
        if not all(hasattr(owner, name) for owner, name in has):
            raise Refusal(UNKNOWN)
        if swapped():
            raise Refusal(SWAPPED)

    def is_loaded(self) -> bool:
        return super().is_loaded() and not swapped()

    def weights(self) -> str:
        return f"{super().weights()} {_parts()}"

    def vae(self) -> str:
        return f"{super().vae()} {_parts()}"

    def extras(self) -> tuple[tuple[str, float], ...]:
        # Here LoRAs are told by their files and strengths, as one text.
        return (*super().extras(), (str(getattr(self.sd, "current_lora_hash", "")), 1.0))

    def encode(self, image: Tensor) -> Tensor:
        """The mean of the encoder's distribution, where the encoder gives one; the host's own autoencoder stays as it is."""
        before, changed = self.objects, self.objects.shallow_copy()
        changed.vae = copy.copy(before.vae)  # reForge's own clone() forgets some of what it needs
        changed.vae.patcher = before.vae.patcher.clone()
        pixels = image.to(shared.device) * 2 - 1
        undo = _middle(changed.vae)
        self.sd.forge_objects = changed
        try:
            with settled(pixels):
                return self.sd.encode_first_stage(pixels)
        finally:
            self.sd.forge_objects = before
            undo()

    def signal(self, t: float) -> tuple[float, float]:
        sigma = float(self.scale.sigma(torch.tensor([t])))
        return (1 + sigma**2) ** -0.5, sigma * (1 + sigma**2) ** -0.5

    def fetch(self, rows: Sequence[int], beside: Sequence[Any] = ()) -> None:
        """`beside`: further parts that are needed together with the U-Net."""
        management = sys.modules.get("backend.memory_management") or sys.modules.get("ldm_patched.modules.model_management")
        if management is not None:
            unet = self.objects.unet
            management.load_models_gpu([unet, *beside], memory_required=unet.memory_required(list(rows)))

    def read(self, latent: Tensor, t: float, cond: conditioning.Cond, kept: Mapping[Site, torch.nn.Module]) -> None:
        inner = self.objects.unet.model
        unet = inner.diffusion_model
        kind = getattr(inner, "computation_dtype", None) or getattr(inner, "manual_cast_dtype", None) or inner.get_dtype()
        cond = conditioning.each(cond, lambda c: c.to(latent.device, kind))
        with settled(latent):
            beside = txt2img_image_conditioning(self.sd, latent, *(CELL * n for n in reversed(latent.shape[-2:])))
        seen = latent if beside.shape[-2:] != latent.shape[-2:] else torch.cat([latent, beside.to(latent)], 1)
        told = {"y": cond["vector"]} if isinstance(cond, Mapping) else {}
        level = torch.full((1,), t, device=latent.device)
        with clean(unet, kept):
            type(unet).forward(unet, seen.to(kind), level, context=conditioning.tokens(cond), transformer_options={}, **told)


def _middle(vae: Any) -> Callable[[], None]:
    """Make an autoencoder with a patcher of its own give the mean; the function returned undoes what others can see of that."""
    if hasattr(vae.patcher, "set_model_vae_regulation"):
        vae.patcher.set_model_vae_regulation(lambda posterior: posterior.mode())
    elif isinstance(getattr(draws := getattr(vae.first_stage_model, "regularization", None), "sample", None), bool):  # Forge Classic's
        return shadow(draws, "sample", False)
    return lambda: None  # then it samples, with the same seed each time


def _parts() -> str:
    """Of what the model is made up, beside its checkpoint: modules that the user chose, and how its weights are stored."""
    return str(getattr(getattr(sys.modules.get("modules.sd_models"), "model_data", None), "forge_hash", ""))


def swapped() -> bool:
    """Whether the U-Net has a refiner's weights in the name of the model before it, as Forge Neo may give it."""
    return getattr(sys.modules.get("modules.sd_samplers_common"), "ORIGINAL_CHECKPOINT", None) is not None


def room(unet: torch.nn.Module, size: tuple[int, int], settings: Settings, steps: int, readings: int = 1) -> int:
    """How many bytes of the U-Net's memory the references may take in a pass: no more than the cache still has.

    What may lie in ordinary memory needs room for two steps there, the one that is drawn and the next.
    """
    blocks, each = settings.block_weights(), 0
    for site, layer in find_sites(unet).items():
        if blocks.weight(site) > 0:
            tokens = math.ceil(size[0] / site.grid) * math.ceil(size[1] / site.grid)
            weight = next(layer.get_submodule("to_k").parameters())
            dtype = weight.dtype if weight.element_size() > 1 else torch.float16  # what is stored in eight bits computes in more
            each += bytes_of([(tokens, len(weight))], 1.0, 0.0, dtype, settings.cache_holds)
    kept = len(settings.appearance_steps().select([float(step) for step in range(steps, 0, -1)]))
    if settings.cache_place != "device" and torch.device(shared.device).type != ORDINARY.type:
        return each * min(kept, 2) * readings
    return min(each * kept * readings, max(process_state.cache.budget - process_state.cache.bytes, 0))
