"""rembg as a way to find the subject, for users who already have it."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from .core.mask import Subject, subject_of
from .core.pixels import Pixels, as_rgb, checked_image
from .core.subject import Way


def ways() -> dict[str, Way]:
    """For `find_subject`: nothing where rembg is not installed."""
    return {"rembg": _found} if find_spec("rembg") is not None else {}


def _found(rgb: Pixels) -> Subject:
    from rembg import remove

    mask = np.asarray(remove(as_rgb(checked_image(rgb, "the photo")), only_mask=True))
    return subject_of(mask.reshape(mask.shape[:2]) > 127, "rembg")
