"""What a user asks for, from the page or the API: settings and pictures. Every refusal is one sentence that names the field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from . import segmenters
from .core.grabcut import from_stroke
from .core.mask import Subject
from .core.pixels import AlignError, Pixels
from .core.subject import MISSING, Way
from .decoding import animated, check_together, decoded, recognised
from .finds import finds
from .reference import POSE_TEXT, Reference, drawn_on, pose_of
from .settings import Settings, SettingsError
from .strokes import MOST_TEXT, strokes_on

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
    "show_disagreement", "show_mask", "more", "cache_place", "which", "strokes",
    "lam_every", "match_once", "read_with", "cache_holds"
)  # fmt: skip
MOST_REFERENCES = 8
Known = Callable[[Reference], Mapping[str, Way]]  # what the host's networks have said of a reference, without asking them again
Given = TypeVar("Given", bound=Sequence[Any])
Taken = TypeVar("Taken")
REFERENCE_KEY = "SeAl reference"
STROKES = ("Strokes that correct the outline of the first reference, as JSON text: a list of objects with `points` (pairs in shares of its "
           "width and height), `radius` (a share of its longer side), and `away`: true where the character is not.")  # fmt: skip
_finds = finds()  # so that what a preview shows is what a run uses, and nobody looks twice


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
    painted = {"title": "Strokes", "description": STROKES, "type": "string", "maxLength": MOST_TEXT}
    made["properties"] = pictures | {"strokes": painted} | made["properties"] | {"enabled": enabled}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "SeAl", **made, "required": ["reference"]}


def nothing_known(reference: Reference) -> Mapping[str, Way]:
    """Where there is no host whose networks could have looked at it."""
    return {}


def parse(args: Sequence[object], known: Known = nothing_known) -> Request:
    """From a script's arguments: one object in the first place, or values in the order of NAMES; SettingsError for anything else.

    `known`: what the host has been told of a reference's subject, which strokes correct.
    """
    first = args[0] if args else False
    if first is False:  # switched off on the page: nothing else there matters
        return Request(Settings())
    if isinstance(first, Mapping):
        values = {"enabled": True, **first}  # whoever sends an object means it
    else:
        values = dict(zip(NAMES, args, strict=False))
    given, strokes = {name: values.pop(name, None) for name in PICTURES}, values.pop("strokes", None)
    more = None if isinstance(first, Mapping) else values.pop("more", None)
    settings = Settings.parse(values)
    if not settings.enabled:
        return Request(settings)
    notes: list[str] = []
    for name, pictures in (*given.items(), ("reference", more)):
        _at_most(_several(pictures, name), name)
    given, more = {name: _measured(one, name, notes) for name, one in given.items()}, _measured(more, "reference", notes)
    _refusing("reference", lambda: check_together(_each([*given.values(), more])))
    settings = replace(settings, notes=(*settings.notes, *dict.fromkeys(notes)))
    references, further = _references(given["reference"]), tuple(map(_laid_aside, _references(more), _several(more, "reference")))
    if not references + further:
        raise fault("reference", " is missing: give a picture of the character.")
    for name in BESIDE:
        several = _several(given[name], name)
        if several and len(several) != len(references):
            said = f"there are {len(several)} for {len(references)} reference pictures. Give one for each, or none."
            raise fault(name, f": {said}")
        if several:
            references = tuple(_with(one, name, picture) for one, picture in zip(references, several, strict=True))
    first, *others = _at_most(references + further)
    painted = _painted(first, strokes, settings.mask_source, known)
    if painted is not first and settings.mask_source != "drawn":
        settings = replace(settings, mask_source="auto")  # of all ways the one that takes what was painted
    return Request(settings, (painted, *others))


def fault(name: str, what: str) -> SettingsError:
    """The refusal of a picture, or of what comes beside it; `what` goes on from its name."""
    return SettingsError(name, what, _label(name))


def _label(name: str) -> str:
    return PICTURES.get(name, name.capitalize())


def _references(given: object) -> tuple[Reference, ...]:
    return tuple(taken(one) for one in _at_most(_several(given, "reference")))


def _laid_aside(reference: Reference, given: object) -> Reference:
    """A picture of the page's gallery, with what `aside` put into it."""
    text = given.info.get(POSE_TEXT) if isinstance(given, Image.Image) else None
    return _with(reference, "reference_pose", text) if isinstance(text, str) else reference


def _at_most(several: Given, name: str = "reference") -> Given:
    if len(several) > MOST_REFERENCES:
        raise fault(name, f" takes at most {MOST_REFERENCES} pictures, not {len(several)}.")
    return several


def _several(given: object, name: str) -> list[object]:
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    nothing = [one is None or (isinstance(one, str) and not one) for one in several]
    if len(several) > 1 and any(nothing):
        raise fault(name, " has an empty place in its list.")
    return [] if all(nothing) else several


