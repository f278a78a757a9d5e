"""The segmenters of a WebUI: used where their files are, imported when they are asked, and their faults told."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from seal_ext import segmenters
from seal_ext.core.mask import overlap
from seal_ext.core.pixels import AlignError
from seal_ext.core.subject import find_subject

TRUTH = np.zeros((96, 96), bool)
TRUTH[20:84, 36:60] = True


def picture():
    image = np.random.default_rng(0).integers(0, 120, (96, 96, 3), np.uint8)
    image[TRUTH] = (40, 230, 60)
    return image


def green(rgb):
    return (rgb[..., 1] > 200).astype(np.float32)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Both packages, as far as SeAl looks at them."""
    model = tmp_path / segmenters.SELFIE
    model.parent.mkdir(parents=True)
    model.touch()
    places = {"mediapipe": [str(tmp_path)], "rembg": []}
    monkeypatch.setattr(segmenters, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=places[name]))
    asked = []

    class Selfie:
        def __init__(self, model_selection):
            self.model = model_selection

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def process(self, rgb):
            assert rgb.flags.c_contiguous
            asked.append(self.model)
            return SimpleNamespace(segmentation_mask=green(rgb))

    for name in ("mediapipe", "mediapipe.python", "mediapipe.python.solutions"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "mediapipe.python.solutions.selfie_segmentation", SimpleNamespace(SelfieSegmentation=Selfie))
    monkeypatch.setitem(sys.modules, "rembg", SimpleNamespace(remove=lambda rgb, only_mask: (green(rgb) * 255).astype(np.uint8)))
    return asked, model


def test_what_is_installed_is_used(installed):
    asked, model = installed
    ways = segmenters.ways()
    assert list(ways) == ["mediapipe", "rembg"]
    for name, way in ways.items():
        found = way(picture())
        assert found.source == name and overlap(found.mask, TRUTH) > 0.95 and not found.guess
    assert set(asked) == {0, 1}
    assert find_subject(picture(), ways=ways).source == "mediapipe"
    model.unlink()  # later releases come without it
    assert list(segmenters.ways()) == ["rembg"]


def test_where_nothing_is_installed_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(segmenters, "find_spec", lambda name: None)
    assert segmenters.ways() == {}
    for name in ("mediapipe", "rembg"):
        with pytest.raises(AlignError, match="not installed"):
            find_subject(picture(), source=name, ways=segmenters.ways())


def test_a_package_that_fails_is_told_and_the_next_is_asked(installed, monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe.python.solutions.selfie_segmentation", None)
    with pytest.raises(AlignError, match="mediapipe fails here"):
        find_subject(picture(), source="mediapipe", ways=segmenters.ways())
    assert find_subject(picture(), ways=segmenters.ways()).source == "rembg"


def test_nothing_is_imported_at_start_up():
    said = "import sys, seal_ext.request as r; r.segmenters.ways(); print(sorted({'mediapipe', 'rembg'} & set(sys.modules)))"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, cwd=root, env=os.environ, check=True)
    assert done.stdout.strip() == "[]"
