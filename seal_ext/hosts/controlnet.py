"""The structure in sd-webui-controlnet's units: found, aligned with the reference by AnchorAlign, and put back for the user."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from modules import errors

from seal_ext.core.geometry import FILL, STRETCH, Alignment, Correction, align
from seal_ext.core.masks import AlignError, Subject, figure_of, from_control_map
from seal_ext.core.skeleton import Skeleton, read_skeleton
from seal_ext.core.warping import apply
from seal_ext.request import whole
from seal_ext.units import Units

# Units that show what something looks like and not where it is, by words in the names of their modules and models.
APPEARANCE = ("reference", "ip-adapter", "ip_adapter", "ipadapter", "clip", "revision", "instant_id", "instantid", "face_id", "pulid",
              "photomaker", "shuffle", "color", "style", "recolor", "inpaint", "tile", "blur")  # fmt: skip
# What a unit's module or model says about its map.
KINDS = {
    "skeleton": ("openpose", "dwpose", "animal_pose"),
    "edges": ("canny", "lineart", "softedge", "hed", "pidinet", "scribble", "mlsd", "teed"),
}
BATCHWISE = ("reference", "inpaint_only", "colorfix")  # these units size their latents by the first U-Net call's batch


def align_units(seal) -> None:
    """Align every enabled unit that carries a structure. The user's own units come back when the generation ends."""
    p, script = seal.p, _script(seal.p)
    units = [] if script is None else list(p.script_args[script.args_from : script.args_to])
    for unit in units:
        if _get(unit, "enabled", False) and any(word in _names(unit)[0] for word in BATCHWISE):
            seal.bridge_refused = (
                "ControlNet's reference and inpainting units leave no room for the rows that Delta-Bridge adds, so it is off."
            )
            seal.note(seal.bridge_refused)
    carrying, ticked = structures(units), Units.parse(seal.settings.units)
    for number, unit in carrying:
        if seal.settings.align and ticked.wants(number):
            try:
                units[number] = _aligned(seal, unit, number)
            except AlignError as error:
                seal.note(f"ControlNet unit {number} stays where it is: {error}")
            except Exception as error:
                errors.report(f"SeAl could not align ControlNet unit {number}", exc_info=True)
                seal.note(f"ControlNet unit {number} could not be aligned ({type(error).__name__}: {str(error)[:200]}).")
    if not carrying:
        seal.note("No ControlNet unit carries a structure, so SeAl works from the prompt alone.")
        return
    _put(seal, script, units)


def structures(units: Sequence) -> list[tuple[int, Any]]:
    """The enabled units that say where things are, with their numbers."""
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
    seal.units = [_unit(unit) for unit in before[script.args_from : script.args_to] if _get(unit, "enabled", False)]
    changed = list(before)
    changed[script.args_from : script.args_to] = units
    p.script_args = type(before)(changed)
    mine = p.script_args

    def restore():
        if p.script_args is mine:
            p.script_args = before

    seal.undo.append(restore)


def infotext(seal) -> dict[str, str]:
    """What a picture says of the units: the user's own, not the aligned ones."""
    if not all(map(_is_single, seal.units)):
        return {}  # ControlNet counts each picture of such a unit for itself
    return {f"ControlNet {i}": unit.serialize() for i, unit in enumerate(seal.units)}


def _unit(given: Any):
    """A unit of ControlNet's own class, whatever the API sent; never the user's object."""
    return _external().ControlNetUnit.from_dict(given) if isinstance(given, dict) else given.copy()


def _external():
    return sys.modules["internal_controlnet.external_code"]


def _aligned(seal, given: Any, number: int):
    unit = _unit(given)
    found = find(seal, unit)
    moved = apply(found.map, found.how, found.kind, found.detail)
    for reason in found.how.reasons:
        seal.note(f"ControlNet unit {number}: {reason}")
    seal.aligned.append(moved)
    figure = figure_of(moved, seal.settings.room, found.kind)
    if figure is not None:
        seal.figures.append(figure)
    if found.pose is not None and seal.skeleton is None:
        skeleton = read_skeleton(moved)
        if skeleton is not None:
            seal.skeleton = skeleton.moved((1 / moved.shape[1], 1 / moved.shape[0]))
            seal.poses[0] = found.pose
    ready = dict(module="none", image=np.ascontiguousarray(moved), mask=None, resize_mode=type(unit.resize_mode)(STRETCH))
    return unit.copy(update=ready)


