"""The embedded model as one thing: its four networks, its file, and a sampler."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.model.networks import Adapter, AutoencoderKL, TextEncoder, UNet
from bench.model.shape import Shape
from seal_ext.studio import keys
from seal_ext.studio.checkpoint import fill, filled, ldm_state, read_adapter, read_description


def alphas_cumprod(shape: Shape) -> Tensor:
    """What share of the variance is still signal after each step: SD's schedule, linear in the root of beta."""
    betas = torch.linspace(shape.linear_start**0.5, shape.linear_end**0.5, shape.timesteps, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


class Embedded(nn.Module):
    """U-Net, autoencoder, text encoder and T2I-Adapter of one shape; images are in [-1, 1], latents are scaled."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.unet, self.vae, self.text, self.adapter = UNet(shape), AutoencoderKL(shape), TextEncoder(shape), Adapter(shape)
        self.register_buffer("alphas", alphas_cumprod(shape), persistent=False)

    def ldm_state(self) -> dict[str, Tensor]:
        """A single-file SD1 checkpoint's weights; the adapter has a file of its own."""
        return ldm_state(self.unet, self.vae, self.text)

    def adapter_state(self) -> dict[str, Tensor]:
        return keys.to_ldm(self.adapter.state_dict(), keys.adapter_names())

    def save(self, checkpoint: Path, tokenizer: Path, adapter: Path | None = None) -> None:
        """Write `checkpoint` and its `.yaml`, which will name the `tokenizer` folder, and the adapter's file if asked."""
        checkpoint = Path(checkpoint)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        save_file(_plain(self.ldm_state()), checkpoint)
        checkpoint.with_suffix(".yaml").write_text(self.shape.ldm_yaml(str(Path(tokenizer).absolute())), encoding="utf-8")
        if adapter is not None:
            save_file(_plain(self.adapter_state()), adapter)

    @classmethod
    def load(cls, checkpoint: Path, adapter: Path | None = None) -> "Embedded":
        """Open a checkpoint that `save` or the extension's `expand` wrote; without its file the adapter is untrained."""
        description, tokenizer = read_description(checkpoint)
        model = cls(Shape.from_files(description, tokenizer))
        fill(checkpoint, model.unet, model.vae, model.text)
        if adapter is not None:
            filled(model.adapter, read_adapter(adapter)[1], adapter)
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
