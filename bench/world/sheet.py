"""Pictures on one sheet, and the sheet in a file."""

from __future__ import annotations

from pathlib import Path

import cv2
import torch


def grid(rows: list[torch.Tensor]) -> torch.Tensor:
    """Rows of pictures `(count, 3, height, width)`, equally long, as one picture `(3, height, width)`."""
    return torch.cat([row.permute(1, 2, 0, 3).flatten(2) for row in rows], 1)


def to_bytes(picture: torch.Tensor) -> torch.Tensor:
    """`(3, height, width)` in [0, 1] as 8-bit `(height, width, 3)`."""
    return (picture.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def save_png(picture: torch.Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", to_bytes(picture).numpy()[..., ::-1])
    if not done:
        raise OSError(f"could not encode {path.name}")
    path.write_bytes(data.tobytes())
