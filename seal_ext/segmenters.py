"""Segmenters that the user's WebUI already has: nothing is downloaded, and nothing is imported before it is needed."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .core.pixels import AlignError, Pixels
from .core.segmenting import Looks, Segmenter, segmented
from .core.subject import Way

SELFIE = "modules/selfie_segmentation/selfie_segmentation.tflite"  # inside mediapipe's wheel


class Failed(AlignError):
    """A network that does not work here, or not now: it is told even where another finds what was sought, and nothing of it is kept."""


def ways() -> dict[str, Way]:
    """For `find_subject`: those whose files are here."""
    known = {"mediapipe": (mediapipe_has(SELFIE), _mediapipe), "rembg": (find_spec("rembg") is not None, _rembg)}
    return {name: partial(segmented, segmenter=partial(sees, name, look), source=name) for name, (there, look) in known.items() if there}


def sees(name: str, look: Segmenter, image: Pixels) -> Looks:
    """What it sees; Failed where the package that is here does not work with the rest of this environment."""
    try:
        return look(image)
    except Exception as error:  # somebody else's package may fail in any way
        raise Failed(f"{name} fails here ({type(error).__name__}: {error!s:.100}).") from error


def mediapipe_has(*models: str) -> bool:
    """Later releases of mediapipe come without models."""
    spec = find_spec("mediapipe")
    folders = () if spec is None else spec.submodule_search_locations or ()
    return any(all((Path(folder) / model).is_file() for model in models) for folder in folders)


def _mediapipe(image: Pixels) -> Looks:
    """Both selfie models on the picture as it is, mirrored, upside down, and in its own colours or with red and blue exchanged.

    They were trained on people before a camera. Each look alone errs on animals and drawings, but seldom all of them in the same place;
    upside down, the ground below a figure is not taken for its body.
    """
    from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation

    looks = []
    for model in (0, 1):
        with SelfieSegmentation(model_selection=model) as network:
            for down, right, colour in ((1, 1, 1), (1, -1, 1), (1, 1, -1), (1, -1, -1), (-1, -1, 1)):
                turned = np.ascontiguousarray(image[::down, ::right, ::colour])
                looks.append(network.process(turned).segmentation_mask[::down, ::right])
    return np.stack(looks)


def _rembg(image: Pixels) -> Looks:
    from rembg import remove

    mask = np.asarray(remove(image, only_mask=True), np.float32)
    return mask.reshape(1, *mask.shape[:2]) / np.float32(255)
