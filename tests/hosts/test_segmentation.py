"""ControlNet's segmentation preprocessors, planted beside SeAl: asked where their files are, by their own call."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from seal_ext.core.mask import overlap
from seal_ext.core.pixels import AlignError
from seal_ext.core.subject import find_subject
from seal_ext.hosts.webui.controlnet import segmentation

TRUTH = np.zeros((120, 96), bool)
TRUTH[20:100, 30:70] = True
WALL = (120, 120, 120)


def picture():
    image = np.random.default_rng(0).integers(0, 120, (*TRUTH.shape, 3), np.uint8)
    image[TRUTH] = (40, 230, 60)
    return image


def run(work):
    return work()


@pytest.fixture(params=["extension", "builtin"])
def planted(request, tmp_path, monkeypatch):
    """A ControlNet with all of these preprocessors: what each was asked, what it colours the figure with, and where files belong."""
    asked, colours = [], {}

    def preprocessor(name):
        def call(input_image, resolution, slider_1=None, slider_2=None, **more):
            assert input_image.flags.c_contiguous and input_image.dtype == np.uint8 and resolution == 512
            asked.append(name)
            figure = np.repeat(np.repeat(input_image[..., 1] > 200, 2, 0), 2, 1)  # a map of another size
            return np.where(figure[..., None], colours.get(name, WALL), WALL).astype(np.uint8)

        return call if name in {kind.name for kind in segmentation.KINDS} else None

    for module in ("internal_controlnet.external_code", "lib_controlnet.external_code", "annotator.annotator_path", "modules_forge.shared"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    if request.param == "extension":
        unit = SimpleNamespace(cls_get_preprocessor=preprocessor)
        monkeypatch.setitem(sys.modules, "internal_controlnet.external_code", SimpleNamespace(ControlNetUnit=unit))
        annotator = SimpleNamespace(models_path=str(tmp_path), __file__=str(tmp_path / "annotator" / "annotator_path.py"))
        monkeypatch.setitem(sys.modules, "annotator.annotator_path", annotator)
    else:
        monkeypatch.setitem(sys.modules, "lib_controlnet.external_code", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "lib_controlnet.global_state", SimpleNamespace(get_preprocessor=preprocessor))
        monkeypatch.setitem(sys.modules, "modules_forge.shared", SimpleNamespace(preprocessor_dir=str(tmp_path)))
    return asked, colours, tmp_path


def give(folder, kind):
    (folder / kind.file).parent.mkdir(parents=True, exist_ok=True)
    (folder / kind.file).touch()


@pytest.mark.parametrize("kind", segmentation.KINDS, ids=lambda kind: kind.name)
def test_people_and_animals_are_found_by_their_colours(planted, kind):
    asked, colours, folder = planted
    assert segmentation.way(run) is None and not asked
    give(folder, kind)
    way = segmentation.way(run)
    for colour in kind.colours:
        colours[kind.name] = np.add(colour, -5).clip(0)
        found = find_subject(picture(), source="controlnet", ways={"controlnet": way})
        assert found.source == "controlnet" and overlap(found.mask, TRUTH) > 0.95 and not found.guess
    assert set(asked) == {kind.name}
    colours[kind.name] = (0, 0, 142)  # a car
    with pytest.raises(AlignError, match="sees nobody"):
        way(picture())


def test_the_best_that_is_there_is_asked(planted):
    asked, colours, folder = planted
    for kind in reversed(segmentation.KINDS):
        give(folder, kind)
        colours[kind.name] = kind.colours[0]
        segmentation.way(run)(picture())
    assert list(dict.fromkeys(asked)) == [kind.name for kind in reversed(segmentation.KINDS)]


def test_one_that_fails_is_told(planted, monkeypatch):
    give(planted[2], segmentation.KINDS[0])
    monkeypatch.setattr(segmentation, "RESOLUTION", 0)  # it refuses that
    with pytest.raises(AlignError, match="seg_ofcoco fails here"):
        segmentation.way(run)(picture())
    monkeypatch.setattr(segmentation, "_preprocessor", lambda name: None)
    assert segmentation.way(run) is None


def test_without_a_controlnet_there_is_none(monkeypatch):
    for module in ("internal_controlnet.external_code", "lib_controlnet.external_code", "annotator.annotator_path", "modules_forge.shared"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert segmentation.way(run) is None
    with pytest.raises(AlignError, match="no files of a segmentation preprocessor"):
        find_subject(picture(), source="controlnet")
