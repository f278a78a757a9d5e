"""The structure in ControlNet's units: found, aligned with the reference by AnchorAlign, and put back for the user.

The ControlNet that is there says in its dialect what a unit is made of: the extension, or the one built into Forge.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from modules import errors

from seal_ext.core.anchor_align import Aligned, anchor_align, shows_body
from seal_ext.core.canvas import FILL
from seal_ext.core.guide import NOTHING_KNOWN, Known
from seal_ext.core.pixels import AlignError, Mask, Pixels
from seal_ext.core.skeleton import Skeleton
from seal_ext.detectors import Detector, posed
from seal_ext.reference import Reference
from seal_ext.settings import Settings
from seal_ext.units import NO_CONTROLNET, Units, is_ready

from . import bodies, builtin, extension

# Units that show what something looks like and not where it is, by words in the names of their modules and models.
APPEARANCE = ("reference", "ip-adapter", "ip_adapter", "ipadapter", "clip", "revision", "instant_id", "instantid", "face_id", "pulid",
              "photomaker", "shuffle", "color", "style", "recolor", "inpaint", "tile", "blur")  # fmt: skip
# What a unit's module or model says about its map.
KINDS = {
    "skeleton": ("openpose", "dwpose", "animal_pose"),
    "edges": ("canny", "lineart", "softedge", "hed", "pidinet", "scribble", "mlsd", "teed"),
}
NO_UNIT = "No ControlNet unit has a pose or another structure, so SeAl works from the prompt alone."
ANIMAL = "animal"  # in the names of what draws and reads the poses of animals
RESOLUTION = 512  # at which a preprocessor looks at a reference
STRANGE = "SeAl does not know the units of this ControlNet, so it leaves them alone."
REFUSED = "Delta-Bridge is off, because it cannot work beside ControlNet's reference, inpainting and IP-Adapter units."
Note = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Structures:
    """What ControlNet's units said of a generation: one value, answered once and never changed."""

    aligned: tuple[Pixels, ...] = ()  # the maps that were moved, for whoever wants to see them
    figures: tuple[Mask, ...] = ()  # where the maps' figures are, on the canvas
    known: Known = NOTHING_KNOWN  # how the figure stands, in shares of the canvas
    poses: Mapping[int, Skeleton] = field(default_factory=dict)  # the joints of references, by their numbers and in their own pixels
    units: tuple[Any, ...] = ()  # the user's enabled units, as ControlNet has them
    bridge_refused: str = ""  # why Delta-Bridge cannot work beside something the user switched on
    restore: Callable[[], None] = lambda: None  # gives the user's own units back to the generation


def align_units(p: Any, references: Sequence[Reference], settings: Settings, note: Note) -> Structures:
    """Align every enabled unit that carries a structure, and say what the units show. `restore` gives the user's own units back."""
    script, controlnet = script_in(p.scripts) if p.script_args else None, there()
    units = [] if script is None else list(p.script_args[script.args_from : script.args_to])
    if controlnet is None:
        note(strange(units) or NO_CONTROLNET)
        return Structures()
    refused = REFUSED if any(map(controlnet.is_batchwise, units)) else ""
    if said := controlnet.refused(units, settings):
        note(said)
    if not structures(units):
        note(NO_UNIT)
        return Structures(bridge_refused=refused)
    found, changed = controlnet.read(p, units, references, settings, note)
    own = controlnet.readable(unit for unit in units if _get(unit, "enabled", False))
    return replace(found, units=own, bridge_refused=refused, restore=_put(p, script, changed))


def infotext(found: Structures) -> dict[str, str]:
    """What a picture says of the units: the user's own, not the aligned ones."""
    controlnet = there()
    if controlnet is None or not all(map(_is_single, found.units)):
        return {}  # ControlNet counts each picture of a unit with several for itself
    return {f"ControlNet {i}": controlnet.dialect.told(unit) for i, unit in enumerate(found.units)}


def strange(units: Sequence[Any]) -> str:
    """What there is to say of enabled units that are neither the extension's nor Forge's."""
    return STRANGE if there() is None and any(_get(unit, "enabled", False) for unit in units) else ""


def structures(units: Sequence[Any]) -> list[tuple[int, Any]]:
    """The enabled units that say where things are, with their numbers."""
    enabled = [(number, unit) for number, unit in enumerate(units) if _get(unit, "enabled", False)]
    return [(number, unit) for number, unit in enabled if not any(word in name for name in _names(unit) for word in APPEARANCE)]


def script_in(runner: Any) -> Any:
    """ControlNet's script among those of a tab, if it is one of them."""
    return next((script for script in getattr(runner, "alwayson_scripts", ()) if script.title().lower() == "controlnet"), None)


def there() -> ControlNet | None:
    """The ControlNet that is there, unless it is neither the extension nor Forge's."""
    dialect = next((one for one in (extension, builtin) if one.MODULE in sys.modules), None)
    return None if dialect is None else ControlNet(dialect)


