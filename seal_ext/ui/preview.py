"""What the page shows before anything is drawn: what of the reference counts, and where AnchorAlign puts the structure."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from types import SimpleNamespace

import cv2
import numpy as np
from PIL import Image

from seal_ext.core.geometry import FILL, LARGEST_CANVAS, place
from seal_ext.core.subject import DIFFERS, AlignError, Box, Subject, background_of
from seal_ext.core.warping import apply
from seal_ext.request import Asked, parse, subject
from seal_ext.settings import SettingsError
from seal_ext.units import Units

USUAL = 512  # a canvas's side while its field is empty
SMALLEST, LARGEST = 512, 768  # pixels: of the shorter side at least, of the longer one at most
OUTLINE = (34, 197, 94)  # the subject's, in all of the page; style.css has it, too
FADED = 60  # of 255: how much is left to see of what does not count
NO_UNIT = "No enabled ControlNet unit carries a structure, so SeAl works from the prompt alone."
OFF = "AnchorAlign is off: the structure stays where it is."


@dataclass(frozen=True)
class Look:
    """What there is to see and to say."""

    told: tuple[str, ...] = ()
    units: tuple[tuple[int, str], ...] = ()  # numbers and names of the units that carry a structure
    drawn: dict | None = None  # what the page's canvas draws

    @property
    def picture(self) -> str:
        """All that the page's script has to know, as JSON."""
        return json.dumps({"shown": [number for number, _ in self.units], **(self.drawn or {})})

    @property
    def html(self) -> str:
        return "".join(f"<p>{escape(sentence)}</p>" for sentence in self.told)


def look(values: Sequence, canvas: tuple, units: Sequence, host, thorough: bool = False, img2img: bool = False) -> Look:
    """As a run would see it that began now. `values` are the script's arguments, `units` ControlNet's; `host` finds structures in them.

    Preprocessors may take minutes or download what they need: only a `thorough` look runs them.
    """
    carrying = host.structures(units)
    shown = tuple((number, _name(number, unit)) for number, unit in carrying)
    try:
        asked = parse(values)
        if not asked.settings.enabled:
            return Look(units=shown)
        first = asked.references[0]
        found, told = subject(first, asked.settings.mask_source)
    except SettingsError as refusal:
        return Look(told=(str(refusal),), units=shown)
    told, settings = list(told), asked.settings
    size = tuple(min(max(int(side or USUAL) // 8 * 8, 64), LARGEST_CANVAS) for side in canvas)
    factor = min(LARGEST / max(size), max(1.0, SMALLEST / min(size)))
    picture = {"canvas": size, "base": _url(_base(first, found, size, factor)), "units": []}
    # The hand's correction is left to the page, which shows it while the hand moves.
    seal = SimpleNamespace(request=asked, subjects=[found], settings=replace(settings, hand_x=0.0, hand_y=0.0, hand_scale=1.0),
                           p=SimpleNamespace(width=size[0], height=size[1]))  # fmt: skip
    ticked = Units.parse(settings.units)
    for number, unit in carrying if settings.align else ():
        if not ticked.wants(number):
            continue
        if img2img and not host.has_picture(unit):
            told.append(f"ControlNet unit {number} follows the picture of img2img, which is not previewed.")
            continue
        if not _is_ready(unit) and not thorough:
            told.append(f"ControlNet unit {number} runs its preprocessor {unit.module} first: press Update preview to see what it makes.")
            continue
        try:
            how = host.find(seal, unit)
            picture["units"].append(_unit(number, how, factor))
            if how.how.reasons:
                told.append(f"ControlNet unit {number}: {' '.join(how.how.reasons)}")
        except AlignError as error:
            told.append(f"ControlNet unit {number} stays where it is: {error}")
        except Exception as error:
            host.report(f"SeAl could not preview ControlNet unit {number}")
            told.append(f"ControlNet unit {number} could not be aligned ({type(error).__name__}: {str(error)[:200]}).")
    if not carrying:
        told.append(host.strange(units) or NO_UNIT)
    elif not settings.align:
        told.append(OFF)
    return Look(tuple(told), shown, picture)


def _name(number: int, unit) -> str:
    """What tells a unit from others: its number, and its preprocessor or model."""
    return f"{number}: {(str(unit.model).rsplit(' [', 1)[0] if _is_ready(unit) else str(unit.module))[:40]}"


def _is_ready(unit) -> bool:
    """Whether no preprocessor runs; the extension and Forge's own ControlNet spell that differently."""
    return str(unit.module).lower() == "none"


def _base(asked: Asked, found: Subject | None, size: tuple[int, int], factor: float) -> np.ndarray:
    """The reference as it lies in the canvas, RGBA: what counts is opaque and outlined, the rest lets the page shine through."""
    placed = place(asked.rgb.shape[1::-1], size, FILL)
    (sx, sy), (tx, ty) = placed.scale, placed.shift
    matrix = np.array([[sx, 0, tx], [0, sy, ty]]) * factor
    wide, tall = (round(side * factor) for side in size)
    matrix[:, 2] += 0.5 * (matrix[:, 0] + matrix[:, 1] - 1)  # cv2 counts from pixel centres
    how = dict(dsize=(wide, tall), flags=cv2.INTER_CUBIC if sx * factor > 1 else cv2.INTER_AREA)
    rgb = cv2.warpAffine(asked.rgb, matrix, **how, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.full(asked.rgb.shape[:2], 255, np.uint8), matrix, (wide, tall), flags=cv2.INTER_NEAREST)
    if found is None:
        return np.dstack([rgb, inside])
    counts = cv2.warpAffine(found.mask.astype(np.float32), matrix, (wide, tall), flags=cv2.INTER_LINEAR) > 0.5
    outline, _ = cv2.findContours(counts.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = np.dstack([rgb, np.where(counts, 255, inside.astype(np.uint16) * FADED // 255).astype(np.uint8)])
    return cv2.drawContours(np.ascontiguousarray(drawn), outline, -1, (*OUTLINE, 255), max(2, round(min(wide, tall) / 200)), cv2.LINE_AA)


def _unit(number: int, found, factor: float) -> dict:
    how = found.how
    moved = apply(found.map, how, found.kind, factor)[..., :3]
    differs = np.abs(moved.astype(np.int16) - background_of(moved, found.kind).astype(np.int16)).max(2)
    alpha = (differs > DIFFERS) * 255 if found.kind in ("skeleton", "edges") else (differs * 4).clip(0, 220)
    box = how.aligned_box
    anchor = ((box.x0 + box.x1) / 2, {"bottom": box.y1, "centre": (box.y0 + box.y1) / 2, "top": box.y0}[how.anchor])
    boxes = {"reference": _sides(how.reference_box), "before": _sides(how.structure_box), "after": _sides(box)}
    return {"number": number, "map": _url(np.dstack([moved, alpha.astype(np.uint8)])), "anchor": anchor, **boxes}


def _sides(box: Box) -> tuple[float, ...]:
    return box.x0, box.y0, box.x1, box.y1


def _url(picture: np.ndarray) -> str:
    kept = io.BytesIO()
    Image.fromarray(picture).save(kept, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(kept.getvalue()).decode()
