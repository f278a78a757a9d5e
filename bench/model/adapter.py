"""T2I-Adapter: four features from a hint image, in the key layout of the original and of the ControlNet extension.

That extension infers everything from the file: `conv_in.weight` gives 8*8*3 = 192 input channels and the first
width c (the others are 2c, 4c, 4c), `body.0.block2.weight` the kernel 1, and no `down_opt.op.weight` says that
resolution is halved by averaging.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from bench.model.shape import Shape

PATCH = 8  # pixels per latent cell
BLOCKS = 2  # per level


class Block(nn.Module):
    def __init__(self, inward: int, outward: int, down: bool):
        super().__init__()
        self.down = down
        self.in_conv = None if inward == outward else nn.Conv2d(inward, outward, 1)
        self.block1 = nn.Conv2d(outward, outward, 3, padding=1)
        self.block2 = nn.Conv2d(outward, outward, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.down:
            x = F.avg_pool2d(x, 2)
        if self.in_conv is not None:
            x = self.in_conv(x)
        return x + self.block2(F.relu(self.block1(x)))


class Adapter(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        c = shape.width
        if shape.channels != (c, 2 * c, 4 * c, 4 * c):
            raise ValueError(f"an adapter's widths are c, 2c, 4c, 4c; the U-Net has {shape.channels}")
        self.shape = shape
        self.conv_in = nn.Conv2d(3 * PATCH * PATCH, c, 3, padding=1)
        self.body = nn.ModuleList()
        width = c
        for level, channels in enumerate(shape.channels):
            for i in range(BLOCKS):
                self.body.append(Block(width, channels, down=level > 0 and i == 0))
                width = channels

    def forward(self, hint: Tensor) -> list[Tensor]:
        """Features for each U-Net level from a hint in [0, 1], [B, 3, H, W]."""
        x, features = self.conv_in(F.pixel_unshuffle(hint, PATCH)), []
        for i, block in enumerate(self.body):
            x = block(x)
            if i % BLOCKS == BLOCKS - 1:
                features.append(x)
        return features
