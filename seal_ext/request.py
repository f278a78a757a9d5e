"""What a user asks for, from the page or the API: settings and pictures. Every refusal is one sentence that names the field."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from . import rembg
from .core.pixels import AlignError
from .reference import POSE_TEXT, Reference, drawn_on, pose_of
from .settings import Settings, SettingsError

# With their labels. What is not the reference itself is one for each reference, or none.
PICTURES = {"reference": "Reference", "mask": "Mask", "reference_pose": "Reference's pose"}
# The positional form, which clients rely on: it keeps this order, and a new name comes last. The switch is first, since a client that sends
# an object sends it there; `more` is what an object has in `reference` itself: the page's further pictures of the character.
NAMES = (
    "enabled", "reference", "mask", "reference_pose", "preset", "strength", "appearance_prompt", "infusion", "start", "end", "feature",
    "threshold", "tau_early", "tau_late", "delta_early", "delta_late", "shape", "clamp", "rivals", "on_figure", "room", "limbs",
    "softness", "top_k", "form", "blocks", "uncond_rows", "hires", "hires_factor", "inner", "noise", "seed_policy", "t_app", "cache_mb",
    "bridge", "lam", "lam_start", "lam_end", "lam_shape", "filter", "radius", "repeats", "gate", "gate_strength", "gate_low", "gate_high",
    "align", "anchor", "units", "alike", "margin", "hand_x", "hand_y", "hand_scale", "mask_source", "show_aligned", "show_match",
    "show_disagreement", "show_mask", "more", "cache_place"
)  # fmt: skip
MOST_REFERENCES = 8
MOST_PIXELS = 1 << 26
MOST_TEXT = 1 << 27  # characters of a picture in base64
Given = TypeVar("Given", bound=Sequence[Any])
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # of files that come as text; some of the others start programs to be read
REFERENCE_KEY = "SeAl reference"


@dataclass(frozen=True, eq=False)
class Request:
    settings: Settings
    references: tuple[Reference, ...] = ()


def schema() -> dict[str, object]:
    """The object that `parse` takes, as JSON schema: pictures and settings."""
    made = Settings.schema()
    picture = {"type": "string", "contentEncoding": "base64"}
    either = {"anyOf": [picture, {"type": "array", "items": picture, "minItems": 1, "maxItems": MOST_REFERENCES}]}
    told = {
        "reference": "A picture of the character, or several, in base64.",
        "mask": "A picture for each reference, bright where the character is, in base64.",
        "reference_pose": "The reference's own pose as an OpenPose skeleton: a picture for each reference, in base64.",
    }
    pictures = {name: {"title": title, "description": told[name], **either} for name, title in PICTURES.items()}
    enabled = made["properties"]["enabled"] | {"default": True}  # whoever sends an object means it
    made["properties"] = pictures | made["properties"] | {"enabled": enabled}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "SeAl", **made, "required": ["reference"]}


def parse(args: Sequence[object]) -> Request:
    """From a script's arguments: one object in the first place, or values in the order of NAMES; SettingsError for anything else."""
    first = args[0] if args else False
    if first is False:  # switched off on the page: nothing else there matters
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
    references, further = _references(given["reference"]), tuple(map(_laid_aside, _references(more), _several(more, "reference")))
    if not references + further:
        raise SettingsError("reference", f"{label('reference')} is missing: give a picture of the character.")
    for name in BESIDE:
        several = _several(given[name], name)
        if several and len(several) != len(references):
            said = f"there are {len(several)} for {len(references)} reference pictures. Give one for each, or none."
            raise SettingsError(name, f"{label(name)}: {said}")
        if several:
            references = tuple(_with(one, name, picture) for one, picture in zip(references, several, strict=True))
    return Request(settings, _at_most(references + further))


def label(name: str) -> str:
    """How a sentence names a picture."""
    return f"{PICTURES.get(name, name.capitalize())} ({name})"


def _references(given: object) -> tuple[Reference, ...]:
    return tuple(taken(one) for one in _at_most(_several(given, "reference")))


def _laid_aside(reference: Reference, given: object) -> Reference:
    """A picture of the page's gallery, with what `aside` put into it."""
    text = given.info.get(POSE_TEXT) if isinstance(given, Image.Image) else None
    return _with(reference, "reference_pose", text) if isinstance(text, str) else reference


def _at_most(several: Given) -> Given:
    if len(several) > MOST_REFERENCES:
        raise SettingsError("reference", f"{label('reference')} takes at most {MOST_REFERENCES} pictures, not {len(several)}.")
    return several


def _several(given: object, name: str) -> list[object]:
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    nothing = [one is None or (isinstance(one, str) and not one) for one in several]
    if len(several) > 1 and any(nothing):
        raise SettingsError(name, f"{label(name)} has an empty place in its list.")
    return [] if all(nothing) else several


def taken(given: object) -> Reference:
    """A picture, or the page's {image, mask} with what the brush painted."""
    layers: Mapping[str, object] = given if isinstance(given, Mapping) and "image" in given else {"image": given}
    array, painted = opened(layers["image"], "reference"), layers.get("mask")
    if min(array.shape[:2]) < 16:
        raise SettingsError("reference", f"{label('reference')} is smaller than 16 pixels a side.")
    reference = Reference(array if array[..., 3].min() < 255 else np.ascontiguousarray(array[..., :3]))
    drawn = reference if painted is None else _with(reference, "mask", painted)
    return drawn if drawn.drawn is not None and drawn.drawn.any() else reference


def opened(given: object, name: str) -> np.ndarray:
    """RGBA bytes of a PIL image, an array, or base64 text; nothing is ever fetched or read from a path."""
    try:
        if isinstance(given, str):
            text = given.split(",", 1)[1] if given.startswith("data:") and "," in given[:100] else given
            if len(text) > MOST_TEXT:
                raise SettingsError(name, f"{label(name)} is more than {MOST_TEXT * 3 >> 22} megabytes.")
            given = Image.open(io.BytesIO(base64.b64decode("".join(text.split()), validate=True)), formats=FORMATS)
        elif isinstance(given, np.ndarray):
            given = Image.fromarray(given)
        if not isinstance(given, Image.Image):
            raise SettingsError(name, f"{label(name)} must be a picture in base64, not a {type(given).__name__}.")
        if given.width * given.height > MOST_PIXELS:
            raise SettingsError(name, f"{label(name)} is larger than {MOST_PIXELS >> 20} megapixels.")
        return np.asarray(given.convert("RGBA"))
    except SettingsError:
        raise
    except Exception as error:  # a decoder may raise anything on somebody's bytes
        raise SettingsError(name, f"{label(name)} cannot be read as a picture in base64.") from error


# How a reference takes what comes beside it: its field, and what reads the picture for a reference of its size.
BESIDE: dict[str, tuple[str, Callable[..., Any]]] = {"mask": ("drawn", drawn_on), "reference_pose": ("pose", pose_of)}


def _with(reference: Reference, name: str, picture: object) -> Reference:
    array, (taken_as, read) = opened(picture, name), BESIDE[name]
    try:
        return replace(reference, **{taken_as: read(reference.size, array)})
    except AlignError as error:
        raise SettingsError(name, f"{label(name)}: {error}") from error


def looked(reference: Reference, source: str) -> Reference:
    """A reference with its subject as the WebUI finds it; a refusal names the field that was given or chosen."""
    try:
        return reference.found(source, rembg.ways())
    except AlignError as error:
        name = "mask" if source == "auto" else "mask_source"
        raise SettingsError(name, f"Mask ({name}): {error}") from error
