"""What a run is told of its references and rows, and asks of the program that it runs in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from seal_ext.core.guide import NOTHING_KNOWN, Known

UNCONDITIONAL, CONDITIONAL, APPEARANCE = "unconditional", "conditional", "appearance"


@dataclass(frozen=True)
class Encoded:
    """A reference as the U-Net takes it, and where on it the subject is."""

    latent: Tensor  # (1, channels, height, width), scaled as the U-Net expects
    mask: Tensor | None = None  # (height, width) of any size, true or 1 on the subject
    weight: float = 1.0
    known: Known = NOTHING_KNOWN  # where the subject's joints are, or how far it reaches, on the canvas


@dataclass(frozen=True)
class Row:
    """A row of the U-Net's batch: what it is conditioned on, and which of the run's images it belongs to."""

    kind: str
    image: int


class Host(Protocol):
    """What a run needs of the program it runs in."""

    def signal(self, t: float) -> tuple[float, float]:
        """α and σ of the U-Net's input z = α·x₀ + σ·ε at a timestep."""

    def read(self, latent: Tensor, t: float, image: int) -> None:
        """Run the clean U-Net on a reference of an image, with c_app."""

    def tell(self, done: int, total: int) -> None:
        """Show how far the reading is; may raise to stop the run."""
