"""SD1's U-Net in LDM's module tree and key names, written for speed on CPU and GPU.

The module tree exists for the names: `input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight` and its kin
must be LDM's, so that one file serves A1111, diffusers and our training.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.model.shape import GROUPS, Shape


def zeroed(module: nn.Module) -> nn.Module:
    """Start a branch as nothing, as LDM does for the last layer of every residual branch."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def timestep_embedding(t: Tensor, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Cosines, then sines, of geometrically spaced frequencies."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(10000.0) / half))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(dtype)


class ResBlock(nn.Module):
    def __init__(self, inward: int, outward: int, time: int):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, inward), nn.SiLU(), nn.Conv2d(inward, outward, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, outward))
        # The identity stands where LDM has its dropout: the convolution's index is part of its name.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, outward), nn.SiLU(), nn.Identity(), zeroed(nn.Conv2d(outward, outward, 3, padding=1))
        )
        self.skip_connection = nn.Identity() if inward == outward else nn.Conv2d(inward, outward, 1)

    def forward(self, x: Tensor, activated_time: Tensor, context: Tensor) -> Tensor:
        # The time embedding arrives with its SiLU applied: it is the same for all blocks.
        h = self.in_layers(x) + self.emb_layers[1](activated_time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    def __init__(self, width: int, context: int, head: int):
        super().__init__()
        self.heads = width // head
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Identity())

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = self.split(self.to_q(x)), self.split(self.to_k(context)), self.split(self.to_v(context))
        return self.to_out(attend(q, k, v).transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, (batch, heads, tokens, dim). Torch's fused kernel, but for bfloat16 training on a CPU: there its
    backward pass costs three times the plain products."""
    if q.is_cuda or q.dtype != torch.bfloat16 or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast(q.device.type, enabled=False):
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v


class GEGLU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, width * 4), nn.Identity(), nn.Linear(width * 4, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, width: int, context: int, head: int):
        super().__init__()
        self.attn1 = Attention(width, width, head)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, context, head)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, width: int, context: int, head: int):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context, head)])
        self.proj_out = zeroed(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor, activated_time: Tensor, context: Tensor) -> Tensor:
        # In channels_last both rearrangements are views, and a 1x1 convolution is a linear map of the cells.
        tokens = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)
        tokens = F.linear(tokens, self.proj_in.weight.flatten(1), self.proj_in.bias)
        tokens = self.transformer_blocks[0](tokens, context)
        tokens = F.linear(tokens, self.proj_out.weight.flatten(1), self.proj_out.bias)
        return x + tokens.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class Downsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, activated_time: Tensor, context: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, activated_time: Tensor, context: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stem(nn.Conv2d):
    """The first convolution, with the signature its neighbours have."""

    def forward(self, x: Tensor, activated_time: Tensor, context: Tensor) -> Tensor:
        return super().forward(x)


class Block(nn.Sequential):
    """One numbered block: a residual block with what follows it on the same level."""

    def forward(self, x: Tensor, activated_time: Tensor, context: Tensor) -> Tensor:
        for module in self:
            x = module(x, activated_time, context)
        return x


class UNet(nn.Module):
    """Predicts the noise in a latent: 12 input blocks, a middle and 12 output blocks for SD1's multipliers."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        time, levels = shape.width * 4, len(shape.channels)
        self.time_embed = nn.Sequential(nn.Linear(shape.width, time), nn.SiLU(), nn.Linear(time, time))

        width = shape.width
        self.input_blocks = nn.ModuleList([Block(Stem(shape.latent, width, 3, padding=1))])
        kept = [width]  # widths of the features that wait for the way up
        for level, (channels, attends) in enumerate(zip(shape.channels, shape.attention_levels, strict=True)):
            for _ in range(shape.blocks):
                self.input_blocks.append(self._block(width, channels, attends))
                width = channels
                kept.append(width)
            if level < levels - 1:
                self.input_blocks.append(Block(Downsample(width)))
                kept.append(width)

        self.middle_block = Block(
            ResBlock(width, width, time), SpatialTransformer(width, shape.context, shape.head), ResBlock(width, width, time)
        )

        self.output_blocks = nn.ModuleList()
        for level, (channels, attends) in reversed(list(enumerate(zip(shape.channels, shape.attention_levels, strict=True)))):
            for i in range(shape.blocks + 1):
                block = self._block(width + kept.pop(), channels, attends)
                width = channels
                if level and i == shape.blocks:
                    block.append(Upsample(width))
                self.output_blocks.append(block)

        self.out = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), zeroed(nn.Conv2d(width, shape.latent, 3, padding=1)))

    def _block(self, inward: int, outward: int, attends: bool) -> Block:
        block = Block(ResBlock(inward, outward, self.shape.width * 4))
        if attends:
            block.append(SpatialTransformer(outward, self.shape.context, self.shape.head))
        return block

    def forward(self, x: Tensor, t: Tensor, context: Tensor, adapter: list[Tensor] | None = None) -> Tensor:
        """The noise in `x` at steps `t`; `adapter` holds one feature per level, added where the level ends.

        The features join the main path and so also the skip connection, after input blocks 2, 5, 8 and 11.
        """
        time = self.time_embed(timestep_embedding(t, self.shape.width, x.dtype))
        time = F.silu(time)
        per_level = self.shape.blocks + 1
        h, kept = x, []
        for i, block in enumerate(self.input_blocks):
            h = block(h, time, context)
            if adapter is not None and i % per_level == per_level - 1:
                h = h + adapter[i // per_level]
            kept.append(h)
        h = self.middle_block(h, time, context)
        for block in self.output_blocks:
            h = block(torch.cat([h, kept.pop()], dim=1), time, context)
        return self.out(h)
