"""A learned character's file: one `.safetensors` with its word, its class, what it was learned on, and a small picture.

Files come from strangers. All that is read is bounded and checked, and nothing of a file is used unless all of it is right.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..core.pixels import AlignError
from ..decoding import decoded, recognised

KEY, FORMAT = "seal_character", 1
SUFFIX = ".safetensors"
LARGEST = {"tokens": 1 << 24, "lora": 1 << 30}  # bytes
MOST_HEADER = 1 << 22
MOST_TOLD = 1 << 20  # characters of metadata
MOST_STAGES, MOST_ENCODERS, WIDEST = 20, 2, 8192
SIDE = 128  # pixels of the small picture
MOST_PICTURE = 1 << 18  # characters of it in base64
WORD = re.compile(r"[\w-]{2,40}")  # what no prompt syntax of a WebUI splits or takes for its own
TEXTS = {"kind": 80, "licence": 200, "base": 64, "base_name": 200}
LORA_NAME = re.compile(r"lora_unet_\w{1,200}\.(lora_down\.weight|lora_up\.weight|alpha)")


class CharacterError(ValueError):
    """A file that cannot be used; its text is the sentence that the user reads."""


@dataclass(frozen=True, eq=False)
class Character:
    """Who was learned. `pairs`: of every text encoder (stages, 2, width), what keys and values see; or `lora`: weights beside the model's.

    `start`: the vectors of the class, with which learning began. `base`: the SHA-256 of the checkpoint it was learned on.
    """

    word: str
    kind: str
    base: str
    base_name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    picture: Image.Image | None = None
    pairs: tuple[Tensor, ...] = ()
    start: tuple[Tensor, ...] = ()
    lora: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def stages(self) -> int:
        return len(self.pairs[0]) if self.pairs else 0

    @property
    def tensors(self) -> dict[str, Tensor]:
        pairs = {f"pairs.{i}": tensor for i, tensor in enumerate(self.pairs)}
        return pairs | {f"start.{i}": tensor for i, tensor in enumerate(self.start)} | dict(self.lora)

    def of_strength(self, strength: float) -> tuple[Tensor, ...]:
        """The pairs, weaker or stronger: between the class's own vectors and the learned ones, or beyond."""
        return tuple(start + strength * (pairs - start) for start, pairs in zip(self.start, self.pairs, strict=True))

    def against(self, base: str) -> str | None:
        """What to say where it is used on another checkpoint; nothing where it was learned on this one."""
        if self.base == base:
            return None
        return f"“{self.word}” was learned on another checkpoint ({self.base_name or self.base[:10]}), so it may look different here."


def checked_word(word: str) -> str:
    if not WORD.fullmatch(word):
        raise CharacterError(f"The word {word[:40]!r} must be 2 to 40 letters, digits, hyphens or underscores, without a space.")
    return word


def hash_of(checkpoint: Path) -> str:
    """The checkpoint's SHA-256, as WebUIs know it."""
    with checkpoint.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


# ---- written


def write(character: Character, path: Path) -> Path:
    """All of it or nothing. A LoRA's file is one that WebUIs load by themselves."""
    checked_word(character.word)
    told = {"format": FORMAT, "word": character.word, "settings": dict(character.settings)}
    told |= {name: getattr(character, name) for name in TEXTS}
    if character.picture is not None:
        told["picture"] = _small(character.picture)
    metadata = {KEY: json.dumps(told, ensure_ascii=False, sort_keys=True)}
    if character.lora:  # what WebUIs show of a LoRA
        metadata |= {"ss_output_name": character.word, "ss_sd_model_hash": character.base[:10], "modelspec.license": character.licence}
    _save({name: x.float().contiguous() for name, x in character.tensors.items()}, path, metadata)
    return path


def write_embedding(character: Character, path: Path) -> Path:
    """The word as an ordinary textual-inversion embedding, for hosts without SeAl: one vector, the mean of all stages' values."""
    if not character.pairs:
        raise CharacterError("A LoRA is no word, so there is no embedding of it.")
    means = [pairs[:, 1].mean(0)[None].float().contiguous() for pairs in character.pairs]
    names = ("emb_params",) if len(means) == 1 else ("clip_l", "clip_g")
    _save(dict(zip(names, means, strict=True)), path, {})
    return path


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        save_file(tensors, unfinished, metadata=metadata or None)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _small(picture: Image.Image) -> str:
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


# ---- read


