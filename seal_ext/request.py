"""What a user asks for, from the page or the API: settings and pictures. Every refusal is one sentence that names the field."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .core.cache import fingerprint
from .core.masks import AlignError, Subject, from_alpha, from_control_map, from_drawn, from_rembg, has_rembg, subject_of
from .settings import TABLE, Settings, SettingsError

PICTURES = ("reference", "mask")
# The positional form: the switch first, since a client that sends an object sends it there, then pictures, then the table, and last
# what an object has in `reference` itself: the page's further pictures of the character.
NAMES = ("enabled", *PICTURES, *(setting.name for setting in TABLE if setting.name != "enabled"), "more")
MOST_REFERENCES = 8
MOST_PIXELS = 1 << 26
MOST_TEXT = 1 << 27  # characters of a picture in base64
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # of files that come as text; some of the others start programs to be read
REFERENCE_KEY = "SeAl reference"


@dataclass(frozen=True, eq=False)
class Asked:
    """A picture of the character as it was given, RGB bytes (height, width, 3); its alpha and what was drawn on it, if anything."""

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    drawn: np.ndarray | None = None  # bool, (height, width)

    @property
    def hash(self) -> str:
        """Tells pictures apart, not files: the same for the same content."""
        parts = [self.rgb] + [part for part in (self.alpha, self.drawn) if part is not None]
        return fingerprint(*parts)[:16]

    def picture(self) -> Image.Image:
        return Image.fromarray(self.rgb if self.alpha is None else np.dstack([self.rgb, self.alpha]))

    def drawing(self) -> Image.Image | None:
        """What was drawn on it, white on black."""
        return None if self.drawn is None else Image.fromarray(self.drawn.astype(np.uint8) * 255)


@dataclass(frozen=True, eq=False)
class Request:
    settings: Settings
    references: tuple[Asked, ...] = ()


def schema() -> dict[str, object]:
    """The object that `parse` takes, as JSON schema: pictures and settings."""
    made = Settings.schema()
    picture = {"type": "string", "contentEncoding": "base64"}
    either = {"anyOf": [picture, {"type": "array", "items": picture, "minItems": 1, "maxItems": MOST_REFERENCES}]}
    pictures = {
        "reference": {"title": "Reference", "description": "A picture of the character, or several, in base64.", **either},
        "mask": {"title": "Mask", "description": "Bright where the character is: a picture for each reference, in base64.", **either},
    }
    enabled = made["properties"]["enabled"] | {"default": True}  # whoever sends an object means it
    made["properties"] = pictures | made["properties"] | {"enabled": enabled}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "SeAl", **made, "required": ["reference"]}


def parse(args: Sequence[object]) -> Request:
    """From a script's arguments: one object in the first place, or values in the order of NAMES; SettingsError for anything else."""
    first = args[0] if args else False
    if first is False:  # the page with SeAl switched off: whatever else stands there is no matter
        return Request(Settings())
    if isinstance(first, Mapping):
        values = {"enabled": True, **first}  # whoever sends an object means it
    else:
        values = dict(zip(NAMES, args, strict=False))
    given = {name: values.pop(name, None) for name in PICTURES}
    more = None if isinstance(first, Mapping) else values.pop("more", None)
    settings = Settings.parse(values)
    if not settings.enabled:
        return Request(settings)
    references, further = _references(given["reference"]), _references(more)
    if not references + further:
        raise SettingsError("reference", "Reference (reference) is missing: give a picture of the character.")
    masks = _several(given["mask"], "mask")
    if masks and len(masks) != len(references):
        raise SettingsError("mask", f"Mask (mask): {len(masks)} came for {len(references)} reference pictures; give one for each, or none.")
    if masks:
        pairs = zip(references, (opened(mask, "Mask (mask)", "mask") for mask in masks), strict=True)
        references = tuple(replace(reference, drawn=_bright(mask, reference.rgb.shape[:2])) for reference, mask in pairs)
    return Request(settings, _at_most(references + further))


def _references(given: object) -> tuple[Asked, ...]:
    return tuple(taken(one) for one in _at_most(_several(given, "reference")))


def _at_most(several: Sequence) -> Sequence:
    if len(several) > MOST_REFERENCES:
        raise SettingsError("reference", f"Reference (reference) is at most {MOST_REFERENCES} pictures, not {len(several)}.")
    return several


