"""SeAl's own routes, /seal/v1: what it can be told, and what it makes of pictures before anything is drawn.

Each route takes and gives plain data; whatever a client sends is read by the same code as a run's arguments. docs/api.md has examples.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from . import __version__
from .core.anchor_align import anchor_align, shows_body
from .core.canvas import CROP, FILL, LARGEST_CANVAS, STRETCH
from .core.mask import Subject
from .core.pixels import LARGEST_SIDE, AlignError, Pixels
from .core.subject import Way
from .decoding import MOST_PIXELS
from .detectors import posed
from .given import kind_of
from .hosts.webui import process_state
from .reference import Reference, png
from .request import PICTURES, fault, looked, opened, parse
from .request import schema as run_schema
from .settings import Setting, Settings, SettingsError, refuse_unknown
from .shelf import Shelf
from .store import Store

VERSION = 3  # of the routes
CANVAS = (
    Setting("width", 512, "Width", "Of the picture that will be drawn.", low=16, high=LARGEST_CANVAS),
    Setting("height", 512, "Height", "Of the picture that will be drawn.", low=16, high=LARGEST_CANVAS),
    Setting("resize_mode", CROP, "Resize mode", "How ControlNet will fit the structure into the picture.", choices=(STRETCH, CROP, FILL)),
    Setting("kind", "auto", "Kind", "What the structure shows; auto tells a skeleton from anything else.",
            choices=("auto", "skeleton", "edges")),
)  # fmt: skip
OF_MASK = ("mask_source", "appearance_prompt")
OF_ALIGN = (*OF_MASK, "anchor", "alike", "which", "margin", "hand_x", "hand_y", "hand_scale")
SHOWN = ("reference", "mask")  # to `mask`
COMPARED = (*PICTURES, "structure")  # by `align`
NEEDED = ("reference", "structure")
Ask = Callable[[Reference, str], Mapping[str, Way]]  # how the WebUI's model is asked about a reference, with these words
_one_at_a_time = threading.Lock()  # pictures may be large


def nobody(reference: Reference, words: str) -> Mapping[str, Way]:
    """Where there is no model."""
    return {}


def mount(app, guards: Sequence = (), ask: Ask = nobody) -> None:
    """Add the routes to a FastAPI application, behind these guards."""
    from fastapi import Body, HTTPException

    def answering(work):
        def answer(given=Body(None)):  # noqa: B008 - this is how FastAPI is told that it comes in the body
            try:
                with _one_at_a_time:
                    return work(given)
            except SettingsError as refusal:
                raise HTTPException(status_code=422, detail=refusal.named) from refusal
            except AlignError as refusal:
                raise HTTPException(status_code=422, detail=str(refusal)) from refusal

        return answer

    ask = partial(_letting_others_in, ask)
    # Plain functions: FastAPI runs them in threads, so that nobody else waits.
    for path, method, endpoint in (
        ("version", "GET", version), ("schema", "GET", schema), ("cache", "GET", cache), ("cache", "DELETE", empty_cache),
        ("store", "DELETE", empty_store),
        ("align", "POST", answering(partial(align, ask=ask))), ("mask", "POST", answering(partial(mask, ask=ask))),
    ):  # fmt: skip
        app.add_api_route(f"/seal/v1/{path}", endpoint, methods=[method], dependencies=list(guards), name=f"seal {method} {path}")


def _letting_others_in(ask: Ask, reference: Reference, words: str) -> Mapping[str, Way]:
    """The same ways. Who asks the WebUI's model waits in its queue, and the other routes need not wait for that."""
    return {name: partial(_unlocked, way) for name, way in ask(reference, words).items()}


def _unlocked(way: Way, rgb: Pixels) -> Subject:
    _one_at_a_time.release()
    try:
        return way(rgb)
    finally:
        _one_at_a_time.acquire()


def version() -> dict:
    return {"version": __version__, "api": VERSION}


def schema() -> dict[str, Any]:
    """The object of a run as JSON schema; under `$defs` what the routes take."""
    run: dict[str, Any] = run_schema()
    one = {name: run["properties"][name] | {"anyOf": run["properties"][name]["anyOf"][:1]} for name in PICTURES}
    one["structure"] = one["reference"] | {"title": "Structure", "description": "A map as ControlNet takes it, in base64."}

    def route(pictures: Sequence[str], names: Sequence[str], own: Sequence[Setting]) -> dict:
        rows = {name: one[name] for name in pictures} | {name: run["properties"][name] for name in names}
        rows |= {setting.name: setting.schema() for setting in own}
        needed = [name for name in pictures if name in NEEDED]
        return {"type": "object", "additionalProperties": False, "properties": rows, "required": needed}

    return run | {"$defs": {"align": route(COMPARED, OF_ALIGN, CANVAS), "mask": route(SHOWN, OF_MASK, ())}}


