"""The structure in ControlNet's units: found, aligned with the reference by AnchorAlign, and put back for the user.

What a unit is made of the ControlNet that is there says: the extension or the one built into Forge.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from modules import errors

from seal_ext.core.geometry import FILL, Alignment, align
from seal_ext.core.skeleton import read_skeleton
from seal_ext.core.subject import AlignError, Box, figure_of, from_control_map
from seal_ext.core.warping import apply
from seal_ext.request import Asked, standing
from seal_ext.units import Units

from . import builtin, extension

# Units that show what something looks like and not where it is, by words in the names of their modules and models.
APPEARANCE = ("reference", "ip-adapter", "ip_adapter", "ipadapter", "clip", "revision", "instant_id", "instantid", "face_id", "pulid",
              "photomaker", "shuffle", "color", "style", "recolor", "inpaint", "tile", "blur")  # fmt: skip
# What a unit's module or model says about its map.
KINDS = {
    "skeleton": ("openpose", "dwpose", "animal_pose"),
    "edges": ("canny", "lineart", "softedge", "hed", "pidinet", "scribble", "mlsd", "teed"),
}
NO_POSE = "The unit's preprocessor finds no body on the reference; its pose may be given by hand."


def align_units(seal) -> None:
    """Align every enabled unit that carries a structure. The user's own units come back when the generation ends."""
    p, script = seal.p, _script(seal.p)
    units = [] if script is None else list(p.script_args[script.args_from : script.args_to])
    if sentence := strange(units):
        seal.note(sentence)
        return
    for unit in units:
        if _get(unit, "enabled", False) and any(word in _names(unit)[0] for word in _dialect().BATCHWISE):
            seal.bridge_refused = (
                "ControlNet's reference, inpainting and IP-Adapter units leave no room for the rows that Delta-Bridge adds, so it is off."
            )
            if seal.settings.bridge and seal.settings.appearance_prompt.strip():
                seal.note(seal.bridge_refused)
    carrying, ticked = structures(units), Units.parse(seal.settings.units)
    for number, unit in carrying:
        if not ticked.wants(number):
            continue
        try:
            units[number] = _aligned(seal, unit, number)
        except AlignError as error:
            if seal.settings.align:
                seal.note(f"ControlNet unit {number} stays where it is: {error}")
        except Exception as error:
            errors.report(f"SeAl could not align ControlNet unit {number}", exc_info=True)
            seal.note(f"ControlNet unit {number} could not be aligned ({type(error).__name__}: {str(error)[:200]}).")
    if not carrying:
        seal.note("No ControlNet unit carries a structure, so SeAl works from the prompt alone.")
        return
    _put(seal, script, units)


def strange(units: Sequence) -> str:
    """What there is to say of enabled units that are neither the extension's nor Forge's."""
    if _dialect() is not None or not any(_get(unit, "enabled", False) for unit in units):
        return ""
    return "SeAl does not know the units of this ControlNet, so it leaves them alone."


def has_picture(unit) -> bool:
    """Whether a unit brings a picture of its own: in img2img it may follow that tab's."""
    return _dialect().picture(unit) is not None


def structures(units: Sequence) -> list[tuple[int, Any]]:
    """The enabled units that say where things are, with their numbers."""
    if _dialect() is None:
        return []
    return [(number, unit) for number, unit in enumerate(units) if _get(unit, "enabled", False) and carries_structure(*_names(unit))]


def _names(unit: Any) -> tuple[str, str]:
    return str(_get(unit, "module", "none")).lower(), str(_get(unit, "model", "None")).lower()


def carries_structure(module: str, model: str) -> bool:
    """Whether a unit says where things are."""
    return not any(word in name for name in (module, model) for word in APPEARANCE)


def kind_of(module: str, model: str) -> str | None:
    """What the unit's map shows, where its names tell."""
    names = f"{module} {model}"
    return next((kind for kind, words in KINDS.items() if any(word in names for word in words)), None)


def _script(p):
    found = [s for s in getattr(p.scripts, "alwayson_scripts", ()) if s.title().lower() == "controlnet"]
    return found[0] if found and p.script_args else None


def _get(unit: Any, name: str, default: Any) -> Any:
    return unit.get(name, default) if isinstance(unit, dict) else getattr(unit, name, default)


def _put(seal, script, units: list) -> None:
    """Hand these units to ControlNet, one in the place of the other."""
    p, before = seal.p, seal.p.script_args
    seal.units = _readable([unit for unit in before[script.args_from : script.args_to] if _get(unit, "enabled", False)])
    changed = list(before)
    changed[script.args_from : script.args_to] = units
    p.script_args = type(before)(changed)
    mine = p.script_args

    def restore():
        if p.script_args is mine:
            p.script_args = before

    seal.undo.append(restore)


def _readable(units: Sequence) -> list:
    """The units as ControlNet has them; none where it cannot read one: whoever aligned that one has said so."""
    try:
        return [_dialect().own(unit) for unit in units]
    except Exception:
        return []


def infotext(seal) -> dict[str, str]:
    """What a picture says of the units: the user's own, not the aligned ones."""
    if not all(map(_is_single, seal.units)):
        return {}  # ControlNet counts each picture of such a unit for itself
    return {f"ControlNet {i}": _dialect().told(unit) for i, unit in enumerate(seal.units)}


def _dialect():
    """How the units of the ControlNet that is there are read and made; None for one that is neither the extension's nor Forge's."""
    return next((one for one in (extension, builtin) if one.MODULE in sys.modules), None)


