"""Units of the ControlNet built into Forge and reForge, beside a stand-in of it: as each of them has units, from the API and the page."""

import base64
import copy
import dataclasses
import enum
import importlib
import io
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from seal_ext.detectors import NO_POSE, forget
from tests.hosts.test_controlnet import FULL, SHAPE, SKELETON, box, figure, seal

SMALL = figure(4, 10, 12, 30)
WHERE = (24, 12, 40, 52)  # what `seal` has for a reference stands there


class Mode(enum.Enum):
    RESIZE, INNER_FIT, OUTER_FIT = "Just Resize", "Crop and Resize", "Resize and Fill"


class Input(enum.Enum):
    SIMPLE, BATCH = "simple", "batch"


@dataclasses.dataclass
class Unit:
    """What both kinds have; the enumerations are Forge's words in Forge, and members in reForge."""

    enabled: bool = True
    module: str = "None"
    model: str = "some_t2ia [1234abcd]"
    image: object = None
    mask_image: object = None
    use_preview_as_input: bool = False
    generated_image: object = None
    input_mode: Input = Input.SIMPLE
    resize_mode: object = Mode.RESIZE
    processor_res: int = -1
    threshold_a: float = -1
    threshold_b: float = -1
    pixel_perfect: bool = False

    @classmethod
    def from_dict(cls, given):
        unit = cls(**{name: value for name, value in given.items() if name in {field.name for field in dataclasses.fields(cls)}})
        if isinstance(unit.image, str):
            unit.image = np.array(Image.open(io.BytesIO(base64.b64decode(unit.image, validate=True))))
        return unit


@dataclasses.dataclass
class OfForge(Unit):
    image_fg: object = None
    mask_image_fg: object = None

    @classmethod
    def shown(cls, image, drawn=None, **more):
        """As the page makes it."""
        fg = np.zeros((*image.shape[:2], 4), np.uint8)
        if drawn is not None:
            fg[..., 3] = drawn
        return cls(image=image, image_fg=fg, **more)

    def layers(self):
        return self.image, self.image_fg[..., 3]


@dataclasses.dataclass
class OfReForge(Unit):
    @classmethod
    def from_dict(cls, given):
        unit = super().from_dict(given)
        if unit.image is not None:
            unit.image = {"image": unit.image, "mask": np.zeros_like(unit.image)}
        unit.resize_mode = resize_mode(unit.resize_mode)
        return unit

    @classmethod
    def shown(cls, image, drawn=None, **more):
        mask = np.zeros_like(image) if drawn is None else np.repeat(drawn[..., None], 3, 2)
        return cls(image={"image": image, "mask": mask}, **more)

    def layers(self):
        return self.image["image"], self.image["mask"]


def resize_mode(value):
    return value if isinstance(value, Mode) else list(Mode)[value] if isinstance(value, int) else Mode(value)


class Preprocessor:
    """Turns bright into dark; remembers how it was asked."""

    slider_resolution, slider_1, slider_2 = (SimpleNamespace(gradio_update_kwargs=told) for told in ({"value": 640}, {"value": 100.0}, {}))

    def __init__(self):
        self.asked = []

    def __call__(self, input_image, resolution, slider_1=None, slider_2=None, slider_3=None, input_mask=None, **more):
        self.asked.append((resolution, slider_1, slider_2))
        return 255 - input_image


class Embeds(Preprocessor):
    def __call__(self, input_image, resolution, **more):
        return SimpleNamespace(image_embeds=input_image)


