"""Ten places, each told by one word, with small seeded differences; and the light that falls on everything."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch

from .batch import Batch
from .chance import Chance
from .raster import pixel_grid
from .words import BACKGROUND, LIGHT, LIGHT_RGB


@dataclass(frozen=True)
class Settings(Batch):
    """Where and in what light: `background` and `light` index the lists of `words`, `detail` varies the place, `shift` pans it."""

    background: torch.Tensor
    light: torch.Tensor
    detail: torch.Tensor  # (batch, 4)
    shift: torch.Tensor


def sample_settings(seeds: torch.Tensor, background: torch.Tensor | None = None, light: torch.Tensor | None = None) -> Settings:
    """Settings from integer seeds. Daylight is as common as the other lights together."""
    c = Chance(seeds, "setting")
    drawn = torch.where(c.flag("day", 0.5), 0, 1 + c.pick("light", len(LIGHT) - 1))
    return Settings(
        background=c.pick("background", len(BACKGROUND)) if background is None else background,
        light=drawn if light is None else light,
        detail=c("detail", 4),
        shift=torch.zeros(len(seeds), dtype=torch.float64, device=seeds.device),
    )


def _rgb(*value: int, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float32, device=like.device)[None, :, None, None] / 255


def _mix(where: torch.Tensor, inside: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
    return torch.lerp(outside, inside, where[:, None].to(outside.dtype))


def _lattice(x: torch.Tensor, y: torch.Tensor, salt: float) -> torch.Tensor:
    """A repeatable number in [0, 1) for each cell of an integer lattice."""
    value = torch.sin(x * 12.9898 + y * 78.233 + salt * 37.719) * 437.585
    return value - value.floor()


def _beach(x, y, d):
    shore = 0.52 + 0.1 * d[0]
    sky = _mix(y < 0.34 + 0.1 * d[0], _rgb(150, 212, 246, like=y), _rgb(34, 116, 190, like=y))
    return _mix(y > shore + 0.02 * torch.sin(x * 9 + 6 * d[1]), _rgb(236, 214, 154, like=y), sky)


def _city(x, y, d):
    column = (x * 5 + 3 * d[1]).floor()
    roof = 0.2 + 0.42 * _lattice(column, column * 0, 1.0)
    fx, fy = (x * 5 + 3 * d[1]) % 1, y * 9
    lit = (_lattice(column * 3 + (fx * 3).floor(), fy.floor(), 2.0) > 0.52) & ((fx * 3) % 1 > 0.4) & (fy % 1 > 0.4)
    tower = _mix(lit, _rgb(250, 214, 110, like=y), _rgb(46, 48, 72, like=y))
    return _mix(y > 0.8, _rgb(70, 72, 80, like=y), _mix(y > roof, tower, _rgb(20, 22, 52, like=y)))


def _wall(x, y, d):
    row = (y * 10).floor()
    fx, fy = (x * 5 + 0.5 * (row % 2) + d[1]) % 1, (y * 10) % 1
    return _mix((fx < 0.1) | (fy < 0.18), _rgb(206, 186, 168, like=y), _rgb(160, 80, 60, like=y))


def _meadow(x, y, d):
    ridge = 0.5 + 0.08 * d[0] + 0.05 * torch.sin(x * 5 + 6 * d[1])
    flower = _lattice((x * 14).floor(), (y * 14).floor(), 3.0) > 0.93
    grass = _mix(flower, _rgb(250, 240, 140, like=y), _rgb(96, 178, 74, like=y))
    return _mix(y > ridge, grass, _rgb(170, 222, 250, like=y))


def _snow(x, y, d):
    ground = 0.62 + 0.06 * d[0] + 0.04 * torch.sin(x * 4 + 6 * d[1])
    cx, cy = (x * 9).floor(), (y * 9).floor()
    fx, fy = x * 9 % 1 - 0.3 - 0.4 * _lattice(cx, cy, 5.0), y * 9 % 1 - 0.5
    flake = (fx * fx + fy * fy < 0.03) & (_lattice(cx, cy, 6.0) > 0.5)
    return _mix(y > ground, _rgb(246, 248, 252, like=y), _mix(flake, _rgb(250, 250, 252, like=y), _rgb(150, 168, 190, like=y)))


def _desert(x, y, d):
    far = 0.5 + 0.06 * d[0] + 0.07 * torch.sin(x * 4 + 6 * d[1])
    near = 0.68 + 0.06 * torch.sin(x * 3 + 6 * d[2])
    sun = (x - 0.15 - 0.7 * d[3]).square() + (y - 0.16).square() < 0.008
    sky = _mix(sun, _rgb(255, 244, 190, like=y), _rgb(250, 206, 140, like=y))
    return _mix(y > near, _rgb(206, 138, 70, like=y), _mix(y > far, _rgb(226, 164, 92, like=y), sky))


def _forest(x, y, d):
    position = x * 4 + 3 * d[1]
    trunk = ((position % 1) - 0.5).abs() < 0.12 + 0.06 * _lattice(position.floor(), position.floor() * 0, 7.0)
    wood = _mix(trunk, _rgb(74, 52, 36, like=y), _rgb(30, 78, 52, like=y))
    leaves = y < 0.22 + 0.05 * torch.sin(x * 14 + 6 * d[2])
    return _mix(y > 0.84, _rgb(58, 66, 34, like=y), _mix(leaves, _rgb(24, 104, 52, like=y), wood))


def _studio(x, y, d):
    level = 0.62 + 0.3 * (1 - y) + 0.06 * d[0] + 0 * x
    return level[:, None].expand(-1, 3, -1, -1)


def _sea(x, y, d):
    wave = torch.sin(2 * pi * (y * 6 + 0.2 * torch.sin(x * 7 + 6 * d[1]) + d[0])) > 0.55
    return _mix(wave, _rgb(52, 158, 180, like=y), _rgb(20, 122, 152, like=y))


def _room(x, y, d):
    paper = ((x * 6 + d[1]) % 1) < 0.5
    wall = _mix(paper, _rgb(226, 206, 222, like=y), _rgb(206, 180, 206, like=y))
    frame = ((x - 0.2 - 0.6 * d[2]).abs() < 0.13) & ((y - 0.24).abs() < 0.12)
    glass = ((x - 0.2 - 0.6 * d[2]).abs() < 0.1) & ((y - 0.24).abs() < 0.09)
    wall = _mix(glass, _rgb(186, 226, 240, like=y), _mix(frame, _rgb(120, 84, 60, like=y), wall))
    return _mix(y > 0.78, _rgb(150, 100, 66, like=y), wall)


_PLACES = dict(zip(BACKGROUND, (_beach, _city, _wall, _meadow, _snow, _desert, _forest, _studio, _sea, _room), strict=True))


def paint_background(settings: Settings, height: int, width: int) -> torch.Tensor:
    """The empty place, `(batch, 3, height, width)`, without light."""
    y, x = pixel_grid(height, width, settings.background.device)
    canvas = torch.empty(len(settings), 3, height, width, device=y.device)
    for number, name in enumerate(BACKGROUND):
        chosen = (settings.background == number).nonzero()[:, 0]
        if len(chosen):
            detail = settings.detail[chosen].float().T[:, :, None, None]
            shift = settings.shift[chosen].float()[:, None, None]
            xx, yy = (x[None] + shift).expand(-1, height, -1), y[None].expand(len(chosen), -1, width)
            canvas[chosen] = _PLACES[name](xx, yy, detail).clamp(0, 1).expand(-1, -1, height, width)
    return canvas


def light_up(image: torch.Tensor, settings: Settings) -> torch.Tensor:
    return (image * LIGHT_RGB.to(image)[settings.light][:, :, None, None]).clamp(0, 1)
