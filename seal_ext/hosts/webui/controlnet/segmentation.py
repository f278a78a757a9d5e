"""ControlNet's own segmentation preprocessors, where their files are here: they colour a picture by what is on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from seal_ext.core.mask import Subject
from seal_ext.core.pixels import Pixels
from seal_ext.core.segmenting import Looks, segmented
from seal_ext.core.subject import Way
from seal_ext.segmenters import sees

from . import builtin, extension

NAME = "controlnet"
RESOLUTION = 512  # pixels of the shorter side, at which it looks; the preprocessors' own default
NEAR = 8  # of 255: how far a colour may be off, where an edge was smoothed
Colours = tuple[tuple[int, int, int], ...]
# Of people and animals; COCO's are bird, cat, dog, horse, sheep, cow, elephant, bear, zebra and giraffe.
COCO: Colours = (
    (220, 20, 60), (165, 42, 42), (255, 77, 255), (0, 226, 252), (182, 182, 255), (0, 82, 0), (120, 166, 157), (110, 76, 0),
    (174, 57, 255), (199, 100, 0), (72, 0, 118),
)  # fmt: skip
ADE20K: Colours = ((150, 5, 61), (255, 0, 122))


@dataclass(frozen=True)
class Kind:
    """A preprocessor by its name: the file it needs below ControlNet's folder of such files, and the colours of people and animals."""

    name: str
    file: str
    colours: Colours


# The best first. `seg_anime_face` is left out: it knows only faces, and it downloads a file that is not among ControlNet's.
KINDS = (
    Kind("seg_ofcoco", "oneformer/150_16_swin_l_oneformer_coco_100ep.pth", COCO),
    Kind("seg_ofade20k", "oneformer/250_16_swin_l_oneformer_ade20k_160k.pth", ADE20K),
    Kind("seg_ufade20k", "uniformer/upernet_global_small.pth", ADE20K),
)


def way(run: Callable[[Callable[[], Subject]], Subject]) -> Way | None:
    """For `find_subject`: the best that is there, if there is one. `run` does what takes the machine."""
    folders = tuple(_folders())
    there = (kind for kind in KINDS if any((folder / kind.file).is_file() for folder in folders))
    known = ((kind, preprocessor) for kind in there if (preprocessor := _preprocessor(kind.name)) is not None)
    kind, preprocessor = next(known, (None, None))
    if kind is None or preprocessor is None:
        return None
    look = partial(sees, kind.name, partial(_looks, preprocessor, kind.colours))
    return lambda rgb: run(lambda: segmented(rgb, look, NAME))


def _folders() -> Iterator[Path]:
    """Where this ControlNet looks for its preprocessors' files."""
    annotator, forge = sys.modules.get("annotator.annotator_path"), sys.modules.get("modules_forge.shared")
    if annotator is not None:
        yield Path(annotator.models_path)
        yield Path(str(annotator.__file__)).parent  # where an earlier version had one
    elif forge is not None:
        yield Path(forge.preprocessor_dir)


def _preprocessor(name: str) -> Callable[..., Any] | None:
    """A preprocessor of the ControlNet that is here, if it has one of this name."""
    if extension.MODULE in sys.modules:
        external: Any = sys.modules[extension.MODULE]
        found: Callable[..., Any] | None = external.ControlNetUnit.cls_get_preprocessor(name)
        return found
    if builtin.MODULE in sys.modules:
        state: Any = sys.modules["lib_controlnet.global_state"]
        try:
            found = state.get_preprocessor(name)
        except KeyError:  # Forge Classic's way of saying None
            found = None
        return found
    return None


def _looks(preprocessor: Callable[..., Any], colours: Colours, image: Pixels) -> Looks:
    """One look at the picture: where it has the colours of people and animals."""
    made = preprocessor(input_image=np.ascontiguousarray(image), resolution=RESOLUTION)
    seen = np.asarray(getattr(made, "value", made))[..., :3].astype(np.int16)
    wanted = np.zeros(seen.shape[:2], bool)
    for colour in colours:
        wanted |= np.abs(seen - np.array(colour, np.int16)).max(2) <= NEAR
    fitted = cv2.resize(wanted.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return fitted[None].astype(np.float32, copy=False)