@pytest.fixture(params=[OfForge, OfReForge], ids=["Forge", "reForge"])
def host(request, monkeypatch):
    """The adapter beside one of the two; with the class of its units and its preprocessors."""
    packages = {"modules": ModuleType("modules"), "modules.errors": ModuleType("modules.errors")}
    reported = []
    packages["modules.errors"].report = lambda message, **more: reported.append(message)
    packages["modules"].errors = packages["modules.errors"]
    preprocessors = {"None": Preprocessor(), "dark_midas": Preprocessor(), "clip_it": Embeds()}

    def perfect(image, target_H, target_W, resize_mode):
        height, width, _ = image.shape
        assert isinstance(resize_mode, Mode)
        return int(np.round(max(target_H / height, target_W / width) * min(height, width)))

    packages["lib_controlnet.external_code"] = SimpleNamespace(ControlNetUnit=request.param, resize_mode_from_value=resize_mode,
                                                               pixel_perfect_resolution=perfect)  # fmt: skip
    packages["lib_controlnet.global_state"] = SimpleNamespace(get_preprocessor=preprocessors.get)
    packages["lib_controlnet.infotext"] = SimpleNamespace(serialize_unit=lambda unit: f"Module: {unit.module}, Model: {unit.model}")
    for name, module in packages.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "internal_controlnet.external_code", raising=False)
    monkeypatch.delitem(sys.modules, "seal_ext.hosts.webui.controlnet.align", raising=False)
    yield SimpleNamespace(adapter=importlib.import_module("seal_ext.hosts.webui.controlnet.align"), unit=request.param, reported=reported,
                          preprocessors=preprocessors)  # fmt: skip
    sys.modules.pop("seal_ext.hosts.webui.controlnet.align", None)


