"""Joints of a reference: as they were given, else from the first detector that finds them on the character; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .core.detecting import Look, detected
from .core.fingerprint import fingerprint
from .core.mask import Subject
from .core.pixels import AlignError, Pixels
from .core.skeleton import Skeleton
from .latest import Latest
from .reference import Reference
from .segmenters import Failed, mediapipe_has

# Inside mediapipe's wheel. Its other sizes of the body model would be downloaded.
MODELS = ("modules/pose_detection/pose_detection.tflite", "modules/pose_landmark/pose_landmark_full.tflite")
FULL = 1  # the size that is there
LEAST = 0.15  # sure enough for one look: several must agree anyway
# Where mediapipe's landmarks are in our order; the neck, which it lacks, is between the shoulders.
LANDMARKS = (0, 11, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
NECK, SHOULDERS = 1, [2, 5]
NO_POSE = 'SeAl finds no joints on the reference. You can give its pose yourself: "Reference\'s pose".'
NONE_HERE = "No detector is here: neither one of ControlNet's with its files, nor mediapipe with its body model."
KEPT = 32  # answers that are remembered

Detector = Callable[[Pixels, Subject], Skeleton]  # the joints of the subject of RGB pixels; AlignError where it does not find them
answers = Latest[Any](KEPT)  # of detectors, by their names and the picture


class Later(AlignError):
    """A detector that was not asked, because it takes its time."""


def posed(reference: Reference, first: Mapping[str, Detector] | None = None) -> tuple[Reference, tuple[str, ...]]:
    """The reference with its joints, and what there is to say. `first`: the host's own detectors, which are asked before mediapipe."""
    if reference.pose is not None or not reference.seen.known:
        return reference, ()
    failed, why, asked = list[str](), list[str](), {**(first or {}), **ways()}
    for find in asked.values():
        try:
            return replace(reference, pose=find(reference.rgb, reference.seen)), tuple(failed)
        except Later as error:
            return reference, (*failed, str(error))
        except Failed as error:
            failed.append(str(error))
        except AlignError as error:
            why.append(str(error))
    return reference, (*failed, " ".join((NO_POSE, *dict.fromkeys(why or ([] if asked else [NONE_HERE])))))


def ways() -> dict[str, Detector]:
    """The detectors whose files are here, whatever the host."""
    return {"mediapipe": _mediapipe} if mediapipe_has(*MODELS) else {}


def forget() -> None:
    answers.clear()


def _mediapipe(image: Pixels, subject: Subject) -> Skeleton:
    answer = answers.of(("mediapipe", fingerprint(image, subject.mask)), lambda: _looked(image, subject))
    if isinstance(answer, str):
        raise AlignError(answer)
    return answer


def _looked(image: Pixels, subject: Subject) -> Skeleton | str:
    """The joints, or why there are none."""
    try:
        from mediapipe.python.solutions.pose import Pose

        with Pose(True, FULL, min_detection_confidence=LEAST, min_tracking_confidence=LEAST) as network:
            return detected(image, subject, lambda shown: _look(network, shown))
    except AlignError as error:
        return str(error)
    except Exception as error:  # somebody else's package may fail in any way
        raise Failed(f"mediapipe's body model fails here ({type(error).__name__}: {error!s:.100}).") from error


def _look(network, shown: Pixels) -> Look | None:
    found = network.process(shown).pose_landmarks
    if found is None:
        return None
    height, width = shown.shape[:2]
    look = np.array([(mark.x * width, mark.y * height, mark.visibility) for mark in found.landmark])[list(LANDMARKS)]
    look[NECK] = *look[SHOULDERS, :2].mean(0), look[SHOULDERS, 2].min()
    return look
