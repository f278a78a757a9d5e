"""A sampling pass in AUTOMATIC1111's WebUI.

The denoiser's callback shows a model call before it is made: all its rows, those of the prompts first, then those of the negative
prompts. The host then makes it in one U-Net call or several (unequal token lengths, no batching), with or without the negative rows,
but always in this order. So the rows of a U-Net call are told by counting within the model call; a call of another
shape comes from another extension and is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from modules import devices, sd_unet, shared
from modules.processing import txt2img_image_conditioning
from torch import Tensor

from seal_ext.layers import Site, clean, shadow, wrap
from seal_ext.run import APPEARANCE, CONDITIONAL, UNCONDITIONAL, Row

from . import conditioning, model, sampling_pass
from .model import CELL, WITHOUT, Refusal, settled
from .sampling_pass import ATTRIBUTE


@dataclass
class Call(sampling_pass.Call):
    """A model call with all its rows, and how far its U-Net calls have come."""

    rows: tuple[Row, ...] = ()
    done: int = 0


class Model(model.Model):
    """A model as the ldm and sgm packages hold it."""

    @property
    def unet(self):
        return getattr(getattr(self.sd, "model", None), "diffusion_model", None)

    def encode(self, image: Tensor) -> Tensor:
        """The mean of the encoder's distribution, where the encoder gives one."""
        self.sd.first_stage_model.to(devices.dtype_vae)
        pixels = image.to(shared.device, devices.dtype_vae) * 2 - 1
        with settled(pixels):
            seen = self.sd.encode_first_stage(pixels)
            if isinstance(seen, Tensor):  # SDXL's autoencoder has drawn from its distribution already, and scaled it
                return self.sd.get_first_stage_encoding(seen)
            return self.sd.scale_factor * seen.mode()

    def check(self) -> None:
        if sd_unet.current_unet is not None:
            raise Refusal(f'SeAl cannot look into a compiled U-Net. Choose "None" under SD Unet. {WITHOUT}')

    def signal(self, t: float) -> tuple[float, float]:
        alphas = self.sd.alphas_cumprod
        kept = float(alphas[min(max(round(t), 0), len(alphas) - 1)])
        return kept**0.5, (1 - kept) ** 0.5

    def read(self, latent: Tensor, t: float, cond: conditioning.Cond, kept: Mapping[Site, torch.nn.Module]) -> None:
        cond = conditioning.each(cond, lambda x: x.to(latent.device))
        height, width = (CELL * n for n in latent.shape[-2:])
        with settled(latent):
            beside = txt2img_image_conditioning(self.sd, latent, width, height)
        call = conditioning.call_with(cond, beside, getattr(self.sd.model, "conditioning_key", None))
        level = torch.full((1,), t, device=latent.device, dtype=latent.dtype)
        with clean(self.unet, kept):
            type(self.sd).apply_model(self.sd, latent, level, cond=call)

    def attention(self) -> dict[str, Any]:
        return {"sources": _hypernetworked, "upcast": bool(getattr(shared.opts, "upcast_attn", False))}