def encoded(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def moved(host, given, **settings):
    """The run, and the unit that ControlNet gets."""
    run = seal([given], **settings)
    run.align(host.adapter)
    return run, run.p.script_args[1]


def stands(unit):
    return np.abs(np.subtract(box(unit.layers()[0]), WHERE)).max() <= 1


@pytest.mark.parametrize("words", ["Just Resize", 0])
def test_a_unit_of_the_api(host, words):
    """The host answers with the very object that it was sent: nothing of ours may get into that."""
    given = dict(enabled=True, module="None", model="some_t2ia [1234abcd]", image=encoded(SMALL), resize_mode=words, unheard_of=1)
    before = copy.deepcopy(given)
    run, unit = moved(host, given)
    assert given == before and isinstance(unit, host.unit) and stands(unit) and not host.reported
    assert host.adapter.infotext(run.found) == {"ControlNet 0": "Module: None, Model: some_t2ia [1234abcd]"}
    run.found.restore()
    assert run.p.script_args[1] is given


def test_a_unit_of_the_page(host):
    given = host.unit.shown(SMALL, mask_image=figure(0, 0, 64, 32))
    before = copy.deepcopy(vars(given))
    _, unit = moved(host, given)
    assert unit is not given and stands(unit) and resize_mode(unit.resize_mode) is Mode.RESIZE
    assert unit.mask_image is None  # its places are those of the structure before
    assert before.keys() == vars(given).keys() and given.image is not unit.image
    assert all(np.array_equal(one, other) for one, other in zip(host.unit(**before).layers(), given.layers(), strict=True))


def test_what_a_brush_drew_on_nothing_is_the_structure(host):
    """And what is given back is no longer drawn: an even map would else be taken for an empty canvas."""
    _, unit = moved(host, host.unit.shown(np.zeros_like(SMALL), drawn=SMALL[..., 0]))
    assert stands(unit) and not unit.layers()[1].any()
    _, unit = moved(host, host.unit.shown(SMALL, drawn=figure(40, 40, 60, 60)[..., 0]))
    assert stands(unit) and not unit.layers()[1].any()  # there it was a mask


@pytest.mark.parametrize("form", ["grey", "see-through", "one channel"])
def test_pictures_of_every_form(host, form):
    if form == "see-through":  # as this ControlNet has it: what is not there is white
        image = np.dstack([np.zeros_like(SMALL), 255 - SMALL[..., :1]])
    else:
        image = SMALL[..., 0] if form == "grey" else SMALL[..., :1]
    given = host.unit.from_dict(dict(image=encoded(image))) if form != "one channel" else None
    if given is None:
        given = host.unit.from_dict(dict(image=encoded(SMALL)))
        given.image = {"image": image, "mask": np.zeros_like(image)} if isinstance(given.image, dict) else image
    _, unit = moved(host, given)
    assert stands(unit) and unit.layers()[0].shape[2] == 3


def test_the_preview_in_place_of_the_picture(host):
    _, unit = moved(host, host.unit.shown(np.zeros_like(SMALL), use_preview_as_input=True, generated_image=SMALL))
    assert stands(unit) and not unit.use_preview_as_input


@pytest.mark.parametrize(("how", "asked"), [
    ({}, (640, 100.0, 1.0)), (dict(processor_res=96, threshold_a=0.25, threshold_b=7), (96, 0.25, 7)),
    (dict(pixel_perfect=True, processor_res=96, threshold_a=0, threshold_b=0), (64, 0, 0)),
])  # fmt: skip
def test_a_preprocessor_runs_before_aligning(host, how, asked):
    """With its own values where the unit leaves them to it, which here is −1; and the infotext keeps its name."""
    run, unit = moved(host, host.unit.shown(255 - SMALL, module="dark_midas", **how))
    assert host.preprocessors["dark_midas"].asked == [asked] and type(host.preprocessors["dark_midas"].asked[0][0]) is int
    assert stands(unit) and unit.module == "None"
    assert host.adapter.infotext(run.found) == {"ControlNet 0": "Module: dark_midas, Model: some_t2ia [1234abcd]"}


@pytest.mark.parametrize(("how", "said"), [
    (dict(module="no_such"), "no preprocessor no_such"), (dict(module="clip"), "from the prompt alone"),
    (dict(module="reference_only", model="None"), "from the prompt alone"), (dict(input_mode=Input.BATCH), "several"),
])  # fmt: skip
def test_what_is_left_alone_is_said(host, how, said):
    given = host.unit.shown(SMALL, **how)
    run, unit = moved(host, given)
    assert unit is given and any(said in note for note in run.notes) and not host.reported


def test_a_preprocessor_that_makes_no_picture(host):
    host.preprocessors["strange"] = host.preprocessors["clip_it"]
    given = host.unit.shown(SMALL, module="strange")
    run, unit = moved(host, given)
    assert unit is given and any("makes no map" in note for note in run.notes)


def test_a_unit_without_a_picture_says_so(host):
    given = host.unit(image=None)
    run, unit = moved(host, given)
    assert unit is given and any("has no picture" in note for note in run.notes)


def test_a_unit_that_cannot_be_read_is_its_hosts_to_say(host):
    """Its number is told, the others are aligned, and the host meets it as it came."""
    broken, good = dict(enabled=True, image="no picture"), dict(enabled=True, image=encoded(SMALL))
    run = seal([broken, good])
    run.align(host.adapter)
    assert run.p.script_args[1] is broken and stands(run.p.script_args[2])
    assert sum("unit 0 could not be aligned" in note for note in run.notes) == 1 and len(host.reported) == 1
    assert host.adapter.infotext(run.found) == {}


def test_reference_units_leave_delta_bridge_alone(host):
    """Here such a unit asks which rows are whose."""
    run, _ = moved(host, host.unit.shown(SMALL, module="reference_only", model="None"))
    assert not run.found.bridge_refused


def test_its_detectors_are_asked_for_the_reference_s_joints(host, tmp_path, monkeypatch):
    """Once a picture, also for a ready-made map, where their files are."""
    (tmp_path / "openpose").mkdir()
    monkeypatch.setitem(sys.modules, "annotator.annotator_path", SimpleNamespace(models_path=str(tmp_path)))
    monkeypatch.setattr("seal_ext.detectors.ways", dict)  # whatever is installed here
    forget()

    class Draws(Preprocessor):
        def __call__(self, input_image, resolution, **more):
            self.asked.append(resolution)
            return SKELETON

    detector = host.preprocessors["dw_openpose_full"] = Draws()
    for files, asked, found in ((FULL[:1], 0, False), (FULL, 1, True), (FULL, 1, True)):
        for file in files:
            (tmp_path / "openpose" / file).touch()
        run = seal([host.unit.shown(SKELETON, model="control_openpose [1234abcd]")], mask=SHAPE)
        run.align(host.adapter)
        assert len(detector.asked) == asked and (0 in run.found.poses) == found and not host.reported
        assert any(NO_POSE in note for note in run.notes) != found
    assert detector.asked == [512]
    assert list(host.adapter.detectors()) == ["dw_openpose_full"]  # what the routes ask, too
    forget()
