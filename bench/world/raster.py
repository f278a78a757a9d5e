"""From parts to pixels: which part shows where, and at which point of its surface."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .anatomy import Parts
from .batch import Batch


@dataclass(frozen=True)
class Surface(Batch):
    """Per pixel `(batch, height, width)`: the painted slot (-1: none) and the surface point (u, v) in body lengths."""

    slot: torch.Tensor
    u: torch.Tensor
    v: torch.Tensor
    across: torch.Tensor  # -1 … 1 from one outline of the part to the other

    def gather(self, table: torch.Tensor) -> torch.Tensor:
        """A per-part table `(batch, slot)` looked up for every pixel (slot 0 where there is no subject)."""
        index = self.slot.clamp(min=0).flatten(1).long()
        return table.gather(1, index).reshape(self.slot.shape)


def pixel_grid(height: int, width: int, device=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel centres in frame coordinates: heights, so that a wider frame is longer than 1."""
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / height
    return y[:, None], x[None, :]


def rasterise(parts: Parts, height: int, width: int) -> Surface:
    """Painter's algorithm over slots. Only the winner's number is kept; its coordinates are computed once, afterwards."""
    y, x = pixel_grid(height, width, parts.a.device)
    batch, slots = parts.ra.shape
    slot = torch.full((batch, height, width), -1, dtype=torch.int8, device=y.device)
    ax, ay = (t.float() for t in parts.a.unbind(-1))
    dx, dy = (t.float() for t in (parts.b - parts.a).unbind(-1))
    squared = (dx * dx + dy * dy).clamp(min=1e-9)
    kx, ky, k0 = dx / squared, dy / squared, -(ax * dx + ay * dy) / squared
    ra, dr = parts.ra.float(), (parts.rb - parts.ra).float()
    # Clips are in body lengths; along the projected axis one body length is 1 / length3.
    length3 = parts.length3.float().clamp(min=1e-6)
    clip0, clip1 = parts.clip0.float() / length3, parts.clip1.float() / length3

    def column(value, s):
        return value[:, s, None, None]

    # On a GPU whole frames are cheapest; on a CPU a part's own window is a tenth of the work.
    if y.is_cuda:
        windows = [[(slice(None), slice(None), slice(None))] for _ in range(slots)]
    else:
        windows = _windows(parts, height, width)
    for s in range(slots):
        for rows, ys, xs in windows[s]:
            yy, xx = y[ys], x[:, xs]
            t = column(kx, s)[rows] * xx + column(ky, s)[rows] * yy + column(k0, s)[rows]
            q = t.clamp(0, 1)
            ex = xx - column(ax, s)[rows] - q * column(dx, s)[rows]
            ey = yy - column(ay, s)[rows] - q * column(dy, s)[rows]
            r = column(ra, s)[rows] + q * column(dr, s)[rows]
            inside = (ex * ex + ey * ey < r * r) & (t > column(clip0, s)[rows]) & (t < column(clip1, s)[rows]) & (r > 0)
            slot[rows, ys, xs].masked_fill_(inside, s)
    found = Surface(slot, *(torch.zeros(0, device=y.device),) * 3)

    def look(table):
        return found.gather(table)

    t = look(kx) * x + look(ky) * y + look(k0)
    q = t.clamp(0, 1)
    r = (look(ra) + q * look(dr)).clamp(min=1e-4)
    length = squared.sqrt()
    side = ((x - look(ax)) * look(dy / length) - (y - look(ay)) * look(dx / length)) / r
    # A part seen end on has an axis of no length; its sideways is then the picture's.
    across = side.clamp(-1, 1)
    longitude = torch.asin(across * 0.999) - look(parts.turn.float())
    u = longitude * look((parts.radius3 * parts.flip).float())
    v = t * look(length3)
    return Surface(slot, u, v, across)


def _windows(parts: Parts, height: int, width: int) -> list[list[tuple]]:
    """For each slot, one picture at a time, the rows and columns that its part can touch."""
    reach = torch.maximum(parts.ra, parts.rb)[..., None].float()
    low = (torch.minimum(parts.a, parts.b).float() - reach) * height
    high = (torch.maximum(parts.a, parts.b).float() + reach) * height + 1
    limit = torch.tensor([width, height])
    low = low.floor().long().clamp(min=0).minimum(limit)
    high = high.ceil().long().clamp(min=0).minimum(limit)
    boxes = torch.cat([low, high], -1).tolist()
    alive = (parts.ra > 0).tolist()
    batch, slots = parts.ra.shape
    result = [[] for _ in range(slots)]
    for s in range(slots):
        for n in range(batch):
            x0, y0, x1, y1 = boxes[n][s]
            if alive[n][s] and x1 > x0 and y1 > y0:
                result[s].append((slice(n, n + 1), slice(y0, y1), slice(x0, x1)))
    return result
