"""ControlNet's own detectors of bodies, asked for a reference's joints: those whose files are here, as the others would be downloaded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from modules import errors

from seal_ext.core.detecting import sticks_on
from seal_ext.core.fingerprint import fingerprint
from seal_ext.core.joints import refused
from seal_ext.core.mask import Subject
from seal_ext.core.pixels import AlignError, Pixels
from seal_ext.core.skeleton import Skeleton, read_skeletons
from seal_ext.detectors import NO_POSE, Detector, Later, answers
from seal_ext.reference import Reference
from seal_ext.segmenters import Failed

# The preprocessors, best first, and all files that each of them opens; what is missing it would download.
PEOPLE = {
    "dw_openpose_full": ("yolox_l.onnx", "dw-ll_ucoco_384.onnx"),
    "openpose": ("body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"),
}
ANIMAL = "animal_openpose"
OF_ANIMALS = ("yolox_l.onnx", "rtmpose-m_simcc-ap10k_pt-aic-coco_210e-256x256-7a041aa1_20230206.onnx")
PLACES = "annotator.annotator_path"  # the module of every such ControlNet that knows the folder of these files
NO_ANIMAL = "ControlNet's animal_openpose is not here with its files, so SeAl compares the animals' outlines."

Read = TypeVar("Read")
Draw = Callable[[str, Pixels], Pixels]  # what a preprocessor of this name makes of RGB pixels


def detectors(draw: Draw, now: bool = True) -> dict[str, Detector]:
    """Those that are here. `now`: whether one may be asked that has not seen this picture yet; that takes seconds."""
    return {name: partial(_asked, draw, now, name) for name, files in PEOPLE.items() if _are_here(files)}


def posed_animal(reference: Reference, draw: Draw, now: bool = True) -> tuple[Reference, tuple[str, ...]]:
    """A reference whose subject is measured as the map of an animal's pose is: by its sticks; and what there is to say."""
    if reference.pose is not None or not reference.seen.known:
        return reference, ()
    if not _are_here(OF_ANIMALS):
        return reference, (NO_ANIMAL,)
    try:
        return replace(reference, subject=sticks_on(_drawn(draw, now, ANIMAL, reference.rgb, np.asarray), reference.seen)), ()
    except (Failed, Later) as error:
        return reference, (str(error),)
    except AlignError as error:
        return reference, (f"{NO_POSE} {error}",)


def _are_here(files: tuple[str, ...]) -> bool:
    places = sys.modules.get(PLACES)
    return places is not None and all((Path(places.models_path) / "openpose" / file).is_file() for file in files)


def _asked(draw: Draw, now: bool, name: str, rgb: Pixels, subject: Subject) -> Skeleton:
    """The body that lies on the subject, of all that the preprocessor finds."""
    why = [f"ControlNet's {name} sees nobody."]
    for body in _drawn(draw, now, name, rgb, lambda shown: _bodies(shown, rgb)):
        reason = refused(body, subject)
        if reason is None:
            return body
        why.append(reason)
    raise AlignError(why[:2][-1])


def _bodies(shown: Pixels, rgb: Pixels) -> list[Skeleton]:
    back = (rgb.shape[1] / shown.shape[1], rgb.shape[0] / shown.shape[0])
    return [body.moved(back) for body in read_skeletons(shown)]


def _drawn(draw: Draw, now: bool, name: str, rgb: Pixels, read: Callable[[Pixels], Read]) -> Read:
    """What is read from the map that the preprocessor makes of the reference, once a picture."""
    key = (name, fingerprint(rgb))
    if not now and key not in answers:
        raise Later(f"Press Update preview: ControlNet's {name} then looks for the reference's joints.")
    try:
        return answers.of(key, lambda: read(draw(name, rgb)))
    except Exception as error:  # somebody else's code may fail in any way
        errors.report(f"ControlNet's {name} failed on SeAl's reference", exc_info=True)
        raise Failed(f"ControlNet's {name} failed on the reference ({type(error).__name__}: {str(error)[:200]}).") from error
