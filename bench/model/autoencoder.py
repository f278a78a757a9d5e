"""The image autoencoder of SD1 in LDM's module tree and key names."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.model.shape import GROUPS, Shape


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, width, eps=1e-6)


class ResnetBlock(nn.Module):
    def __init__(self, inward: int, outward: int):
        super().__init__()
        self.norm1, self.conv1 = norm(inward), nn.Conv2d(inward, outward, 3, padding=1)
        self.norm2, self.conv2 = norm(outward), nn.Conv2d(outward, outward, 3, padding=1)
        self.nin_shortcut = None if inward == outward else nn.Conv2d(inward, outward, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttnBlock(nn.Module):
    """Attention over all cells with a single head; the 1x1 convolutions are applied as linear maps."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)
        q, k, v = (F.linear(tokens, m.weight.flatten(1), m.bias)[:, None] for m in (self.q, self.k, self.v))
        tokens = F.scaled_dot_product_attention(q, k, v)[:, 0]
        tokens = F.linear(tokens, self.proj_out.weight.flatten(1), self.proj_out.bias)
        return x + tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class Downsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # SD1 pads at the right and the bottom only


class Upsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution, and the change to the next one where there is one."""

    def __init__(self, widths: list[int], **resample: nn.Module):
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(a, b) for a, b in itertools.pairwise(widths))
        for name, module in resample.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        for name in ("downsample", "upsample"):
            if name in self._modules:
                x = self._modules[name](x)
        return x


class Middle(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = ResnetBlock(width, width), AttnBlock(width), ResnetBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        channels, width = shape.vae_channels, shape.vae_width
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList()
        for i, outward in enumerate(channels):
            resample = {"downsample": Downsample(outward)} if i < len(channels) - 1 else {}
            self.down.append(Level([width] + [outward] * shape.vae_blocks, **resample))
            width = outward
        self.mid = Middle(width)
        self.norm_out = norm(width)
        self.conv_out = nn.Conv2d(width, 2 * shape.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        channels, width = shape.vae_channels, shape.vae_channels[-1]
        self.conv_in = nn.Conv2d(shape.latent, width, 3, padding=1)
        self.mid = Middle(width)
        levels = []
        for i, outward in reversed(list(enumerate(channels))):
            resample = {"upsample": Upsample(outward)} if i else {}
            levels.insert(0, Level([width] + [outward] * (shape.vae_blocks + 1), **resample))
            width = outward
        self.up = nn.ModuleList(levels)  # numbered from fine to coarse, run the other way
        self.norm_out = norm(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class AutoencoderKL(nn.Module):
    """Images in [-1, 1] to latents and back. Latents here are raw: the scale factor is the caller's."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.encoder, self.decoder = Encoder(shape), Decoder(shape)
        self.quant_conv = nn.Conv2d(2 * shape.latent, 2 * shape.latent, 1)
        self.post_quant_conv = nn.Conv2d(shape.latent, shape.latent, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (bounded as LDM bounds it) of the latent."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction from a sampled latent, with the mean and log-variance: one training step's needs."""
        mean, logvar = self.encode(x)
        return self.decode(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)), mean, logvar
