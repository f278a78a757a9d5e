"""The judge's network: a small U-Net that finds the parts, and readers that look at one part each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.world.anatomy import REGION
from bench.world.truth import ATTRIBUTE, SHOWN_ON

WIDTHS = (32, 64, 96, 128)
SHARP = 64
LOOK = 64  # channels that are pooled over a part
HIDDEN = 64
FAINT = 0.01  # squared colour differences below this are noise, not edges
VOTES = {name: len(ATTRIBUTE[name]) for name in SHOWN_ON}  # what every pixel of a part votes on, and how many words each has


class Block(nn.Module):
    """A residual block; it has no running statistics, so that averaged weights are the whole network."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


def edges(image: Tensor) -> Tensor:
    """Which way colours change and how much, whatever the colours: (batch, 3, H/2, W/2). A pattern is this; a network finds it slowly."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    x, y = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2], padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    xx, yy, xy = (F.avg_pool2d((a * b).sum(1, keepdim=True), 2) for a, b in ((x, x), (y, y), (x, y)))
    strength = xx + yy
    return torch.cat([torch.cat([xx - yy, 2 * xy], 1) / (strength + FAINT), strength.sqrt()], 1)


def _pool(features: Tensor, masks: Tensor) -> Tensor:
    """The mean feature of every part: (batch, part, channel)."""
    area = masks.flatten(2).sum(2, keepdim=True)
    return masks.flatten(2) @ features.flatten(2).transpose(1, 2) / (area + 1)


class Network(nn.Module):
    """From images (batch, 3, H, W) in [0, 1], sides a multiple of 16, to the logits of parts, of attributes, and of votes.

    parts (batch, part, H, W); attributes by name (batch, word); votes by name (batch, word, H/4, W/4): what each place thinks of its part.
    Votes teach the features what to look at, and their mean is the first thing a reader is told.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        self.widths = tuple(widths)
        fine, *_, coarse = self.widths
        self.stem = nn.Conv2d(15, fine, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(self.widths, self.widths[1:], strict=False))
        self.encode = nn.ModuleList(nn.Sequential(*(Block(w) for _ in range(1 if w == fine else 2))) for w in self.widths)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(self.widths, self.widths[1:], strict=False))
        self.decode = nn.ModuleList(Block(w) for w in self.widths[:-1])
        self.parts = nn.Conv2d(fine, len(REGION) * 4, 1)
        local = nn.Conv2d(fine + 15, SHARP, 3, padding=1)
        self.sharpen = nn.Sequential(local, Block(SHARP), nn.SiLU(), nn.Conv2d(SHARP, len(REGION) * 4, 1))
        self.look = nn.ModuleList([nn.Conv2d(fine + 12, LOOK, 1), nn.Conv2d(self.widths[1], LOOK, 1)])
        piece = 2 * LOOK + 1
        whole = 2 * coarse + piece  # the background tells the light, which every colour depends on
        self.votes = nn.Conv2d(self.widths[1], sum(VOTES.values()), 1)
        self.read = nn.ModuleDict()
        for name, words in ATTRIBUTE.items():
            told = whole + piece * len(SHOWN_ON.get(name, ())) + VOTES.get(name, 0)
            self.read[name] = nn.Sequential(nn.LayerNorm(told), nn.Linear(told, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, len(words)))

    def forward(self, image: Tensor, region: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The readers look where the network itself found the parts, or where a true part map (batch, H, W) says they are."""
        pixels = F.pixel_unshuffle(image * 4 - 2, 2)
        seen = torch.cat([pixels, edges(image)], 1)
        x, skips = seen, []
        for down, blocks in zip((self.stem, *self.down), self.encode, strict=True):
            x = blocks(down(x))
            skips.append(x)
        coarse = skips.pop()
        levels = []
        for skip, up, block in zip(reversed(skips), reversed(self.up), reversed(self.decode), strict=True):
            x = block(skip + F.interpolate(up(x), scale_factor=2.0, mode="nearest"))
            levels.append(x)
        # Outlines are drawn at full resolution, by the pixels themselves.
        parts = F.pixel_shuffle(self.parts(x) + self.sharpen(torch.cat([x, seen], 1)), 2).float()
        # Detached: the readers must not bend the outlines to suit themselves.
        shares = parts.detach().softmax(1) if region is None else F.one_hot(region, len(REGION)).permute(0, 3, 1, 2).float()
        masks = F.avg_pool2d(shares, 2)
        half = F.avg_pool2d(masks, 2)
        fine = F.silu(self.look[0](torch.cat([x, pixels], 1))).float()
        middle = F.silu(self.look[1](levels[-2])).float()
        area = masks.mean((2, 3))[..., None].sqrt()
        pieces = torch.cat([_pool(fine, masks), _pool(middle, half), area], 2)
        whole = torch.cat([coarse.float().mean((2, 3)), coarse.float().amax((2, 3)), pieces[:, 0]], 1)
        votes = dict(zip(VOTES, self.votes(levels[-2]).float().split(list(VOTES.values()), 1), strict=True))
        answers = {}
        for name, reader in self.read.items():
            told = [whole]
            if name in votes:
                columns = [REGION.index(region) for region in SHOWN_ON[name]]
                told += [pieces[:, columns].flatten(1), _pool(votes[name], half[:, columns].sum(1, keepdim=True))[:, 0]]
            answers[name] = reader(torch.cat(told, 1)).float()
        return parts, answers, votes
