"""What a reading of a reference depends on, and short texts that tell contents apart."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class AppearanceKey:
    """All that a reference pass depends on, and nothing else: not the image seed, the prompt or the batch."""

    weights: str  # the checkpoint's fingerprint
    vae: str
    loras: tuple[tuple[str, float], ...]
    pixels: str
    mask: str
    prompt: str  # c_app, as the text encoder's options and embeddings make it
    size: tuple[int, int]  # of the latent
    timesteps: tuple[float, ...]
    layers: tuple[str, ...]
    holds: str  # what of a layer is kept, and how
    noise: str = "clean"  # or the noise's seed


def fingerprint(*parts: object) -> str:
    """A short text for any pixels, masks, embeddings, names and numbers: the same for the same content."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            part = (part.float() if part.is_floating_point() else part).detach().cpu().numpy()
        if isinstance(part, np.ndarray):
            what, content = f"{part.dtype} {part.shape}", np.ascontiguousarray(part).tobytes()
        else:
            what, content = type(part).__name__, part if isinstance(part, bytes) else repr(part).encode()
        digest.update(f"{what} {len(content)} ".encode() + content)
    return digest.hexdigest()