def taken(given: object) -> Reference:
    """A picture, or the page's {image, mask} with what the brush painted."""
    layers: Mapping[str, object] = given if isinstance(given, Mapping) and "image" in given else {"image": given}
    array, painted = opened(layers["image"], "reference"), layers.get("mask")
    if min(array.shape[:2]) < 16:
        raise fault("reference", " is smaller than 16 pixels a side.")
    reference = Reference(array if array[..., 3].min() < 255 else np.ascontiguousarray(array[..., :3]))
    drawn = reference if painted is None else _with(reference, "mask", painted)
    return drawn if drawn.drawn is not None and drawn.drawn.any() else reference


def opened(given: object, name: str) -> np.ndarray:
    """RGBA bytes of a PIL image, an array, or base64 text; nothing is ever fetched or read from a path."""
    return _refusing(name, lambda: decoded(recognised(given)))


def _refusing(name: str, work: Callable[[], Taken]) -> Taken:
    """What the work gives; its refusal as a sentence that names the picture."""
    try:
        return work()
    except AlignError as error:
        raise fault(name, f" {error}") from error


def _measured(given: object, name: str, notes: list[str]) -> Any:
    """The same pictures, recognised and measured but not decoded; `notes` gets a sentence for each that moves."""
    if isinstance(given, Mapping):
        return {
            part: _measured(one, name if part == "image" else "mask", notes) for part, one in given.items() if part in ("image", "mask")
        }
    if isinstance(given, (list, tuple)):
        return [_measured(one, name, notes) for one in given]
    if given is None or (isinstance(given, str) and not given):
        return given
    picture = _refusing(name, lambda: recognised(given))
    if animated(picture):
        notes.append(f"{_label(name)} is animated. SeAl takes its first frame.")
    return picture


def _each(given: object) -> Iterator[Image.Image]:
    several = given.values() if isinstance(given, Mapping) else given if isinstance(given, list) else ()
    yield from (given,) if isinstance(given, Image.Image) else (picture for one in several for picture in _each(one))


# How a reference takes what comes beside it: its field, and what reads the picture for a reference of its size.
BESIDE: dict[str, tuple[str, Callable[..., Any]]] = {"mask": ("drawn", drawn_on), "reference_pose": ("pose", pose_of)}


def _with(reference: Reference, name: str, picture: object) -> Reference:
    array, (taken_as, read) = opened(picture, name), BESIDE[name]
    try:
        return replace(reference, **{taken_as: read(reference.size, array)})
    except AlignError as error:
        raise fault(name, f": {error}") from error


def _painted(reference: Reference, given: object, source: str, known: Known) -> Reference:
    """A reference whose outline was corrected by strokes; from then on it is as drawn as one that came with a mask."""
    strokes = _refusing("strokes", lambda: strokes_on(reference.size, given))
    if strokes is None:
        return reference
    ways = known(reference)
    # A mask that came along is the first of auto's ways. What is not here, or was not asked yet, has no outline to correct.
    if source == "drawn" or (source in MISSING and source not in {**ways, **segmenters.ways()}):
        source = "auto"
    try:
        start = looked(reference, source, ways).seen
        return replace(reference, drawn=from_stroke(reference.rgb, strokes.add, strokes.away, start).mask)
    except AlignError as error:
        raise fault("strokes", f": {error}") from error


def keep(reference: Reference, subject: Subject) -> None:
    """The user asked the model by hand: from here on that is the outline of this picture, and strokes correct it."""
    for source in ("auto", "attention"):
        _finds.put((reference.hash, source), subject)


def forget() -> None:
    """All that was found."""
    _finds.clear()


def looked(reference: Reference, source: str, ways: Mapping[str, Way] | None = None) -> Reference:
    """A reference with its subject as the WebUI finds it; a refusal names the field that was given or chosen.

    A picture is looked at once. `ways`: what the host's networks say; `auto` asks them only where nothing else is sure.
    """
    ways = ways or {}
    try:
        if source in ways:
            return reference.found(source, ways)
        seen = _sought(reference, source)
        if source == "auto" and ways and ("asked" in ways or seen.guess or not seen.known):
            known: dict[str, Way] = {seen.source: lambda _: seen} if seen.known else {}
            seen = reference.found(source, {**known, **ways}).seen
        return replace(reference, subject=seen)
    except AlignError as error:
        name = "mask" if source == "auto" else "mask_source"
        raise SettingsError(name, f": {error}", "Mask") from error


def _sought(reference: Reference, source: str) -> Subject:
    """Its subject as it is found here. What is found while a segmenter fails is not kept: the next time it may work."""
    name, failed = (reference.hash, source), list[segmenters.Failed]()
    known = _finds.get(name)
    if known is not None:
        return known
    found = reference.found(source, {own: partial(_noting, failed, way) for own, way in segmenters.ways().items()}).seen
    return found if failed else _finds.put(name, found)


def _noting(failed: list[segmenters.Failed], way: Way, rgb: Pixels) -> Subject:
    try:
        return way(rgb)
    except segmenters.Failed as error:
        failed.append(error)
        raise
