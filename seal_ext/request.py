"""What a user asks for, from the page or the API: settings and pictures. Every refusal is one sentence that names the field."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from PIL import Image

from .core.cache import fingerprint
from .core.skeleton import Skeleton, read_skeleton
from .core.subject import AlignError, Subject, from_alpha, from_control_map, from_drawn, from_rembg, has_rembg, subject_of
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
    "show_disagreement", "show_mask", "more"
)  # fmt: skip
MOST_REFERENCES = 8
MOST_PIXELS = 1 << 26
MOST_TEXT = 1 << 27  # characters of a picture in base64
MOST_ASKEW = 1.05  # how much two pictures' shapes may differ: sizes of latents are whole, and pictures are cropped to them
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # of files that come as text; some of the others start programs to be read
REFERENCE_KEY = "SeAl reference"
POSE_TEXT = "SeAl pose"  # within a picture of the page's gallery


@dataclass(frozen=True, eq=False)
class Asked:
    """A picture of the character as it was given, RGB bytes (height, width, 3); and what came along with it, if anything."""

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    drawn: np.ndarray | None = None  # where somebody painted: bool, (height, width)
    pose: np.ndarray | None = None  # its OpenPose skeleton: RGB bytes, of any size in its shape

    @property
    def hash(self) -> str:
        """Tells pictures apart, not files: the same for the same content."""
        parts = [self.rgb] + [part for part in (self.alpha, self.drawn, self.pose) if part is not None]
        return fingerprint(*parts)[:16]

    @cached_property
    def skeleton(self) -> Skeleton | None:
        """Its joints in its own pixels, where its pose was given."""
        found = None if self.pose is None else read_skeleton(self.pose)
        return found and found.moved((self.rgb.shape[1] / self.pose.shape[1], self.rgb.shape[0] / self.pose.shape[0]))

    def picture(self) -> Image.Image:
        return Image.fromarray(self.rgb if self.alpha is None else np.dstack([self.rgb, self.alpha]))

    def drawing(self) -> Image.Image | None:
        """What was drawn on it, white on black."""
        return None if self.drawn is None else Image.fromarray(self.drawn.astype(np.uint8) * 255)

    def posture(self) -> Image.Image | None:
        """Its pose as it was given."""
        return None if self.pose is None else Image.fromarray(self.pose)

    def aside(self) -> Image.Image:
        """All of it in one picture, as the page's gallery keeps it: what was drawn as transparency, so that it shows; the pose within."""
        picture = self.picture() if self.drawn is None else Image.fromarray(np.dstack([self.rgb, self.drawn.astype(np.uint8) * 255]))
        if self.pose is not None:
            picture.info[POSE_TEXT] = base64.b64encode(png(self.posture())).decode()
        return picture


@dataclass(frozen=True, eq=False)
class Request:
    settings: Settings
    references: tuple[Asked, ...] = ()


def schema() -> dict[str, object]:
    """The object that `parse` takes, as JSON schema: pictures and settings."""
    made = Settings.schema()
    picture = {"type": "string", "contentEncoding": "base64"}
    either = {"anyOf": [picture, {"type": "array", "items": picture, "minItems": 1, "maxItems": MOST_REFERENCES}]}
    told = {
        "reference": "A picture of the character, or several, in base64.",
        "mask": "Bright where the character is: a picture for each reference, in base64.",
        "reference_pose": "The reference's own pose as an OpenPose skeleton: a picture for each reference, in base64.",
    }
    pictures = {name: {"title": title, "description": told[name], **either} for name, title in PICTURES.items()}
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
    references, further = _references(given["reference"]), tuple(map(_laid_aside, _references(more), _several(more, "reference")))
    if not references + further:
        raise SettingsError("reference", f"{label('reference')} is missing: give a picture of the character.")
    for name, (part, read) in BESIDE.items():
        several = _several(given[name], name)
        if several and len(several) != len(references):
            said = f"{len(several)} came for {len(references)} reference pictures; give one for each, or none."
            raise SettingsError(name, f"{label(name)}: {said}")
        pairs = zip(references, several, strict=True) if several else ()
        references = tuple(replace(one, **{part: read(opened(picture, name), one)}) for one, picture in pairs) or references
    return Request(settings, _at_most(references + further))


