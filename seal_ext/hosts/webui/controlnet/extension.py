"""A unit of the sd-webui-controlnet extension, as A1111 has it."""

from __future__ import annotations

from typing import Any

import numpy as np

from seal_ext.core.canvas import STRETCH
from seal_ext.core.pixels import AlignError, Pixels

MODULE = "internal_controlnet.external_code"
# These units keep what they made for the rows of the first U-Net call: latents, or an adapter's tokens.
BATCHWISE: tuple[str, ...] = ("reference", "inpaint_only", "colorfix", "ip-adapter", "instant_id")


def copy(unit: Any) -> Any:
    return unit.copy()


def picture(unit: Any) -> Pixels | None:
    """What the unit shows, RGB; what a brush drew on its canvas is the structure itself."""
    images = unit.get_input_images_rgba()
    if not images:
        return None
    image = images[0]
    scribbled = (image[..., 3] > 5).any() and (image[..., 3] < 250).any()
    return np.repeat(image[..., 3:], 3, 2) if scribbled else image[..., :3]


def preprocessed(unit: Any, rgb: Pixels, resolution: float) -> Any:
    """What the unit's preprocessor makes of a picture; ControlNet remembers it for the run."""
    preprocessor = type(unit).cls_get_preprocessor(unit.module)
    if preprocessor is None or not preprocessor.returns_image:
        raise AlignError(f"its preprocessor {unit.module} makes no map.")
    sliders = dict(slider_1=unit.threshold_a, slider_2=unit.threshold_b)
    return preprocessor.cached_call(rgb, resolution=resolution, **sliders, low_vram=False, model=unit.model).value


def ready(unit: Any, image: Pixels) -> Any:
    """The unit with a map that is made already and fits the canvas."""
    return unit.copy(update=dict(module="none", image=image, mask=None, resize_mode=type(unit.resize_mode)(STRETCH)))


def told(unit: Any) -> str:
    """The unit as an infotext has it."""
    return str(unit.serialize())
