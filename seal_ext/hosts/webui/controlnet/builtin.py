"""A unit of the ControlNet that is built into Forge and reForge."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from seal_ext.core.canvas import STRETCH
from seal_ext.core.pixels import AlignError, Pixels

MODULE = "lib_controlnet.external_code"
BATCHWISE: tuple[str, ...] = ()  # here such units ask which rows are whose
DRAWN = 5  # brighter than this is drawn, for this ControlNet


def copy(unit: Any) -> Any:
    return replace(unit)


def picture(unit: Any) -> Pixels | None:
    """What the unit shows, RGB; what a brush drew on an empty canvas is the structure itself."""
    if unit.use_preview_as_input and unit.generated_image is not None:
        return _rgb(np.asarray(unit.generated_image))
    image, drawn = _layers(unit)
    if image is None:
        return None
    if drawn is not None and (image < DRAWN).all() and (drawn > DRAWN).any():
        return _rgb(drawn)
    return _rgb(image)


def _layers(unit: Any) -> tuple[Pixels | None, Pixels | None]:
    """The unit's picture and what was drawn on it: two fields in Forge, one with both in reForge."""
    image = unit.image
    if isinstance(image, dict):
        return image.get("image"), image.get("mask")
    drawn = getattr(unit, "image_fg", None)
    return image, None if drawn is None else drawn[..., 3]


def _rgb(image: Pixels) -> Pixels:
    """Three channels; what is transparent is white, as for this ControlNet."""
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.float32) / 255
        mixed: Pixels = (image[..., :3] * alpha + 255 * (1 - alpha)).clip(0, 255).astype(np.uint8)
        return mixed
    return np.repeat(image[..., :1], 3, 2) if image.shape[2] < 3 else image[..., :3]


def preprocessed(unit: Any, rgb: Pixels, resolution: float) -> Any:
    """What the unit's preprocessor makes of a picture."""
    try:
        preprocessor = sys.modules["lib_controlnet.global_state"].get_preprocessor(unit.module)
    except KeyError:  # Forge Classic's way of saying None
        preprocessor = None
    if preprocessor is None:
        raise AlignError(f"there is no preprocessor {unit.module}.")
    fallback = {"resolution": (preprocessor.slider_resolution, 512), "slider_1": (preprocessor.slider_1, 1.0),
                "slider_2": (preprocessor.slider_2, 1.0)}  # fmt: skip
    given = {"resolution": resolution, "slider_1": unit.threshold_a, "slider_2": unit.threshold_b}
    for name, (slider, otherwise) in fallback.items():
        if given[name] < 0:  # so a unit leaves it to the preprocessor
            given[name] = slider.gradio_update_kwargs.get("value", otherwise)
    result = preprocessor(input_image=rgb, input_mask=None, **{**given, "resolution": int(given["resolution"])})
    if not isinstance(result, np.ndarray) or result.ndim not in (2, 3):
        raise AlignError(f"its preprocessor {unit.module} makes no map.")
    return result


def ready(unit: Any, image: Pixels) -> Any:
    """The unit with a map that is made already and fits the canvas."""
    mode = sys.modules[MODULE].resize_mode_from_value(STRETCH)
    empty = np.zeros((*image.shape[:2], 4), np.uint8)
    if isinstance(unit.image, dict) or not hasattr(unit, "image_fg"):
        pictures: dict[str, Any] = {"image": {"image": image, "mask": np.zeros_like(image)}, "mask_image": None}
    else:
        pictures = {"image": image, "image_fg": empty, "mask_image": None, "mask_image_fg": None}
    return replace(unit, module="None", use_preview_as_input=False, resize_mode=mode, **pictures)


def told(unit: Any) -> str:
    """The unit as an infotext has it."""
    infotext: Any = sys.modules["lib_controlnet.infotext"]
    return str(infotext.serialize_unit(unit))