def read(path: Path) -> Character:
    """CharacterError, with a sentence, for any file that is not wholly right."""
    if path.suffix != SUFFIX:
        raise CharacterError(f"{path.name} is not a {SUFFIX} file.")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if size > LARGEST["lora"] or header > min(MOST_HEADER, size):
            raise CharacterError(f"{path.name} is too large for a character, or damaged.")
        with safe_open(path, "pt") as file:
            told = _told(file.metadata(), path.name)
            tensors = _tensors(file, size, path.name)
    except (OSError, SafetensorError) as error:
        raise CharacterError(f"{path.name} cannot be read, or is damaged.") from error
    return _character(told, tensors, path.name)


def _told(metadata: Mapping[str, str] | None, name: str) -> dict[str, Any]:
    text = (metadata or {}).get(KEY, "")
    if not text:
        raise CharacterError(f"{name} is not a character that SeAl learned.")
    try:
        told = json.loads(text) if len(text) <= MOST_TOLD else None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or not isinstance(told.get("settings", {}), dict):
        raise CharacterError(f"What {name} says of its character cannot be read.")
    if told.get("format") != FORMAT:
        raise CharacterError(f"{name} was written by another version of SeAl, which this one cannot read.")
    texts = {key: told.get(key, "") for key in TEXTS}
    if any(not isinstance(text, str) or len(text) > TEXTS[key] or not text.isprintable() for key, text in texts.items()):
        raise CharacterError(f"What {name} says of its character cannot be read.")
    if not isinstance(told.get("word"), str):
        raise CharacterError(f"{name} has no word for its character.")
    return told | texts


def _tensors(file: Any, size: int, name: str) -> dict[str, Tensor]:
    """Only such as belong in a character's file, in the sizes that they may have."""
    names = list(file.keys())
    lora = all(LORA_NAME.fullmatch(key) for key in names)
    known = {f"{part}.{i}" for part in ("pairs", "start") for i in range(MOST_ENCODERS)}
    fits = names and (lora or known.issuperset(names)) and (lora or size <= LARGEST["tokens"])
    shapes = {key: file.get_slice(key).get_shape() for key in names}
    if not fits or any(len(shape) > 3 or any(not 0 < side <= 2 * WIDEST for side in shape) for shape in shapes.values()):
        raise CharacterError(f"{name} holds something else than a character.")
    tensors = {key: file.get_tensor(key) for key in names}
    if not all(x.is_floating_point() and torch.isfinite(x.float()).all() for x in tensors.values()):
        raise CharacterError(f"{name} holds values that are no numbers.")
    return {key: x.float() for key, x in tensors.items()}


def _character(told: Mapping[str, Any], tensors: dict[str, Tensor], name: str) -> Character:
    word = checked_word(told["word"])
    facts = {key: told[key] for key in TEXTS} | {"word": word, "settings": told.get("settings", {}), "picture": _picture(told, name)}
    if "pairs.0" not in tensors:
        _check_lora(tensors, name)
        return Character(**facts, lora=tensors)
    count = sum(key.startswith("pairs.") for key in tensors)
    pairs, start = ([tensors.get(f"{part}.{i}", torch.empty(0)) for i in range(count)] for part in ("pairs", "start"))
    for own, begun in zip(pairs, start, strict=True):
        if own.ndim != 3 or own.shape[1] != 2 or begun.shape != own.shape[2:] or len(own) != len(pairs[0]) or len(own) > MOST_STAGES:
            raise CharacterError(f"{name} holds something else than a character.")
    return Character(**facts, pairs=tuple(pairs), start=tuple(start))


def _check_lora(tensors: Mapping[str, Tensor], name: str) -> None:
    parts = {key.partition(".")[0] for key in tensors}
    for part in parts:
        down, up, alpha = (tensors.get(f"{part}.{end}") for end in ("lora_down.weight", "lora_up.weight", "alpha"))
        if down is None or up is None or alpha is None or down.ndim != 2 or up.ndim != 2 or alpha.ndim or up.shape[1] != len(down):
            raise CharacterError(f"{name} holds something else than a character.")


def _picture(told: Mapping[str, Any], name: str) -> Image.Image | None:
    given = told.get("picture")
    if given is None:
        return None
    try:
        if not isinstance(given, str) or len(given) > MOST_PICTURE:
            raise AlignError("is too large.")
        found = recognised(given)
        if max(found.size) > SIDE:
            raise AlignError("is too large.")
        return Image.fromarray(decoded(found)).convert("RGB")
    except AlignError as error:
        raise CharacterError(f"The picture in {name} {error}") from error