def _aligned(seal, given: Any, number: int):
    """The unit with its aligned map, or the user's own where AnchorAlign is off. In any case its map is read."""
    unit = _dialect().own(given)
    found = find(seal, unit)
    moved = apply(found.map, found.how, found.kind, found.detail)
    _read(seal, unit, moved, found.kind)
    if not seal.settings.align:
        return given
    for reason in found.how.reasons:
        seal.note(f"ControlNet unit {number}: {reason}")
    seal.aligned.append(moved)
    return _dialect().ready(unit, np.ascontiguousarray(moved))


def _read(seal, unit, moved: np.ndarray, kind: str | None) -> None:
    """Where the picture's figure and its joints will be, as its structure shows them; and the joints of the references, to compare."""
    figure = figure_of(moved, seal.settings.room, kind)
    if figure is not None:
        seal.figures.append(figure)
    skeleton = read_skeleton(moved) if kind in (None, "skeleton") else None
    if skeleton is None:
        return
    if seal.skeleton is None:
        seal.skeleton = skeleton.moved((1 / moved.shape[1], 1 / moved.shape[0]))
    for number, asked in enumerate(seal.request.references):
        if number not in seal.poses and (pose := posed(unit, asked).skeleton) is not None:
            seal.poses[number] = pose


@dataclass(frozen=True, eq=False)
class Found:
    """What a unit's map shows, and where AnchorAlign puts it."""

    map: np.ndarray
    kind: str | None
    how: Alignment
    detail: float


def find(seal, unit) -> Found:
    """Looks at a unit and changes nothing. Of `seal` it needs p, request, settings and subjects: the page's preview asks, too."""
    if not _is_single(unit):
        raise AlignError("only single pictures can be aligned, and this unit has several.")
    rgb, mode = _structure(seal.p, unit)
    canvas, detail = _canvas(seal.p)
    found = _map(unit, rgb, canvas, mode)
    kind = kind_of(str(unit.module).lower(), str(unit.model).lower())
    settings = seal.settings
    if not settings.align:
        if _only_masked(seal.p):
            raise AlignError("only a part of the picture is drawn, and where its figure is there is not known.")
        everything = Box(0.0, 0.0, *map(float, canvas))
        return Found(found, kind, Alignment(canvas, found.shape[1::-1], mode, FILL, everything, everything), detail)
    asked = posed(unit, seal.request.references[0])
    reference = standing(asked, seal.subjects[0])
    if reference is None:
        raise AlignError("where the reference's character stands is not known; draw a mask.")
    if asked.pose is None and _finds_bodies(unit):
        reference = replace(reference, reasons=(*reference.reasons, NO_POSE))
    # A second blob in a map is another limb, not another subject.
    subject = from_control_map(found, kind, keep="all" if kind == "edges" else "large")
    how = align(reference, subject, canvas, mode, FILL, **settings.alignment())
    return Found(found, kind, how, detail)


def _is_single(unit) -> bool:
    mode = getattr(unit, "input_mode", "simple")  # Forge Neo's units are never anything else
    return getattr(mode, "value", mode) == "simple"


def _structure(p, unit) -> tuple[np.ndarray, str]:
    """The unit's picture, or img2img's own where it has none; and how ControlNet will fit it into the canvas."""
    rgb = _dialect().picture(unit)
    if rgb is not None:
        return np.ascontiguousarray(rgb), _dialect().resize_mode(unit.resize_mode)
    first = (getattr(p, "init_images", None) or [None])[0]
    if first is None:
        raise AlignError("it has no picture.")
    if _only_masked(p):
        raise AlignError("it follows the part that is inpainted.")
    return np.ascontiguousarray(np.asarray(first.convert("RGB"))), _dialect().resize_mode(p.resize_mode)


def _only_masked(p) -> bool:
    return getattr(p, "image_mask", None) is not None and bool(getattr(p, "inpaint_full_res", False))


def _canvas(p) -> tuple[tuple[int, int], float]:
    """Width and height that the sampler will use, and how much larger the hires pass is."""
    width, height = (n // 8 * 8 for n in (p.width, p.height))
    if not getattr(p, "enable_hr", False):
        return (width, height), 1.0
    tall = p.hr_resize_y or (p.hr_resize_x * height / width if p.hr_resize_x else height * p.hr_scale)
    return (width, height), min(max(1.0, tall / height), 8.0)


def _map(unit, rgb: np.ndarray, canvas: tuple[int, int], mode: str) -> np.ndarray:
    """What the unit's preprocessor makes of the picture; the picture itself where it has none."""
    if _is_ready(unit):
        return rgb
    found = np.asarray(_dialect().preprocessed(unit, np.ascontiguousarray(rgb), canvas, mode))
    if found.dtype != np.uint8:
        found = found.clip(0, 255).astype(np.uint8)
    found = found[..., None] if found.ndim == 2 else found[..., :3]
    return np.ascontiguousarray(np.repeat(found, 3, 2) if found.shape[2] == 1 else found)


def _is_ready(unit) -> bool:
    """Whether its picture is the map already."""
    return str(unit.module).lower() == "none"


def _finds_bodies(unit) -> bool:
    return not _is_ready(unit) and kind_of(str(unit.module).lower(), str(unit.model).lower()) == "skeleton"


def posed(unit, asked: Asked) -> Asked:
    """The reference with its pose as it was given, else as the unit's preprocessor finds it: limbs compare better than heights."""
    if asked.pose is not None or not _finds_bodies(unit):
        return asked
    try:
        found = replace(asked, pose=_map(unit, asked.rgb, asked.rgb.shape[1::-1], FILL))
    except Exception:  # a detector that fails says no more than one that finds nobody: then heights have to do
        return asked
    return asked if found.skeleton is None else found
