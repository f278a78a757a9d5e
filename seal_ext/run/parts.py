"""What a run is told of a U-Net and asks of the program that it runs in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from seal_ext.core.limbs import Body

UNCONDITIONAL, CONDITIONAL, APPEARANCE = "unconditional", "conditional", "appearance"


@dataclass(frozen=True)
class Site:
    """An attention layer: layer `index` of a part of the U-Net, counted as the U-Net runs them."""

    name: str
    part: str  # down, mid or up
    index: int
    kind: str = "self"  # or cross


@dataclass(frozen=True)
class Encoded:
    """A reference as the U-Net takes it, and where on it the subject is."""

    latent: Tensor  # (1, channels, height, width), scaled as the U-Net expects
    mask: Tensor | None = None  # (height, width) of any size, true or 1 on the subject
    weight: float = 1.0
    body: Body | None = None  # its joints, in shares of the canvas, when they are known


@dataclass(frozen=True)
class Row:
    """A row of the U-Net's batch: what it is conditioned on, and which of the run's images it belongs to."""

    kind: str
    image: int


class AttentionCall(Protocol):
    """A call of an attention layer."""

    hidden: Tensor  # (rows, tokens, channels)

    @property
    def site(self) -> Site: ...

    @property
    def is_plain(self) -> bool:
        """Whether the host's own attention is all that happens there: then it may be computed in its place."""

    def q(self) -> Tensor: ...

    def kv(self) -> tuple[Tensor, Tensor]: ...

    def own(self) -> Tensor:
        """What the layer does without SeAl, with all that others changed of it."""

    def clean(self) -> Tensor:
        """What it does without anybody."""

    def project(self, x: Tensor) -> Tensor:
        """The output projection of (rows, tokens, channels)."""

    def out(self, x: Tensor) -> Tensor:
        """The layer's result of heads (rows, heads, tokens, dim)."""


Answer = Callable[[Any], Tensor]


class Layers(Protocol):
    """The attention layers of a U-Net, patched."""

    @property
    def sites(self) -> Mapping[Site, Any]: ...

    def answering(self, answer: Answer | None) -> AbstractContextManager[None]:
        """Who answers their calls."""


class Host(Protocol):
    """What a run needs of the program it runs in."""

    def signal(self, t: float) -> tuple[float, float]:
        """α and σ of the U-Net's input z = α·x₀ + σ·ε at a timestep."""

    def read(self, latent: Tensor, t: float, image: int) -> None:
        """Run the clean U-Net on a reference of an image, with c_app."""

    def tell(self, done: int, total: int) -> None:
        """Show how far the reading is; may raise to stop the run."""