class Pass(sampling_pass.SamplingPass[Model, Call]):
    """What `run.Run` needs of A1111, during one pass."""

    kind = Model

    def __init__(self, session: Any, params: Any, levels: Sequence[float] | None = None):
        super().__init__(session, params, levels)
        self.wrap = params.denoiser.inner_model
        self.in_sigma = hasattr(self.wrap, "sigma_to_t")  # k-diffusion; the others count in timesteps and predict ε

    def goes_on(self, params) -> bool:
        return super().goes_on(params) and params.denoiser.inner_model is self.wrap

    def timestep(self, level: Tensor) -> float:
        if not self.in_sigma:
            return float(level)
        return float(self.wrap.sigma_to_t(level.detach().reshape(1).to(self.wrap.log_sigmas)))

    # ---- model calls

    def unlike(self, params: Any, groups: Sequence[Sequence]) -> bool:
        negative = len(conditioning.tokens(params.text_uncond))
        rows = sum(map(len, groups)) + negative
        return rows != len(params.x) or negative != len(groups) or self.model.sd.cond_stage_key == "edit"

    def _call_of(self, params: Any) -> Call:
        parts = self._parts(params)
        rows = [Row(CONDITIONAL, image) for image, group in enumerate(parts) for _ in group]
        rows += [Row(UNCONDITIONAL, image) for image in range(len(parts))]
        return Call(params, parts, rows=tuple(rows))

    def take_hold(self) -> None:
        self.undo += [wrap(self.wrap, "forward", self._forward), shadow(self.wrap, ATTRIBUTE, self)]

    def _forward(self, own: Callable) -> Callable:
        def forward(x: Tensor, level: Tensor, *args, **kwargs):
            call = self.call
            rows = call.rows[call.done : call.done + len(x)] if call is not None else ()
            if call is None or len(rows) != len(x) or x.shape[-2:] != call.params.x.shape[-2:] or not isinstance(kwargs.get("cond"), dict):
                return own(x, level, *args, **kwargs)
            first, call.done = call.done == 0, call.done + len(x)
            t = self.timestep(level[0])
            if first and self.bridging(t):
                call.bridged_at = t
                if not self.run.asks(t):
                    with self.drawing(t, rows, x):
                        return own(x, level, *args, **kwargs)
                return self._with_appearance(own, call, t, rows, x, level, *args, **kwargs)
            with self.drawing(t, rows, x):
                return own(x, level, *args, **kwargs)

        return forward

    def _with_appearance(self, own: Callable, call: Call, t: float, rows, x: Tensor, level: Tensor, *args, cond: dict, **kwargs) -> Tensor:
        """The U-Net call with a third row an image, conditioned on c_app; of another length in tokens, they make a call of their own."""
        params = call.params
        take = [group[0][0] for group in call.parts]
        third = tuple(Row(APPEARANCE, image) for image in range(len(take)))
        app = conditioning.repeated(conditioning.each(self._app(), lambda c: c.to(conditioning.tokens(params.text_cond))), len(take))
        if conditioning.is_marked(params.text_cond):
            app = conditioning.marked(app)
        key = getattr(self.model.sd.model, "conditioning_key", None)
        own_cond = conditioning.call_with(app, params.image_cond[take], key)
        own_x, own_level = params.x[take], params.sigma[take]
        if conditioning.call_tokens(cond).shape[1] == conditioning.tokens(app).shape[1]:
            with self.drawing(t, (*rows, *third), x):
                out = own(torch.cat([x, own_x]), torch.cat([level, own_level]), *args, cond=conditioning.joined(cond, own_cond), **kwargs)
            call.appearance = out[len(x) :]
            return out[: len(x)]
        with self.drawing(t, third, x):
            call.appearance = own(own_x, own_level, *args, cond=own_cond, **kwargs)
        with self.drawing(t, rows, x):
            return own(x, level, *args, cond=cond, **kwargs)

    def denoised(self, params: Any) -> None:
        """The model call was made, and not yet guided: λ·LowPass(Δ) goes to every row of an image, which passes guidance unchanged."""
        call, self.call = self.call, None
        if call is None or call.bridged_at is None:
            return
        gen = torch.stack([_together(params.x, group) for group in call.parts])
        # k-diffusion's result is x₀ = z − σε.
        to_epsilon = -1 / float(call.params.sigma[0]) if self.in_sigma else 1.0
        bridge = self.run.bridged(call.bridged_at, gen, call.appearance, to_epsilon)
        params.x += bridge[[row.image for row in call.rows]].to(params.x)


def _hypernetworked(module: torch.nn.Module, seen: Tensor) -> tuple[Tensor, Tensor]:
    """What keys and values are made of: hypernetworks change it."""
    if not shared.loaded_hypernetworks:
        return seen, seen
    from modules.hypernetworks import hypernetwork

    return hypernetwork.apply_hypernetworks(shared.loaded_hypernetworks, seen, module)


def _together(x: Tensor, group: list[tuple[int, float]]) -> Tensor:
    """What an image's prompts say together: by their weights, where these make a mean."""
    total = sum(weight for _, weight in group)
    if len(group) == 1 or total <= 0:
        return x[group[0][0]]
    return torch.stack([x[row] * (weight / total) for row, weight in group]).sum(0)
