"""What the page shows before anything is drawn: what of the reference counts, and where AnchorAlign puts the structure."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from html import escape
from typing import Any

import cv2
import numpy as np
from PIL import Image

from seal_ext.core.anchor_align import OFF, UNREAD, Aligned
from seal_ext.core.canvas import FILL, LARGEST_CANVAS, place
from seal_ext.core.control_map import DIFFERS, background_of
from seal_ext.core.mask import Box
from seal_ext.core.pixels import AlignError, Pixels
from seal_ext.core.skeleton import BONES, Skeleton, colour_of
from seal_ext.finds import doubts, outlined
from seal_ext.hosts.webui import process_state
from seal_ext.reference import Reference, png
from seal_ext.request import looked, parse
from seal_ext.settings import Settings, SettingsError
from seal_ext.units import NO_CONTROLNET, Units, is_ready

USUAL = 512  # a canvas's side while its field is empty
SMALLEST, LARGEST = 512, 768  # pixels: of the shorter side at least, of the longer one at most
OUTLINE = (34, 197, 94)  # the subject's, in all of the page; style.css has it, too
FADED = 60  # of 255: how much is left to see of what does not count
EMPTY = "Give a picture of the character. This preview then outlines the character and shows where the structure goes."
HOW = "Click the preview, then drag the figure, turn the mouse wheel, or press the arrow keys, + and −. The key 0 undoes your correction."
TOOLS = (
    ("add", "Paint the character", "Paint over what belongs to the character. A rough stroke is enough. Press again to stop painting."),
    ("away", "Paint the rest", "Paint over what the outline takes in by mistake. Press again to stop painting."),
    ("undo", "Undo stroke", "Undo the last stroke."),
    ("clear", "Remove strokes", "Remove everything that you painted."),
)
NO_UNIT = "No enabled ControlNet unit has a pose or another structure, so SeAl works from the prompt alone."
OUTSIDE = "By your correction a part of the pose lies outside of the picture. The key 0 or “Undo correction” brings it back."
NO_MODEL = "ControlNet unit {0} has no model, so its pose will have no effect. Choose one."
DISABLED = "ControlNet unit {0} has a picture and is not enabled, so SeAl works from the prompt alone."


def stage(elem_id: Callable[[str], str], tab: str) -> str:
    """Where the page's script draws. All text is here, where a translation of the WebUI finds it."""
    ids = {name: elem_id(name) for name in ("accordion", "glance", "look", "compare", "hand_x", "hand_y", "hand_scale", "strokes", "told")}
    ids["slots"] = " ".join(elem_id(name) for name in ("reference", "subject_mask", "reference_pose"))
    told = " ".join(f'data-{name.replace("_", "-")}="{escape(value)}"' for name, value in ids.items())
    keys = (("subject", "Reference's character"), ("before", "Structure as it is"), ("after", "Structure aligned"))
    legend = "".join(f'<span class="seal-key seal-{name}">{text}</span>' for name, text in keys)
    tools = "".join(f'<button type="button" data-does="{does}" title="{escape(said)}">{name}</button>' for does, name, said in TOOLS)
    tools += '<label><span>Brush</span><input type="range" min="1" max="25" value="6"></label>'
    return (f'<div class="seal-stage" data-tab="{tab}" {told} tabindex="0" role="application" title="Preview of the alignment">'
            f'<canvas></canvas><p>{EMPTY}</p></div><p class="seal-said seal-off">{OUTSIDE}</p><div class="seal-tools">{tools}</div>'
            f'<div class="seal-legend">{legend}</div><p class="seal-how seal-faint">{HOW}</p>')  # fmt: skip


@dataclass(frozen=True)
class Notice:
    """What somebody should look at before anything is drawn, and the button that cures it."""

    said: str
    label: str = ""  # of the button
    cure: str = ""  # what it does, as the page's script knows it
    unit: int | None = None  # of ControlNet, where it is about one

    @property
    def html(self) -> str:
        about = "" if self.unit is None else f' data-unit="{self.unit}"'
        button = f'<button type="button" data-cure="{self.cure}"{about}>{escape(self.label)}</button>' if self.cure else ""
        return f'<p class="seal-said">{escape(self.said)} {button}</p>'