def cache() -> dict:
    """What is kept of references: in memory as U-Nets saw them, and on disk their pictures, and these readings."""
    on_disk = {"store": process_state.store, "readings": process_state.shelf}
    return process_state.cache.stats() | {name: _sizes(kept) for name, kept in on_disk.items()}


def _sizes(kept: Store | Shelf | None) -> dict[str, int]:
    count, size = (0, 0) if kept is None else kept.stats()
    return {"entries": count, "bytes": size, "budget": 0 if kept is None else kept.budget()}


def empty_cache() -> dict:
    """Forget what is kept in memory; what is on disk stays."""
    process_state.clear()
    return cache()


def empty_store() -> dict:
    """Forget what is kept in memory, and delete what is kept on disk."""
    process_state.empty()
    return cache()


def mask(given: object, ask: Ask = nobody) -> dict:
    """Where the character is on a reference, as a run would find it."""
    reference, settings, _ = _read(given, ask, SHOWN, OF_MASK, ())
    seen = reference.seen
    return {"mask": _base64(seen.mask.astype(np.uint8) * 255), "found": seen.source if seen.known else None,
            "sure": seen.sure if seen.known else 0.0, "guess": seen.guess, "box": asdict(seen.box),
            "share": float(seen.mask.mean()), "cut": list(seen.cut), "reasons": [*settings.notes, *seen.reasons]}  # fmt: skip


def align(given: Any, ask: Ask = nobody) -> dict[str, Any]:
    """A structure where AnchorAlign puts it for a reference, as a run does it with a ControlNet unit without a preprocessor."""
    reference, settings, canvas = _read(given, ask, COMPARED, OF_ALIGN, CANVAS)
    structure = _sized(opened(_single(given, "structure"), "structure"), "structure")
    if canvas["width"] * canvas["height"] > MOST_PIXELS:
        raise SettingsError("width", f" times height must be at most {MOST_PIXELS >> 20} megapixels.", "Width")
    kind, size = None if canvas["kind"] == "auto" else canvas["kind"], (canvas["width"], canvas["height"])
    rgb, told = np.ascontiguousarray(structure[..., :3]), tuple[str, ...]()
    try:
        if shows_body(rgb, kind):
            reference, told = posed(reference, process_state.detectors())
        aligned = anchor_align(reference.standing, rgb, size, canvas["resize_mode"], FILL, kind, room=settings.room, **settings.alignment())
    except AlignError as error:
        raise fault("structure", f": {error}") from error
    how, reasons = aligned.alignment, () if reference.seen.known else reference.seen.reasons
    boxes = {"reference": asdict(how.reference_box), "structure": asdict(how.structure_box), "aligned": asdict(how.aligned_box)}
    return {"image": _base64(aligned.map), "known": aligned.moves, "boxes": boxes, "scale": how.scale, "shift": list(how.shift),
            "rule": how.rule, "anchor": how.anchor, "reasons": [*settings.notes, *reasons, *told, *how.reasons]}  # fmt: skip


def _read(
    given: object, ask: Ask, pictures: Sequence[str], names: Sequence[str], own: Sequence[Setting]
) -> tuple[Reference, Settings, dict[str, Any]]:
    """One reference with what comes beside it and its subject, the settings, and the route's own values."""
    if not isinstance(given, Mapping):
        raise SettingsError("", "The request's body must be a JSON object of names and values.")
    refuse_unknown(given, (*pictures, *names, *(setting.name for setting in own)))
    values = {name: given[name] for name in names if name in given}
    parsed = parse([{name: _single(given, name) for name in pictures if name in PICTURES} | values], process_state.known_ways)
    _sized(parsed.references[0].pixels, "reference")
    given_one, asked = parsed.references[0], parsed.settings
    reference = looked(given_one, asked.mask_source, ask(given_one, asked.appearance_prompt))
    return reference, parsed.settings, {row.name: row.checked(given.get(row.name, row.default)) for row in own}


def _single(given: Mapping, name: str) -> object:
    """A picture's text; whether it is a picture is seen when it is opened."""
    value = given.get(name)
    if value is None and name not in NEEDED:
        return None
    if value is None or value == "":
        raise fault(name, " is missing: give a picture in base64.")
    if not isinstance(value, str):
        raise fault(name, f" must be one picture in base64, not {kind_of(value)}.")
    return value


def _sized(picture: np.ndarray, name: str) -> np.ndarray:
    if min(picture.shape[:2]) < 2 or max(picture.shape[:2]) > LARGEST_SIDE:
        raise fault(name, f" must have from 2 to {LARGEST_SIDE} pixels a side.")
    return picture


def _base64(picture: np.ndarray) -> str:
    return base64.b64encode(png(Image.fromarray(picture))).decode()
