"""Where the U-Net itself sees the subject: how much its cross-attention looks at the subject's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor

from .matching import token_grid
from .pixels import AlignError, Pixels

NO_WORDS = "SeAl needs words to ask the model for. Begin the prompt, or the reference prompt, with the character."
COARSEST = 4  # tokens a side; coarser layers cannot tell places apart
OPENING = re.compile(r"^(an? )?(picture|photo|photograph|drawing|illustration|painting|image|character art|portrait) of ", re.IGNORECASE)
# Words of which those parts of a prompt are made that praise the picture before others say what it shows.
PRAISE = {
    "masterpiece", "best", "top", "good", "great", "amazing", "perfect", "high", "highest", "higher", "highly", "ultra", "very",
    "extremely", "super", "quality", "detail", "details", "detailed", "res", "resolution", "highres", "absurdres", "hd", "uhd",
    "hdr", "4k", "8k", "16k", "realistic", "photorealistic", "hyperrealistic", "sharp", "focus", "aesthetic", "awesome", "newest",
    "raw", "photo", "wallpaper", "official", "art", "score_9", "score_8_up", "score_7_up", "score_6_up", "score_5_up",
    "score_4_up",
}  # fmt: skip


def subject_words(prompt: str, words: str | None = None) -> str:
    """The words given, or else what the prompt begins with: `a woman with red hair` of `a photo of a woman with red hair, running`."""
    parts = prompt.replace("\n", ",").split(",")
    first = next((part for part in parts if not PRAISE.issuperset(re.findall(r"\w+", part.lower()))), "")
    found = (words or OPENING.sub("", first.strip())).strip()
    if not found:
        raise AlignError(NO_WORDS)
    return found


def asked(prompt: str, words: str | None, tokens: Callable[[str], Sequence[int]]) -> tuple[str, list[int]]:
    """The text that the U-Net is shown, and where the subject's words stand in it.

    `tokens`: those of a text, with one that starts it and one that ends it; none where nobody knows. That is the prompt, which tells the
    subject from what else there is. Where its words do not stand in it, they are shown alone; without tokens, all positions count.
    """
    words = subject_words(prompt, words)
    encoded = list(tokens(words))
    spoken = encoded[1 : encoded.index(encoded[-1])] if encoded else []
    if spoken and words.lower() in prompt.lower():
        with suppress(AlignError):
            return prompt, places(tokens(prompt), spoken)
    return words, list(range(1, 1 + len(spoken)))


def places(prompt: Sequence[int], words: Sequence[int]) -> list[int]:
    """At which positions of an encoded prompt these tokens stand."""
    for start in range(1, len(prompt) - len(words)):
        if words and list(prompt[start : start + len(words)]) == list(words):
            return list(range(start, start + len(words)))
    raise AlignError("The subject's words are not in the prompt, so attention cannot find them.")


def attention_on(q: Tensor, k: Tensor, positions: Sequence[int]) -> Tensor:
    """How much of its attention every token of the first row gives to these positions, in all heads: (tokens,).

    q: (rows, heads, tokens, dim), k: (rows, heads, positions, dim). Without positions: to all but the first, which only starts a text.
    """
    weights = (q[:1].float() @ k[:1].float().transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    wanted: Tensor = weights[0, :, :, list(positions) or slice(1, None)]
    return wanted.mean((0, 2))


def heat(seen: Iterable[Tensor], latent: tuple[int, int]) -> Tensor:
    """All layers together on the latent's grid: each counts the same, whatever its resolution and its strength."""
    total = torch.zeros(latent)
    for weights in seen:
        grid = token_grid(len(weights), *latent)
        if grid is None or min(grid) < COARSEST:
            continue
        layer = weights.cpu().reshape(grid)
        total += widened((layer - layer.amin()) / (layer.amax() - layer.amin()).clamp(min=1e-8), latent)
    return total


def widened(seen: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (rows, columns) in another size."""
    found: Tensor = F.interpolate(seen[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    return found


def on_picture(heat: Tensor, inside: Tensor) -> Pixels:
    """Without the bars that were added beside a picture of another shape."""
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    full = widened(heat, (inside.shape[0], inside.shape[1]))
    found: Pixels = full[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].numpy()
    return found