@dataclass(frozen=True)
class Look:
    """What there is to see and to say."""

    told: tuple[str, ...] = ()
    warned: tuple[Notice, ...] = ()
    units: tuple[tuple[int, str], ...] = ()  # numbers and names of the units that carry a structure
    drawn: dict[str, Any] | None = None  # what the page's canvas draws

    @property
    def picture(self) -> str:
        """All that the page's script has to know, as JSON."""
        return json.dumps({"shown": [number for number, _ in self.units], **(self.drawn or {})})

    @property
    def html(self) -> str:
        return "".join(notice.html for notice in self.warned) + "".join(f"<p>{escape(sentence)}</p>" for sentence in self.told)


def look(
    values: Sequence[Any], canvas: Sequence[Any], units: Sequence[Any], host: Any, thorough: bool = False, img2img: bool = False
) -> Look:
    """As a run would see it that began now. `values` are the script's arguments, `units` ControlNet's; `host` knows ControlNet.

    Preprocessors may take minutes or download what they need: only a `thorough` look runs them.
    """
    controlnet = host.there()
    carrying = host.structures(units) if controlnet is not None else []
    shown = tuple((number, _name(number, unit)) for number, unit in carrying)
    try:
        asked = parse(values, process_state.known_ways)
        if not asked.settings.enabled:
            return Look(units=shown)
        first = asked.references[0]
        ways = process_state.known_ways(first) | (host.segmenting(first) if thorough else {})
        first = looked(first, asked.settings.mask_source, ways)
    except SettingsError as refusal:
        return Look(warned=(Notice(str(refusal)),), units=shown)
    settings, told = asked.settings, list(outlined(first.seen))
    warned = [Notice(" ".join(doubts(first.seen)), "Outline the character", "paint")] if doubts(first.seen) else []
    width, height = (min(max(int(side or USUAL) // 8 * 8, 64), LARGEST_CANVAS) for side in canvas)
    factor = min(LARGEST / max(width, height), max(1.0, SMALLEST / min(width, height)))
    seen: list[dict[str, Any]] = []
    joints = first.skeleton
    ticked = Units.parse(settings.units)
    for number, unit in carrying:
        if not ticked.wants(number):
            continue
        if str(unit.model) in ("None", ""):
            warned.append(Notice(NO_MODEL.format(number), f"Show unit {number}", "unit", number))
        if img2img and not controlnet.has_picture(unit):
            told.append(f"ControlNet unit {number} follows the picture of img2img, which the preview does not show.")
        elif not is_ready(unit) and not thorough:
            told.append(f"ControlNet unit {number} runs its preprocessor {unit.module} first: press Update preview to see what it makes.")
        else:
            found, said = _found(controlnet, number, unit, first, settings, (width, height), factor, host, thorough)
            if found is not None:
                seen.append(_unit(number, found))
                joints = joints or (found.subject.skeleton if found.subject else None)
            if found is None or UNREAD in found.alignment.reasons:
                warned.append(Notice(said, f"Show unit {number}", "unit", number))
            elif said:
                told.append(said)
    if carrying and not settings.align:
        told.append(OFF)
    if not carrying and controlnet is not None and (number := controlnet.waits(units)) is not None:
        warned.append(Notice(DISABLED.format(number), f"Enable unit {number}", "enable", number))
    elif not carrying:
        told.append(host.strange(units) or (NO_CONTROLNET if controlnet is None else NO_UNIT))
    if controlnet is not None and (refused := controlnet.refused(units, settings)):
        warned.append(Notice(refused))
    lies = _lies(first, (width, height))
    base = _base(first, joints, (width, height), factor)
    drawn = {"canvas": (width, height), "lies": astuple(lies), "base": _url(base), "units": seen, "outlined": first.seen.known}
    return Look(tuple(told), tuple(warned), shown, drawn)


def _found(
    controlnet: Any, number: int, unit: Any, reference: Reference, settings: Settings, canvas: tuple[int, int], factor: float, host: Any,
    thorough: bool,
) -> tuple[Aligned | None, str]:  # fmt: skip
    """Where a unit's structure comes to, if it could be read, and what there is to say about it."""
    # The hand's correction is left to the page, which shows it while the hand moves.
    settings = replace(settings, hand_x=0.0, hand_y=0.0, hand_scale=1.0)
    try:
        found: Aligned = controlnet.find(unit, reference, settings, canvas, factor, now=thorough)
    except AlignError as error:
        return None, f"ControlNet unit {number} stays where it is: {error}"
    except Exception as error:
        host.report(f"SeAl could not preview ControlNet unit {number}")
        return None, f"ControlNet unit {number} could not be aligned ({type(error).__name__}: {str(error)[:200]})."
    told = " ".join(found.alignment.reasons) if settings.align else ""
    return found, f"ControlNet unit {number}: {told}" if told else ""


def _name(number: int, unit: Any) -> str:
    """What tells a unit from others: its number, and its preprocessor or model."""
    return f"{number}: {(str(unit.model).rsplit(' [', 1)[0] if is_ready(unit) else str(unit.module))[:40]}"


def _lies(reference: Reference, canvas: tuple[int, int]) -> Box:
    """Where the reference lies in the canvas."""
    placed, (height, width) = place(reference.size[::-1], canvas, FILL), reference.size
    return Box(0.0, 0.0, float(width), float(height)).moved(placed.scale, placed.shift)


def _base(reference: Reference, joints: Skeleton | None, size: tuple[int, int], factor: float) -> Pixels:
    """The reference as it lies in the canvas, RGBA: what counts is opaque and outlined, the rest lets the page shine through."""
    placed = place(reference.size[::-1], size, FILL)
    (sx, sy), (tx, ty) = placed.scale, placed.shift
    matrix = np.array([[sx, 0, tx], [0, sy, ty]]) * factor
    wide, tall = (round(side * factor) for side in size)
    matrix[:, 2] += 0.5 * (matrix[:, 0] + matrix[:, 1] - 1)  # cv2 counts from pixel centres
    way = cv2.INTER_CUBIC if sx * factor > 1 else cv2.INTER_AREA
    rgb = cv2.warpAffine(reference.rgb, matrix, (wide, tall), flags=way, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.full(reference.size, 255, np.uint8), matrix, (wide, tall), flags=cv2.INTER_NEAREST)
    found = reference.seen
    thick = max(2, round(min(wide, tall) / 200))
    if not found.known:
        return _with_joints(np.dstack([rgb, inside]), joints, matrix, thick)
    counts = cv2.warpAffine(found.mask.astype(np.float32), matrix, (wide, tall), flags=cv2.INTER_LINEAR) > 0.5
    outline, _ = cv2.findContours(counts.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = np.dstack([rgb, np.where(counts, 255, inside.astype(np.uint16) * FADED // 255).astype(np.uint8)])
    outlined = cv2.drawContours(np.ascontiguousarray(drawn), outline, -1, (*OUTLINE, 255), thick, cv2.LINE_AA)
    return _with_joints(outlined, joints, matrix, thick)


def _with_joints(drawn: Pixels, joints: Skeleton | None, matrix: np.ndarray, thick: int) -> Pixels:
    """The reference's skeleton, thin: between its joints, in the colours that pose maps have."""
    if joints is None:
        return drawn
    drawn = np.ascontiguousarray(drawn)
    places = np.nan_to_num((joints.points - 0.5) @ matrix[:, :2].T + matrix[:, 2]).round().astype(int).tolist()
    for number, (a, b) in enumerate(BONES):
        if joints.seen[a] and joints.seen[b]:
            cv2.line(drawn, places[a], places[b], (*colour_of(number), 255), thick, cv2.LINE_AA)
    for joint in np.flatnonzero(joints.seen):
        cv2.circle(drawn, places[joint], 2 * thick, (*colour_of(int(joint)), 255), -1, cv2.LINE_AA)
    return drawn


def _unit(number: int, found: Aligned) -> dict[str, Any]:
    how, moved = found.alignment, found.map[..., :3]
    differs = np.abs(moved.astype(np.int16) - background_of(moved, found.kind).astype(np.int16)).max(2)
    alpha = (differs > DIFFERS) * 255 if found.kind in ("skeleton", "edges") else (differs * 4).clip(0, 220)
    shown: dict[str, Any] = {"number": number, "stays": not found.moves, "map": _url(np.dstack([moved, alpha.astype(np.uint8)]))}
    if not found.moves:
        return shown
    box = how.aligned_box
    anchor = ((box.x0 + box.x1) / 2, {"bottom": box.y1, "centre": (box.y0 + box.y1) / 2, "top": box.y0}[how.anchor])
    boxes = {"reference": astuple(how.reference_box), "before": astuple(how.structure_box), "after": astuple(box)}
    return shown | {"anchor": anchor, **boxes}


def _url(picture: Pixels) -> str:
    return "data:image/png;base64," + base64.b64encode(png(Image.fromarray(picture), compress_level=1)).decode()