def label(name: str) -> str:
    """How a sentence names a picture."""
    return f"{PICTURES.get(name, name.capitalize())} ({name})"


def _references(given: object) -> tuple[Asked, ...]:
    return tuple(taken(one) for one in _at_most(_several(given, "reference")))


def _laid_aside(asked: Asked, given: object) -> Asked:
    """A picture of the page's gallery, with what `aside` put into it."""
    text = given.info.get(POSE_TEXT) if isinstance(given, Image.Image) else None
    return replace(asked, pose=_pose(opened(text, "reference_pose"), asked)) if isinstance(text, str) else asked


def _at_most(several: Sequence) -> Sequence:
    if len(several) > MOST_REFERENCES:
        raise SettingsError("reference", f"{label('reference')} is at most {MOST_REFERENCES} pictures, not {len(several)}.")
    return several


def _several(given: object, name: str) -> list[object]:
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    nothing = [one is None or (isinstance(one, str) and not one) for one in several]
    if len(several) > 1 and any(nothing):
        raise SettingsError(name, f"{label(name)} has an empty place in its list.")
    return [] if all(nothing) else several


def taken(given: object) -> Asked:
    """A picture, or the page's {image, mask} with what the brush painted."""
    painted = None
    if isinstance(given, Mapping) and "image" in given:
        given, painted = given["image"], given.get("mask")
    array = opened(given, "reference")
    if min(array.shape[:2]) < 16:
        raise SettingsError("reference", f"{label('reference')} is smaller than 16 pixels a side.")
    alpha = array[..., 3] if array[..., 3].min() < 255 else None
    asked = Asked(np.ascontiguousarray(array[..., :3]), alpha)
    drawn = None if painted is None else _bright(opened(painted, "reference"), asked)
    return asked if drawn is None or not drawn.any() else replace(asked, drawn=drawn)


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
            raise SettingsError(name, f"{label(name)} is a picture in base64, not a {type(given).__name__}.")
        if given.width * given.height > MOST_PIXELS:
            raise SettingsError(name, f"{label(name)} is larger than {MOST_PIXELS >> 20} megapixels.")
        return np.asarray(given.convert("RGBA"))
    except SettingsError:
        raise
    except Exception as error:  # a decoder may raise anything on somebody's bytes
        raise SettingsError(name, f"{label(name)} does not read as a picture in base64.") from error


def png(picture: Image.Image) -> bytes:
    """A picture as a file, without loss."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _bright(mask: np.ndarray, asked: Asked) -> np.ndarray:
    """Where a mask is bright and not transparent, at the reference's size."""
    inside = Image.fromarray(((mask[..., :3].max(2) > 127) & (mask[..., 3] > 127)).astype(np.uint8) * 255)
    return np.asarray(inside.resize(asked.rgb.shape[1::-1], Image.Resampling.NEAREST)) > 127


def _pose(drawn: np.ndarray, asked: Asked) -> np.ndarray:
    """The reference's skeleton on black, in the size it came."""
    (tall, wide), (height, width) = drawn.shape[:2], asked.rgb.shape[:2]
    askew = wide * height / (tall * width)
    if not 1 / MOST_ASKEW < askew < MOST_ASKEW:
        said = f"is {wide} × {tall} pixels and the reference {width} × {height}: it has to show the same picture."
        raise SettingsError("reference_pose", f"{label('reference_pose')} {said}")
    pose = np.where(drawn[..., 3:] > 127, drawn[..., :3], 0).astype(np.uint8)
    if read_skeleton(pose) is None:
        raise SettingsError("reference_pose", f"{label('reference_pose')} shows no OpenPose skeleton that can be read.")
    return pose


# What comes beside references: what of `Asked` it becomes, and how it is read.
BESIDE = {"mask": ("drawn", _bright), "reference_pose": ("pose", _pose)}


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


def standing(asked: Asked, found: Subject | None) -> Subject | None:
    """Where the character stands, for aligning: its subject with the joints that are known, else the body of its pose; or nobody knows."""
    if asked.skeleton is None:
        return found
    return from_control_map(asked.pose, "skeleton") if found is None else found.with_pose(asked.skeleton)


def whole(asked: Asked) -> Subject:
    """All of a picture as its subject."""
    return subject_of(np.ones(asked.rgb.shape[:2], bool), "whole")