def _several(given: object, name: str) -> list[object]:
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    nothing = [one is None or (isinstance(one, str) and not one) for one in several]
    if len(several) > 1 and any(nothing):
        raise SettingsError(name, f"{name.capitalize()} ({name}) has an empty place in its list.")
    return [] if all(nothing) else several


def taken(given: object) -> Asked:
    """A picture, or the page's {image, mask} with what the brush painted."""
    painted = None
    if isinstance(given, Mapping) and "image" in given:
        given, painted = given["image"], given.get("mask")
    array = opened(given, "Reference (reference)", "reference")
    if min(array.shape[:2]) < 16:
        raise SettingsError("reference", "Reference (reference) is smaller than 16 pixels a side.")
    alpha = array[..., 3] if array[..., 3].min() < 255 else None
    drawn = None if painted is None else _bright(opened(painted, "Reference (reference)", "reference"), array.shape[:2])
    return Asked(np.ascontiguousarray(array[..., :3]), alpha, drawn if drawn is not None and drawn.any() else None)


def opened(given: object, label: str, name: str) -> np.ndarray:
    """RGBA bytes of a PIL image, an array, or base64 text; nothing is ever fetched or read from a path."""
    try:
        if isinstance(given, str):
            text = given.split(",", 1)[1] if given.startswith("data:") and "," in given[:100] else given
            if len(text) > MOST_TEXT:
                raise SettingsError(name, f"{label} is more than {MOST_TEXT * 3 >> 22} megabytes.")
            given = Image.open(io.BytesIO(base64.b64decode("".join(text.split()), validate=True)), formats=FORMATS)
        elif isinstance(given, np.ndarray):
            given = Image.fromarray(given)
        if not isinstance(given, Image.Image):
            raise SettingsError(name, f"{label} is a picture in base64, not a {type(given).__name__}.")
        if given.width * given.height > MOST_PIXELS:
            raise SettingsError(name, f"{label} is larger than {MOST_PIXELS >> 20} megapixels.")
        return np.asarray(given.convert("RGBA"))
    except SettingsError:
        raise
    except Exception as error:  # a decoder may raise anything on somebody's bytes
        raise SettingsError(name, f"{label} does not read as a picture in base64.") from error


def _bright(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where a mask is bright and not transparent, at a picture's size."""
    inside = Image.fromarray(((mask[..., :3].max(2) > 127) & (mask[..., 3] > 127)).astype(np.uint8) * 255)
    return np.asarray(inside.resize(size[::-1], Image.Resampling.NEAREST)) > 127


def subject(asked: Asked, source: str) -> tuple[Subject | None, tuple[str, ...]]:
    """Where the character is on its picture, and what there is to say about it; None: the whole picture."""
    try:
        return _subject(asked, source), ()
    except AlignError as error:
        if source not in ("auto", "whole"):
            raise SettingsError("mask_source", f"Mask (mask_source) `{source}`: {error}") from error
        return None, (f"The reference's subject was not found, so all of the picture counts: {error}",)


def _subject(asked: Asked, source: str) -> Subject | None:
    rgb = asked.rgb
    rgba = None if asked.alpha is None else np.dstack([rgb, asked.alpha])
    if source == "whole":
        return None
    if source == "drawn" or (source == "auto" and asked.drawn is not None):
        if asked.drawn is None:
            raise AlignError("nothing was drawn.")
        return from_drawn(asked.drawn.astype(np.uint8) * 255)
    if source == "alpha" or (source == "auto" and rgba is not None and asked.alpha.min() <= 127):
        if rgba is None:
            raise AlignError("the reference has no alpha channel.")
        return from_alpha(rgba)
    if source == "rembg" or (source == "auto" and has_rembg()):
        return from_rembg(rgb)
    if source == "attention":
        raise AlignError("this is not available here; draw a mask or give the picture an alpha channel.")
    return _before_background(rgb, source)


def _before_background(rgb: np.ndarray, source: str) -> Subject:
    # Not as a control map's body: a picture's colours may look like joints.
    found = from_control_map(rgb, "render")
    if source == "auto" and (any("no even background" in reason for reason in found.reasons) or not 0.02 < found.mask.mean() < 0.9):
        raise AlignError("its background is not even; draw a mask, or give it an alpha channel.")
    return found


def whole(asked: Asked) -> Subject:
    """All of a picture as its subject, for aligning."""
    return subject_of(np.ones(asked.rgb.shape[:2], bool), "whole")