@dataclass(frozen=True, eq=False)
class Found:
    """What a unit's map shows, and where AnchorAlign puts it."""

    map: np.ndarray
    kind: str | None
    how: Alignment
    detail: float
    pose: Skeleton | None = None  # of the reference, where the unit's preprocessor found one


def find(seal, unit) -> Found:
    """Looks at a unit and changes nothing. Of `seal` it needs p, request, settings and subjects: the page's preview asks, too."""
    if not _is_single(unit):
        raise AlignError("only single pictures can be aligned, and this unit has several.")
    rgb, mode = _structure(seal.p, unit)
    canvas, detail = _canvas(seal.p)
    found = _map(unit, rgb, canvas, mode)
    kind = kind_of(str(unit.module).lower(), str(unit.model).lower())
    asked, known = seal.request.references[0], seal.subjects[0]
    reference = whole(asked) if known is None else known
    if kind == "skeleton" and unit.module != "none":
        reference = _with_pose(unit, asked, reference)
    if known is None and reference.skeleton is None:
        raise AlignError("where the reference's character stands is not known; draw a mask.")
    settings = seal.settings
    hand = Correction(settings.hand_x, settings.hand_y, settings.hand_scale)
    # A second blob in a map is another limb, not another subject.
    subject = from_control_map(found, kind, keep="all" if kind == "edges" else "large")
    how = align(reference, subject, canvas, mode, FILL, settings.anchor, "auto", settings.margin, hand)
    return Found(found, kind, how, detail, reference.skeleton)


def _is_single(unit) -> bool:
    return getattr(unit.input_mode, "value", unit.input_mode) == "simple"


def _structure(p, unit) -> tuple[np.ndarray, str]:
    """The unit's picture, or img2img's own where it has none; and how ControlNet will fit it into the canvas."""
    images = unit.get_input_images_rgba()
    if images:
        image = images[0]
        # What a brush drew on the unit's canvas is the structure itself.
        scribbled = (image[..., 3] > 5).any() and (image[..., 3] < 250).any()
        rgb = np.repeat(image[..., 3:], 3, 2) if scribbled else image[..., :3]
        return np.ascontiguousarray(rgb), unit.resize_mode.value
    first = (getattr(p, "init_images", None) or [None])[0]
    if first is None:
        raise AlignError("it has no picture.")
    if getattr(p, "image_mask", None) is not None and getattr(p, "inpaint_full_res", False):
        raise AlignError("it follows the part that is inpainted.")
    return np.ascontiguousarray(np.asarray(first.convert("RGB"))), _external().resize_mode_from_value(p.resize_mode).value


def _canvas(p) -> tuple[tuple[int, int], float]:
    """Width and height that the sampler will use, and how much larger the hires pass is."""
    width, height = (n // 8 * 8 for n in (p.width, p.height))
    if not getattr(p, "enable_hr", False):
        return (width, height), 1.0
    tall = p.hr_resize_y or (p.hr_resize_x * height / width if p.hr_resize_x else height * p.hr_scale)
    return (width, height), min(max(1.0, tall / height), 8.0)


def _map(unit, rgb: np.ndarray, canvas: tuple[int, int], mode: str) -> np.ndarray:
    """What the unit's preprocessor makes of the picture; the picture itself where it has none."""
    if unit.module == "none":
        return rgb
    preprocessor = type(unit).cls_get_preprocessor(unit.module)
    if preprocessor is None or not preprocessor.returns_image:
        raise AlignError(f"its preprocessor {unit.module} makes no map.")
    resolution = unit.processor_res
    if unit.pixel_perfect:
        fitting = _external().resize_mode_from_value(mode)
        resolution = _external().pixel_perfect_resolution(rgb, target_H=canvas[1], target_W=canvas[0], resize_mode=fitting)
    sliders = dict(slider_1=unit.threshold_a, slider_2=unit.threshold_b)
    result = preprocessor.cached_call(np.ascontiguousarray(rgb), resolution=resolution, **sliders, low_vram=False, model=unit.model)
    found = np.asarray(result.value)
    if found.dtype != np.uint8:
        found = found.clip(0, 255).astype(np.uint8)
    found = found[..., None] if found.ndim == 2 else found[..., :3]
    return np.ascontiguousarray(np.repeat(found, 3, 2) if found.shape[2] == 1 else found)


def _with_pose(unit, asked, reference: Subject) -> Subject:
    """The reference with its own joints, found by the unit's preprocessor: limbs compare better than heights."""
    try:
        return reference.with_pose(_map(unit, asked.rgb, asked.rgb.shape[1::-1], FILL))
    except Exception:  # a picture without a body in it, or a detector that fails: then heights have to do
        return reference
