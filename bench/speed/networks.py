"""What is timed: the embedded model, and networks of the true sizes of SD1.5 and SDXL with random weights, which cost what true ones do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.drawing import GUIDANCE, open_model
from bench.identity.known import GIVEN, Placed, placed
from bench.identity.methods import TUNED
from bench.identity.tasks import TASKS
from seal_ext.core.cache import AppearanceCache
from seal_ext.hosts.diffusers import Seal, encoded
from seal_ext.settings import Settings

CASE, CACHE = "conflict", 2**35  # a case whose reference has another prompt; a cache in which all fits
PATTERN = 2**20 + 7  # random numbers that fill all weights: as many as there are would take longer than what is timed


@dataclass(frozen=True)
class Shape:
    """A network's name, the size of its pictures, and how it is built; without that it is the embedded model."""

    name: str
    size: int
    unet: dict[str, Any] | None = None
    vae: dict[str, Any] | None = None
    pooled: int = 0  # how wide the words are that SDXL is told beside the others


def _autoencoder(*widths: int) -> dict[str, Any]:
    return {"block_out_channels": widths, "layers_per_block": 2, "latent_channels": 4,
            "down_block_types": ["DownEncoderBlock2D"] * len(widths), "up_block_types": ["UpDecoderBlock2D"] * len(widths)}  # fmt: skip


_ATTENDING = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("embedded", 128),
        Shape(
            "sd15",
            512,
            {"block_out_channels": (320, 640, 1280, 1280), "down_block_types": (*[_ATTENDING[0]] * 3, "DownBlock2D"),
             "up_block_types": ("UpBlock2D", *[_ATTENDING[1]] * 3), "cross_attention_dim": 768, "attention_head_dim": 8},
            _autoencoder(128, 256, 512, 512),
        ),
        Shape(
            "sdxl",
            1024,
            {"block_out_channels": (320, 640, 1280), "down_block_types": ("DownBlock2D", *[_ATTENDING[0]] * 2),
             "up_block_types": (*[_ATTENDING[1]] * 2, "UpBlock2D"), "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
             "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True, "addition_embed_type": "text_time",
             "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816},
            _autoencoder(128, 256, 512, 512),
            pooled=1280,
        ),
    )
}  # fmt: skip


class Network:
    """A pipeline, and all that a call of its U-Net needs: noise, words, references and structures as the bench's pictures have them."""

    def __init__(self, shape: Shape, device: str = "cpu", size: int = 0, images: int = 1, references: int = 1):
        self.shape, self.device, self.size, self.images = shape, torch.device(device), size or shape.size, images
        if shape.unet is None or shape.vae is None:
            model = open_model()
            self.pipe = model.pipe.to(device)
        else:
            self.pipe = random_pipe(shape, device)
        self.unet, self.vae = self.pipe.unet, self.pipe.vae
        self.dtype = self.unet.dtype
        self.lay_out(self.size, images, references)

    def lay_out(self, size: int, images: int, references: int) -> None:
        """Pictures of this size, so many together, of so many references of one character."""
        self.size, self.images = size, images
        task = TASKS[CASE](torch.arange(images if shape_is_embedded(self.shape) else 1))
        self.prompts, self.told = [caption.text for caption in task.prompts], task.told("word")
        self.there: Placed = placed(task, GIVEN, TUNED)
        self.references = [self.there.references[0]] * references
        make = torch.Generator().manual_seed(0)
        cells = size // self.pipe.vae_scale_factor
        noise = torch.randn(images, self.unet.config.in_channels, cells, cells, generator=make)
        self.latents = noise.to(self.device, self.dtype)
        self.words = torch.randn(2 * images, 77, self.unet.config.cross_attention_dim, generator=make).to(self.device, self.dtype)
        pooled = torch.randn(2 * images, max(self.shape.pooled, 1), generator=make).to(self.device, self.dtype)
        sizes = torch.tensor([[size, size, 0, 0, size, size]], device=self.device, dtype=self.dtype).expand(2 * images, -1)
        self.added = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}} if self.shape.pooled else {}
        self.pipe._guidance_scale = GUIDANCE  # as the pipeline's own call notes it

    def steps(self, count: int) -> Sequence[Tensor]:
        """The timesteps of a picture; a new run begins."""
        self.pipe.scheduler.set_timesteps(count, device=self.device)
        return list(self.pipe.scheduler.timesteps)

    @torch.no_grad()
    def call(self, t: Tensor) -> Tensor:
        """A call of the U-Net, with rows of the negative prompt and of the prompt."""
        out: Tensor = self.unet(self.latents.repeat(2, 1, 1, 1), t, self.words, return_dict=False, **self.added)[0]
        return out

    @torch.no_grad()
    def encode(self) -> Tensor:
        """The reference's latent, as a peer takes it."""
        image, *_ = self.references[0].on_canvas(self.size, self.size)
        return encoded(self.vae, image).to(self.latents)

    @torch.no_grad()
    def decode(self) -> Tensor:
        image: Tensor = self.vae.decode(self.latents / self.vae.config.scaling_factor, return_dict=False)[0]
        return image

    def seal(self, settings: Settings) -> Seal:
        """SeAl on this pipeline, with another reference prompt than the prompt, and nothing cached."""
        known = [self.there.structures[0].known]
        return Seal(self.pipe, self.references, settings, appearance_prompt=self.told[0], known=known, figure=self.there.figure[:1],
                    cache=AppearanceCache(CACHE))  # fmt: skip


def shape_is_embedded(shape: Shape) -> bool:
    return shape.unet is None


def random_pipe(shape: Shape, device: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A pipeline of this shape whose words are random numbers, too."""
    import diffusers

    class Unworded(diffusers.StableDiffusionPipeline):
        def encode_prompt(self, prompts: list[str], **how: Any) -> tuple:
            make = torch.Generator().manual_seed(sum(map(ord, "".join(prompts))))
            words = torch.randn(len(prompts), 77, self.unet.config.cross_attention_dim, generator=make).to(device, dtype)
            pooled = torch.randn(len(prompts), max(shape.pooled, 1), generator=make).to(device, dtype)
            return words, None, pooled, None

    unet = filled(lambda: diffusers.UNet2DConditionModel(**shape.unet), device, dtype)
    vae = filled(lambda: diffusers.AutoencoderKL(**shape.vae), device, dtype)
    pipe = Unworded(vae, None, None, unet, diffusers.DDIMScheduler(), None, None, requires_safety_checker=False)  # type: ignore[arg-type]
    pipe.set_progress_bar_config(disable=True)
    return pipe


def filled(make: Callable[[], nn.Module], device: str, dtype: torch.dtype) -> nn.Module:
    """A network whose weights keep the size of what goes through it."""
    with torch.device("meta"):
        network = make().to(dtype)
    network = network.to_empty(device=device).eval().requires_grad_(False)
    pattern = torch.randn(PATTERN, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    begin = 0
    for name, weight in network.named_parameters():
        if weight.ndim < 2:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        flat, done = weight.view(-1), 0
        while done < len(flat):  # each goes on where the one before it ended, or layers would be alike
            part = flat[done : done + PATTERN - begin]
            part.copy_(pattern[begin : begin + len(part)])
            done, begin = done + len(part), (begin + len(part)) % PATTERN
        weight.mul_(weight[0].numel() ** -0.5)
    return network
