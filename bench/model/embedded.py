"""The embedded model as one thing: its four networks, its file, and a sampler."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.model.adapter import Adapter
from bench.model.autoencoder import AutoencoderKL
from bench.model.shape import Shape
from bench.model.text import TextEncoder
from bench.model.unet import UNet
from seal_ext.studio.checkpoint import read_description

ADAPTER = "adapter."


def alphas_cumprod(shape: Shape) -> Tensor:
    """What share of the variance is still signal after each step: SD's schedule, linear in the root of beta."""
    betas = torch.linspace(shape.linear_start**0.5, shape.linear_end**0.5, shape.timesteps, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


class Embedded(nn.Module):
    """U-Net, autoencoder, text encoder and T2I-Adapter of one shape; images are in [-1, 1], latents are scaled.

    The module tree is LDM's, so that `state_dict()` is a single-file SD1 checkpoint. The adapter, which has a file
    of its own, moves and trains with the rest but stays out of it.
    """

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.model = nn.ModuleDict({"diffusion_model": UNet(shape)})
        self.first_stage_model = AutoencoderKL(shape)
        self.cond_stage_model = nn.ModuleDict({"transformer": TextEncoder(shape)})
        self.adapter = Adapter(shape)
        self.register_buffer("alphas", alphas_cumprod(shape), persistent=False)

    @property
    def unet(self) -> UNet:
        return self.model["diffusion_model"]

    @property
    def vae(self) -> AutoencoderKL:
        return self.first_stage_model

    @property
    def text(self) -> TextEncoder:
        return self.cond_stage_model["transformer"]

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        state = super().state_dict(*args, **kwargs)
        return {name: tensor for name, tensor in state.items() if not name.startswith(ADAPTER)}

    def load_state_dict(self, state: Mapping[str, Tensor], **kwargs):
        adapter = {ADAPTER + name: tensor for name, tensor in self.adapter.state_dict().items()}
        return super().load_state_dict({**state, **adapter}, **kwargs)

    def save(self, checkpoint: Path, tokenizer: Path, adapter: Path | None = None) -> None:
        """Write `checkpoint` and its `.yaml`, which will name the `tokenizer` folder, and the adapter's file if asked."""
        checkpoint = Path(checkpoint)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        save_file(_plain(self.state_dict()), checkpoint)
        checkpoint.with_suffix(".yaml").write_text(self.shape.ldm_yaml(str(Path(tokenizer).absolute())), encoding="utf-8")
        if adapter is not None:
            save_file(_plain(self.adapter.state_dict()), adapter)

    @classmethod
    def load(cls, checkpoint: Path, adapter: Path | None = None) -> "Embedded":
        """Open a checkpoint that `save` or the extension's `expand` wrote; without its file the adapter is untrained."""
        description, tokenizer = read_description(checkpoint)
        model = cls(Shape.from_files(description, tokenizer))
        model.load_state_dict(load_file(checkpoint))
        if adapter is not None:
            model.adapter.load_state_dict(load_file(adapter))
        return model.eval()

    @classmethod
    def assembled(cls, shape: Shape, denoiser: nn.Module, vae: nn.Module) -> "Embedded":
        """The bundle around networks that live elsewhere, as in training; nothing is copied."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model.shape, model.vae = shape, vae
        model.unet, model.text, model.adapter = denoiser.unet, denoiser.text, denoiser.adapter
        model.register_buffer("alphas", alphas_cumprod(shape), persistent=False)
        return model

    def encode(self, image: Tensor) -> Tensor:
        return self.vae.encode(image)[0] * self.shape.scale_factor

    def decode(self, latent: Tensor) -> Tensor:
        return self.vae.decode(latent / self.shape.scale_factor)


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Independent, ordinarily laid out tensors: the file format knows no memory format."""
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}


def steps_of(shape: Shape, steps: int) -> list[int]:
    """SD's DDIM steps, from noise to image: evenly spaced from the start, moved up by one."""
    stride = shape.timesteps // steps
    return [i * stride + 1 for i in reversed(range(steps))]


@torch.no_grad()
def sample(
    model: Embedded,
    tokens: Tensor,
    empty: Tensor,
    noise: Tensor,
    steps: int,
    guidance: float,
    hint: Tensor | None = None,
    keep: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """DDIM from `noise` [B, 4, h, w] to a scaled latent; `keep(t, latent)` may rewrite the latent after each step.

    One row of `empty` tokens, or of the hint, serves a whole batch. The hint's features steer both sides of the guidance, as in the hosts.
    """
    x, count = noise, len(noise)
    context = torch.cat([model.text(empty).expand(count, -1, -1), model.text(tokens)])
    features = None if hint is None else [f.expand(count, -1, -1, -1).repeat(2, 1, 1, 1) for f in model.adapter(hint)]
    order = steps_of(model.shape, steps)
    for i, t in enumerate(order):
        epsilon = model.unet(torch.cat([x, x]), torch.full((len(context),), t, device=x.device), context, features).to(x.dtype)
        without, with_text = epsilon.chunk(2)
        epsilon = without + guidance * (with_text - without)
        now = model.alphas[t]
        then = model.alphas[order[i + 1] if i + 1 < steps else 0]  # SD ends at the first step's noise, not at none
        clean = (x - (1 - now).sqrt() * epsilon) / now.sqrt()
        x = then.sqrt() * clean + (1 - then).sqrt() * epsilon
        if keep is not None:
            keep(t, x)
    return x