def detectors() -> dict[str, Detector]:
    """The detectors of bodies that ControlNet has here with their files."""
    controlnet = there()
    return {} if controlnet is None else bodies.detectors(controlnet.draw)


@dataclass(frozen=True, eq=False)
class ControlNet:
    """A ControlNet whose units can be read; made anew for a generation or a look, in which it asks for a reference's joints once."""

    dialect: Any  # the module `extension`, or `builtin`: both have the same functions
    asked: dict[tuple[Reference, bool], Reference] = field(default_factory=dict)  # with their joints

    @property
    def external(self) -> Any:
        """What it offers to other extensions."""
        return sys.modules[self.dialect.MODULE]

    def own(self, given: Any) -> Any:
        """A unit of ControlNet's own class, whatever the API sent; never the user's object."""
        return self.external.ControlNetUnit.from_dict(given) if isinstance(given, dict) else self.dialect.copy(given)

    def _mode(self, value: Any) -> str:
        return str(self.external.resize_mode_from_value(value).value)

    def read(
        self, p: Any, units: Sequence[Any], references: Sequence[Reference], settings: Settings, note: Note
    ) -> tuple[Structures, list[Any]]:
        """What the units show, and the units with their maps aligned."""
        changed, found = list(units), list[Aligned]()
        poses: dict[int, Skeleton] = {}
        ticked, (canvas, detail) = Units.parse(settings.units), _canvas(p)
        for number, given in structures(units):
            if not ticked.wants(number):
                continue
            try:
                unit = self.own(given)
                aligned = self.find(unit, references[0], settings, canvas, detail, p)
                if aligned.bodies:
                    poses |= self._poses(references, settings, note)
                if aligned.moves:
                    changed[number] = self.dialect.ready(unit, np.ascontiguousarray(aligned.map))
                found.append(aligned)
                for reason in aligned.alignment.reasons if settings.align else ():
                    note(f"ControlNet unit {number}: {reason}")
            except AlignError as error:
                if settings.align:
                    note(f"ControlNet unit {number} stays where it is: {error}")
            except Exception as error:
                errors.report(f"SeAl could not align ControlNet unit {number}", exc_info=True)
                note(f"ControlNet unit {number} could not be aligned ({type(error).__name__}: {str(error)[:200]}).")
        figures = tuple(one.figure for one in found if one.figure is not None)
        body = next((one.known.body for one in found if one.known.body), None)
        extent = next((one.known.extent for one in found if one.known.extent), None)
        return Structures(tuple(one.map for one in found if one.moves), figures, Known(body, extent), poses), changed

    def _poses(self, references: Sequence[Reference], settings: Settings, note: Note) -> dict[int, Skeleton]:
        """The references' joints, which guide the match, by their numbers."""
        poses = {}
        for number, one in enumerate(references):
            found, told = self.posed(one) if settings.limbs else (one, ())
            if found.skeleton is not None:
                poses[number] = found.skeleton
            for sentence in told:
                note(f"Reference {number + 1}: {sentence}")
        return poses

    def find(
        self, unit: Any, reference: Reference, settings: Settings, canvas: tuple[int, int], detail: float = 1.0, p: Any = None, *,
        now: bool = True,
    ) -> Aligned:  # fmt: skip
        """Looks at a unit and changes nothing. `p` is needed only where a unit may follow the picture of img2img; `now`: see `posed`."""
        if not _is_single(unit):
            raise AlignError("SeAl can align only single pictures, and this unit has several.")
        rgb, mode = self._structure(p, unit)
        kind, subject = kind_of(*_names(unit)), None
        found = self._map(unit, rgb, canvas, mode)
        if settings.align:
            animal = any(ANIMAL in name for name in _names(unit))
            asked = animal or shows_body(found, kind)
            reference, told = self.posed(reference, animal, now) if asked else (reference, ())
            subject = replace(reference.standing, reasons=(*reference.standing.reasons, *told))
        if _only_masked(p) and not (subject and subject.known):
            raise AlignError("only the inpainted part is drawn, and SeAl does not know where the figure is in it.")
        return anchor_align(subject, found, canvas, mode, FILL, kind, detail, room=settings.room, **settings.alignment())

    def posed(self, reference: Reference, animal: bool = False, now: bool = True) -> tuple[Reference, tuple[str, ...]]:
        """The reference with its joints, and what is not told yet. `now`: whether detectors of ControlNet may look that take seconds."""
        told: tuple[str, ...] = ()
        if (reference, animal) not in self.asked:
            found, told = bodies.posed_animal(reference, self.draw, now) if animal else posed(reference, bodies.detectors(self.draw, now))
            self.asked[reference, animal] = found
        return self.asked[reference, animal], told

    def draw(self, module: str, rgb: Pixels) -> Pixels:
        """What one of its preprocessors makes of a reference."""
        return self._preprocessed(self.external.ControlNetUnit(module=module), rgb, RESOLUTION)

    def refused(self, units: Sequence[Any], settings: Settings) -> str:
        """What there is to say where Delta-Bridge was asked for and cannot work beside these units."""
        wanted = settings.bridge and settings.appearance_prompt.strip()
        return REFUSED if wanted and any(map(self.is_batchwise, units)) else ""

    def waits(self, units: Sequence[Any]) -> int | None:
        """The first unit that has a picture and is not enabled."""
        waiting = ((number, self.own(unit)) for number, unit in enumerate(units) if unit is not None and not _get(unit, "enabled", False))
        return next((number for number, unit in waiting if _is_single(unit) and self.has_picture(unit)), None)

    def is_batchwise(self, unit: Any) -> bool:
        return bool(_get(unit, "enabled", False)) and any(word in _names(unit)[0] for word in self.dialect.BATCHWISE)

    def has_picture(self, unit: Any) -> bool:
        """Whether a unit brings a picture of its own: in img2img it may follow that tab's."""
        return self.dialect.picture(unit) is not None

    def readable(self, units: Iterable[Any]) -> tuple[Any, ...]:
        """The units as ControlNet has them; none if it cannot read one, which aligning has said by now."""
        try:
            return tuple(map(self.own, units))
        except Exception:
            return ()

    def _structure(self, p: Any, unit: Any) -> tuple[Pixels, str]:
        """The unit's picture, or img2img's own where it has none; and how ControlNet will fit it into the canvas."""
        rgb = self.dialect.picture(unit)
        if rgb is not None:
            return np.ascontiguousarray(rgb), self._mode(unit.resize_mode)
        first = (getattr(p, "init_images", None) or [None])[0]
        if first is None:
            raise AlignError("it has no picture.")
        if _only_masked(p):
            raise AlignError("it shows only the part that is inpainted.")
        return np.ascontiguousarray(np.asarray(first.convert("RGB"))), self._mode(p.resize_mode)

    def _map(self, unit: Any, rgb: Pixels, canvas: tuple[int, int], mode: str) -> Pixels:
        """What the unit's preprocessor makes of the picture; the picture itself where it has none."""
        if is_ready(unit):
            return rgb
        resolution = unit.processor_res
        if unit.pixel_perfect:
            fitting = self.external.resize_mode_from_value(mode)
            resolution = self.external.pixel_perfect_resolution(rgb, target_H=canvas[1], target_W=canvas[0], resize_mode=fitting)
        return self._preprocessed(unit, rgb, resolution)

    def _preprocessed(self, unit: Any, rgb: Pixels, resolution: float) -> Pixels:
        found = np.asarray(self.dialect.preprocessed(unit, np.ascontiguousarray(rgb), resolution))
        if found.dtype != np.uint8:
            found = found.clip(0, 255).astype(np.uint8)
        found = found[..., None] if found.ndim == 2 else found[..., :3]
        return np.ascontiguousarray(np.repeat(found, 3, 2) if found.shape[2] == 1 else found)


