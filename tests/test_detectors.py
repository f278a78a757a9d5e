"""A reference's joints: given ones win, detectors are asked once a picture and only where their files are, and their faults are told."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from seal_ext import api, detectors, segmenters
from seal_ext.core.detecting import LOOKS
from seal_ext.core.mask import everything
from seal_ext.core.pixels import AlignError
from seal_ext.core.skeleton import NECK
from seal_ext.detectors import NO_POSE, NONE_HERE, Later, posed
from seal_ext.hosts.webui import process_state
from seal_ext.reference import Reference
from seal_ext.segmenters import Failed
from seal_ext.settings import Settings
from seal_ext.studio.align import align_structure
from tests.core.test_detecting import BODY, SIDE, SUBJECT, Network, picture
from tests.skeletons import painted
from tests.test_five_entries import text

REFERENCE = Reference(picture(), subject=SUBJECT)
POSE_MAP = np.asarray(painted(size=(SIDE, SIDE)))


@pytest.fixture(autouse=True)
def nothing_remembered():
    detectors.forget()
    yield
    detectors.forget()


@pytest.fixture
def mediapipe(tmp_path, monkeypatch):
    """As far as SeAl looks at it: its body model sees the green body. How it was made, and how often it was asked."""
    for model in detectors.MODELS:
        (tmp_path / model).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / model).touch()
    there = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(segmenters, "find_spec", {"mediapipe": there}.get)
    seen = SimpleNamespace(folder=tmp_path, network=Network(), made=[])

    class Pose:
        def __init__(self, static_image_mode, model_complexity, **more):
            seen.made.append((static_image_mode, model_complexity))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def process(self, shown):
            joints, (height, width) = seen.network(shown), shown.shape[:2]
            marks = [SimpleNamespace(x=0.0, y=0.0, visibility=0.0) for _ in range(33)]
            for joint, landmark in enumerate(detectors.LANDMARKS):
                if joint != NECK:
                    x, y, sure = joints[joint]
                    marks[landmark] = SimpleNamespace(x=x / width, y=y / height, visibility=sure)
            return SimpleNamespace(pose_landmarks=SimpleNamespace(landmark=marks))

    for name in ("mediapipe", "mediapipe.python", "mediapipe.python.solutions"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "mediapipe.python.solutions.pose", SimpleNamespace(Pose=Pose))
    return seen


def test_mediapipe_gives_the_joints_in_our_order(mediapipe):
    found, told = posed(REFERENCE)
    assert told == () and np.abs(found.skeleton.points - BODY.points)[np.arange(18) != NECK].max() < 3
    assert np.allclose(found.skeleton.points[NECK], found.skeleton.points[[2, 5]].mean(0))
    assert mediapipe.made == [(True, 1)]  # of the three sizes the one that is in the wheel
    assert found.seen is REFERENCE.seen and found.hash != REFERENCE.hash


def test_a_picture_is_looked_at_once(mediapipe):
    for _ in range(3):
        posed(Reference(picture(), subject=SUBJECT))
    assert mediapipe.network.calls == len(LOOKS)
    posed(replace(REFERENCE, subject=replace(SUBJECT, mask=np.roll(SUBJECT.mask, 3, 0))))
    assert mediapipe.network.calls == 2 * len(LOOKS)


def test_what_is_refused_is_said_and_remembered_too(mediapipe):
    mediapipe.network.change = lambda look, number: look + np.array([0, 300, 0])
    for _ in range(2):
        found, (told,) = posed(REFERENCE)
        assert found is REFERENCE and told.startswith(NO_POSE) and "detector" in told
    assert mediapipe.network.calls == len(LOOKS)


@pytest.mark.parametrize("missing", detectors.MODELS)
def test_nothing_is_asked_where_a_file_is_missing(mediapipe, missing):
    (mediapipe.folder / missing).unlink()
    found, (told,) = posed(REFERENCE)
    assert found is REFERENCE and NONE_HERE in told and not mediapipe.made


def test_a_given_pose_wins_and_an_unknown_subject_has_nothing_to_be_held_against(mediapipe):
    for reference in (replace(REFERENCE, pose=BODY), replace(REFERENCE, subject=everything(SIDE, SIDE, "Nobody knows."))):
        assert posed(reference) == (reference, ())
    assert not mediapipe.made


def test_a_package_that_fails_is_told(mediapipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe.python.solutions.pose", None)
    found, (failed, none) = posed(REFERENCE)
    assert found is REFERENCE and "mediapipe's body model fails here" in failed and none == NO_POSE


def raising(error):
    def find(rgb, subject):
        raise error

    return find


def test_the_host_s_own_detectors_come_first(mediapipe):
    mine = lambda rgb, subject: BODY  # noqa: E731
    assert posed(REFERENCE, {"mine": mine})[0].skeleton is BODY and not mediapipe.made
    found, told = posed(REFERENCE, {"one": raising(Failed("It fails.")), "two": raising(AlignError("It sees nobody."))})
    assert found.skeleton is not None and told == ("It fails.",)  # what does not work is told, even where another finds them
    found, told = posed(REFERENCE, {"one": raising(Later("Not now.")), "two": mine})
    assert found is REFERENCE and told == ("Not now.",)  # what would be used is not what another would find


def test_the_routes_and_the_studio_look_for_joints_where_the_structure_shows_some(mediapipe, monkeypatch):
    given = {"reference": text(picture()), "mask": text(np.repeat(SUBJECT.mask[..., None] * np.uint8(255), 3, 2)), "width": SIDE,
             "height": SIDE, "structure": text(POSE_MAP)}  # fmt: skip
    settings = Settings.parse({"enabled": True})
    for kind, rule in (("auto", "joints"), ("skeleton", "joints")):
        found = align_structure(REFERENCE, POSE_MAP, (SIDE, SIDE), settings, kind)
        assert found.alignment.rule == rule and found.subject.skeleton is not None and api.align(given | {"kind": kind})["rule"] == rule
    assert mediapipe.network.calls == len(LOOKS)
    monkeypatch.setattr(process_state, "detectors", lambda: {"mine": raising(Failed("ControlNet's openpose failed."))})
    assert "ControlNet's openpose failed." in api.align(given)["reasons"]
    shape = np.repeat(SUBJECT.mask[..., None] * np.uint8(255), 3, 2)
    assert align_structure(REFERENCE, shape, (SIDE, SIDE), settings, "auto").subject.skeleton is None
    (mediapipe.folder / detectors.MODELS[0]).unlink()
    assert any(NO_POSE in reason for reason in align_structure(REFERENCE, POSE_MAP, (SIDE, SIDE), settings, "auto").alignment.reasons)


def test_nothing_is_imported_at_start_up():
    said = "import sys, seal_ext.studio.align, seal_ext.detectors as d; d.ways(); print(sorted({'mediapipe'} & set(sys.modules)))"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, cwd=root, env=os.environ, check=True)
    assert done.stdout.strip() == "[]"