def kind_of(module: str, model: str) -> str | None:
    """What the unit's map shows, where its names tell."""
    names = f"{module} {model}"
    return next((kind for kind, words in KINDS.items() if any(word in names for word in words)), None)


def _is_single(unit: Any) -> bool:
    mode = getattr(unit, "input_mode", "simple")  # Forge Neo's units are never anything else
    return bool(getattr(mode, "value", mode) == "simple")


def _get(unit: Any, name: str, default: Any) -> Any:
    return unit.get(name, default) if isinstance(unit, dict) else getattr(unit, name, default)


def _names(unit: Any) -> tuple[str, str]:
    return str(_get(unit, "module", "none")).lower(), str(_get(unit, "model", "None")).lower()


def _put(p: Any, script: Any, units: list[Any]) -> Callable[[], None]:
    """Hand these units to ControlNet, one in the place of the other; the answer gives the user's back."""
    before = p.script_args
    changed = list(before)
    changed[script.args_from : script.args_to] = units
    p.script_args = type(before)(changed)
    mine = p.script_args

    def restore() -> None:
        if p.script_args is mine:
            p.script_args = before

    return restore


def _only_masked(p: Any) -> bool:
    return getattr(p, "image_mask", None) is not None and bool(getattr(p, "inpaint_full_res", False))


def _canvas(p: Any) -> tuple[tuple[int, int], float]:
    """Width and height that the sampler will use, and how much larger the hires pass is."""
    width, height = (n // 8 * 8 for n in (p.width, p.height))
    if not getattr(p, "enable_hr", False):
        return (width, height), 1.0
    tall = p.hr_resize_y or (p.hr_resize_x * height / width if p.hr_resize_x else height * p.hr_scale)
    return (width, height), min(max(1.0, tall / height), 8.0)
