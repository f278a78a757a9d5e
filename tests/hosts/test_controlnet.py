"""Units of ControlNet beside a stand-in of it: structures are found and aligned, the user's units stay as they are."""

import copy
import enum
import importlib
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from seal_ext.core.mask import everything, subject_of
from seal_ext.core.proportions import flesh
from seal_ext.core.skeleton import read_skeleton
from seal_ext.detectors import NO_POSE, forget
from seal_ext.reference import Reference
from seal_ext.settings import Settings
from tests.skeletons import STANDING, painted


class Mode(str, enum.Enum):
    RESIZE, INNER, OUTER = "Just Resize", "Crop and Resize", "Resize and Fill"


class Unit:
    """As much of ControlNet's unit as the adapter looks at."""

    def __init__(self, enabled=True, module="none", model="some_t2ia", image=None, resize_mode=Mode.RESIZE, **more):
        more = dict(mask=None, input_mode=SimpleNamespace(value="simple"), pixel_perfect=False, processor_res=64, threshold_a=1,
                    threshold_b=2) | more  # fmt: skip
        vars(self).update(enabled=enabled, module=module, model=model, image=image, resize_mode=resize_mode, **more)

    @classmethod
    def from_dict(cls, given):
        return cls(**given)

    @staticmethod
    def cls_get_preprocessor(name):
        return SimpleNamespace(returns_image=True, cached_call=lambda rgb, **how: SimpleNamespace(value=255 - rgb))

    def copy(self, update=()):
        made = copy.copy(self)
        vars(made).update(update)
        return made

    def get_input_images_rgba(self):
        return None if self.image is None else [np.dstack([self.image, np.zeros_like(self.image[..., 0])])]

    def serialize(self):
        return f"Module: {self.module}"


class Run(SimpleNamespace):
    """A generation before units; `found` is what they say."""

    def align(self, controlnet):
        self.found = controlnet.align_units(self.p, self.references, self.settings, self.notes.append)


@pytest.fixture
def controlnet(monkeypatch):
    packages = {"modules": ModuleType("modules"), "modules.errors": ModuleType("modules.errors")}
    packages["modules"].errors, packages["modules.errors"].report = packages["modules.errors"], lambda *args, **kwargs: None
    packages["internal_controlnet.external_code"] = SimpleNamespace(ControlNetUnit=Unit, resize_mode_from_value=Mode)
    for name, module in packages.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "seal_ext.hosts.webui.controlnet.align", raising=False)
    yield importlib.import_module("seal_ext.hosts.webui.controlnet.align")
    sys.modules.pop("seal_ext.hosts.webui.controlnet.align", None)


def figure(left, top, right, bottom, size=64):
    image = np.zeros((size, size, 3), np.uint8)
    image[top:bottom, left:right] = 255
    return image


def seal(units, mask=None, poses=(), **settings):
    """A run whose reference stands in the middle, 40 pixels tall, before units of a script that comes after another."""
    mask = figure(24, 12, 40, 52) if mask is None else mask
    subject = subject_of(mask.max(2) > 0, "drawn") if mask.any() else everything(64, 64, "Nobody knows.")
    references = [Reference(mask, pose=pose, subject=subject) for pose in poses or [None]]
    script = SimpleNamespace(title=lambda: "ControlNet", args_from=1, args_to=1 + len(units))
    p = SimpleNamespace(scripts=SimpleNamespace(alwayson_scripts=[script]), script_args=("other", *units), width=64, height=64)
    return Run(p=p, settings=Settings.parse(dict(enabled=True, margin=0.0) | settings), references=references, notes=[])


def box(image):
    rows, columns = np.nonzero(image.max(2) > 127)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("form", [Unit, dict])
def test_a_structure_comes_to_where_the_reference_stands(controlnet, form):
    given = form(enabled=True, module="none", model="some_t2ia", image=figure(4, 10, 12, 30), resize_mode=Mode.RESIZE)
    before = copy.deepcopy(given if form is dict else vars(given))
    run = seal([given, Unit(enabled=False)])
    run.align(controlnet)
    aligned = run.p.script_args[1]
    assert np.abs(np.subtract(box(aligned.image), (24, 12, 40, 52))).max() <= 1 and aligned.resize_mode is Mode.RESIZE
    # Where the figure will be, with some room, is all that may be infused.
    assert run.found.figures[0].shape == (64, 64) and run.found.figures[0][12:52, 24:40].all() and not run.found.figures[0][:, :16].any()
    assert run.p.script_args[0] == "other" and not run.p.script_args[2].enabled
    run.found.restore()
    assert run.p.script_args[1] is given
    assert all(np.array_equal(value, before[name]) for name, value in (given if form is dict else vars(given)).items() if name == "image")


def test_a_preprocessor_runs_before_aligning_and_the_infotext_keeps_it(controlnet):
    run = seal([Unit(module="depth_midas", image=255 - figure(4, 10, 12, 30))])
    run.align(controlnet)
    aligned = run.p.script_args[1]
    assert aligned.module == "none" and np.abs(np.subtract(box(aligned.image), (24, 12, 40, 52))).max() <= 1
    assert controlnet.infotext(run.found) == {"ControlNet 0": "Module: depth_midas"}


@pytest.mark.parametrize(("unit", "said"), [
    (dict(module="reference_only", model="None"), "from the prompt alone"), (dict(model="ip-adapter_sd15"), "from the prompt alone"),
    (dict(enabled=False), "from the prompt alone"), (dict(image=None), "has no picture"),
    (dict(image=figure(0, 0, 0, 0)), "stays where it is"), (dict(input_mode=SimpleNamespace(value="merge")), "several"),
])  # fmt: skip
def test_what_is_left_alone_is_said(controlnet, unit, said):
    given = Unit(**(dict(image=figure(4, 10, 12, 30)) | unit))
    run = seal([given])
    run.align(controlnet)
    assert run.p.script_args[1] is given and any(said in note for note in run.notes)


def test_a_reference_without_a_known_subject_moves_nothing(controlnet):
    given = Unit(image=figure(4, 10, 12, 30))
    run = seal([given], mask=figure(0, 0, 0, 0))
    run.align(controlnet)
    assert run.p.script_args[1] is given and any("utline the character" in note for note in run.notes) and not run.found.aligned
    assert run.found.figures[0][10:30, 4:12].all() and not run.found.figures[0][:, 32:].any()  # it says where the figure will be


def test_switched_off_it_only_looks(controlnet):
    given = Unit(image=figure(4, 10, 12, 30))
    run = seal([given], align=False)
    run.align(controlnet)
    assert run.p.script_args[1] is given and not run.notes and not run.found.aligned
    assert run.found.figures[0][10:30, 4:12].all() and not run.found.figures[0][:, 32:].any()  # where it will be, all the same
    run = seal([given], align=False)
    run.p.image_mask, run.p.inpaint_full_res = figure(0, 0, 9, 9), True
    run.align(controlnet)
    assert run.p.script_args[1] is given and not run.notes and not run.found.figures


SKELETON = np.asarray(painted(scale=0.5, shift=(0.1, 0.2)))
POSES = [np.asarray(painted()), np.asarray(painted(STANDING | {4: (0.2, 0.3)}))]


@pytest.mark.parametrize("align", [True, False])
def test_joints_of_references_and_of_a_ready_made_map(controlnet, align):
    run = seal([Unit(image=SKELETON)], poses=[*POSES, None], align=align)
    run.p.width = run.p.height = 128
    run.align(controlnet)
    assert set(run.found.poses) == {0, 1} and np.allclose(run.found.poses[1].points[4] / 64, (0.2, 0.3), atol=0.02)
    height = np.ptp(run.found.known.body.points[[0, 10], 1])
    assert height == pytest.approx(0.7 if align else 0.35, abs=0.03)  # limbs say how large
    assert (run.p.script_args[1].image.shape == SKELETON.shape) and (run.p.script_args[1].image is SKELETON) != align


BODY = read_skeleton(SKELETON).moved((0.5, 0.5))  # in the pixels of the references here
SHAPE = np.repeat(flesh(BODY, 64, 64)[..., None] * np.uint8(255), 3, 2)  # … and what it looks like


@pytest.fixture
def detectors(tmp_path, monkeypatch):
    """The detectors that ControlNet has: their files, what each of them draws, and on what pictures which of them was asked."""
    (tmp_path / "openpose").mkdir()
    monkeypatch.setitem(sys.modules, "annotator.annotator_path", SimpleNamespace(models_path=str(tmp_path)))
    monkeypatch.setattr("seal_ext.detectors.ways", dict)  # whatever is installed here
    known = SimpleNamespace(draws={}, asked=[])

    def preprocessor(name):
        def asked(rgb, **how):
            known.asked.append(name)
            return SimpleNamespace(value=known.draws[name](rgb))

        return SimpleNamespace(returns_image=True, cached_call=asked)

    def give(name, files, draw=lambda rgb: SKELETON):
        known.draws[name] = draw
        for file in files:
            (tmp_path / "openpose" / file).touch()

    known.give = give
    monkeypatch.setattr(Unit, "cls_get_preprocessor", staticmethod(preprocessor))
    forget()
    yield known
    forget()


POSE, FULL = ("body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"), ("yolox_l.onnx", "dw-ll_ucoco_384.onnx")


@pytest.mark.parametrize("module", ["none", "openpose"])
def test_a_skeleton_map_asks_for_the_reference_s_joints_once_a_picture(controlnet, detectors, module):
    """Whether the unit's own preprocessor made the map or not."""
    detectors.give("openpose", POSE)
    for again in range(2):
        detectors.asked.clear()
        units = [Unit(module=module, model="control_openpose", image=np.asarray(painted())) for _ in range(2)]
        run = seal(units, mask=SHAPE)
        run.align(controlnet)
        assert len(detectors.asked) == 2 * (module == "openpose") + (again == 0)
        assert np.allclose(run.found.poses[0].points, BODY.points, atol=0.6, equal_nan=True) and not run.notes
        assert box(run.p.script_args[1].image)[3] == pytest.approx(0.65 * 64, abs=3)  # the map's body lies on the reference's


def test_what_has_no_files_or_is_not_needed_is_not_asked(controlnet, detectors):
    detectors.give("openpose", POSE[:2])  # without its third file it would download that
    detectors.give("dw_openpose_full", FULL[1:])
    ready = Unit(model="control_openpose", image=SKELETON)
    run = seal([ready], mask=SHAPE)
    run.align(controlnet)
    assert not detectors.asked and not run.found.poses and any(NO_POSE in note for note in run.notes)
    detectors.give("openpose", POSE)
    for unit, more in ((Unit(image=figure(4, 10, 12, 30)), {}), (ready, {"poses": [POSES[0]]}), (ready, {"align": False, "limbs": 0.0}),
                       (ready, {"mask": figure(0, 0, 0, 0)})):  # fmt: skip
        run = seal([unit], **({"mask": SHAPE} | more))
        run.align(controlnet)
        assert not detectors.asked and len(run.found.poses) == ("poses" in more)


def test_the_best_detector_is_asked_first_and_the_next_where_it_sees_somebody_else(controlnet, detectors):
    detectors.give("openpose", POSE)
    detectors.give("dw_openpose_full", FULL, lambda rgb: np.asarray(painted(scale=0.3, shift=(0.7, 0.0))))
    run = seal([Unit(model="control_openpose", image=SKELETON)], mask=SHAPE)
    run.align(controlnet)
    assert detectors.asked == ["dw_openpose_full", "openpose"] and 0 in run.found.poses and not run.notes
    detectors.draws["openpose"] = np.zeros_like
    forget()
    run = seal([Unit(model="control_openpose", image=SKELETON)], mask=SHAPE)
    run.align(controlnet)
    told = " ".join(run.notes)
    assert not run.found.poses and NO_POSE in told and "The detector" in told and "openpose sees nobody" in told


def test_of_several_bodies_the_one_on_the_character_counts(controlnet, detectors):
    both = np.maximum(SKELETON, np.asarray(painted(scale=0.3, shift=(0.6, 0.02))))
    detectors.give("openpose", POSE, lambda rgb: both)
    run = seal([Unit(model="control_openpose", image=SKELETON)], mask=SHAPE)
    run.align(controlnet)
    assert np.allclose(run.found.poses[0].points, BODY.points, atol=0.6, equal_nan=True)


def test_a_detector_that_fails_is_told_once_a_generation(controlnet, detectors):
    detectors.give("openpose", POSE, lambda rgb: 1 / 0)
    run = seal([Unit(model="control_openpose", image=SKELETON), Unit(image=SKELETON)], mask=SHAPE)
    run.align(controlnet)
    assert detectors.asked == ["openpose"] and not run.found.poses
    told = " ".join(run.notes)
    assert told.count("openpose failed on the reference (ZeroDivisionError") == told.count(NO_POSE) == 1


def test_a_given_pose_wins_over_a_detected_one(controlnet, detectors):
    detectors.give("openpose", POSE)
    run = seal([Unit(model="control_openpose", image=SKELETON)], mask=SHAPE, poses=[None, POSES[0]])
    run.align(controlnet)
    assert detectors.asked == ["openpose"]
    assert np.allclose(run.found.poses[0].points[1] / 64, (0.5 * STANDING[1][0] + 0.1, 0.5 * STANDING[1][1] + 0.2), atol=0.03)
    assert np.allclose(run.found.poses[1].points[1] / 64, STANDING[1], atol=0.03)


def test_further_references_are_asked_for_their_limbs_and_told_apart(controlnet, detectors):
    detectors.give("openpose", POSE, lambda rgb: SKELETON if rgb[0, 0, 0] == 0 else np.zeros_like(SKELETON))
    run = seal([Unit(model="control_openpose", image=SKELETON)], mask=SHAPE, poses=[None, None])
    run.references[1] = replace(run.references[1], pixels=255 - run.references[1].pixels)
    run.align(controlnet)
    (note,) = run.notes
    assert set(run.found.poses) == {0} and note.startswith("Reference 2: ") and len(detectors.asked) == 2


def test_a_look_does_not_wait_for_a_detector_that_has_not_seen_the_picture(controlnet, detectors):
    detectors.give("openpose", POSE)
    run, unit = seal([], mask=SHAPE), Unit(model="control_openpose", image=SKELETON)
    for now, asked in ((False, 0), (True, 1), (False, 1)):
        found = controlnet.there().find(unit, run.references[0], run.settings, (64, 64), now=now)
        assert len(detectors.asked) == asked and (found.subject.skeleton is not None) == bool(asked)
        assert any("Update preview" in reason for reason in found.alignment.reasons) != bool(asked)


def test_an_animal_is_measured_by_its_sticks(controlnet, detectors):
    sticks = figure(0, 0, 0, 0)
    for corners in (((20, 24), (44, 26)), ((20, 24), (22, 44)), ((42, 24), (44, 44))):
        (left, top), (right, bottom) = corners
        sticks[top:bottom, left:right] = (255, 150, 50)
    unit = Unit(model="control_animal_openpose", image=np.roll(sticks, (10, -15), (0, 1)))
    coat = figure(14, 16, 50, 50)
    run = seal([unit], mask=coat)
    run.align(controlnet)
    assert not detectors.asked and any("animal_openpose is not here" in note for note in run.notes)
    detectors.give("openpose", POSE)  # for people
    detectors.give("animal_openpose", ("yolox_l.onnx", "rtmpose-m_simcc-ap10k_pt-aic-coco_210e-256x256-7a041aa1_20230206.onnx"),
                   lambda rgb: sticks)  # fmt: skip
    run = seal([unit], mask=coat)
    run.align(controlnet)
    assert detectors.asked == ["animal_openpose"] and not any("animal" in note for note in run.notes)
    assert np.abs(np.subtract(box(run.p.script_args[1].image), (20, 24, 44, 44))).max() <= 1


def test_only_ticked_units_move(controlnet):
    given = [Unit(image=figure(4, 10, 12, 30)) for _ in range(3)]
    run = seal(given)
    run.settings = replace(run.settings, units="all but 1")
    run.align(controlnet)
    moved = run.p.script_args[1:]
    assert moved[1] is given[1] and moved[0] is not given[0] and moved[2] is not given[2] and len(run.found.aligned) == 2
    run = seal(given[:1])
    run.settings = replace(run.settings, units="1")
    run.align(controlnet)
    assert run.p.script_args[1] is given[0] and not run.notes  # it carries a structure, only where the user wants it


def test_looking_at_a_unit_changes_nothing(controlnet):
    given = Unit(image=figure(4, 10, 12, 30))
    before = dict(vars(given))
    run = seal([given])
    found = controlnet.there().find(given, run.references[0], run.settings, (64, 64))
    assert vars(given) == before and found.alignment.scale == pytest.approx(2, abs=0.05) and run.p.script_args[1] is given
    assert [number for number, _ in controlnet.structures([Unit(enabled=False), given, Unit(module="reference_only")])] == [1]


@pytest.mark.parametrize("module", ["reference_adain", "ip-adapter_clip_h", "ip-adapter-auto", "instant_id_face_embedding"])
@pytest.mark.parametrize("words", ["", "a blue dog"])
def test_some_units_leave_no_room_for_delta_bridge(controlnet, module, words):
    run = seal([Unit(module=module, model="None")], appearance_prompt=words)
    run.align(controlnet)
    assert run.found.bridge_refused and (run.found.bridge_refused in run.notes) == bool(words), "said where it would have done something"


def test_without_controlnet(controlnet):
    run = seal([])
    run.p.scripts.alwayson_scripts.clear()
    run.align(controlnet)
    assert run.notes and run.p.script_args == ("other",)
    sys.modules.pop("internal_controlnet.external_code")
    run = seal([])
    run.align(controlnet)
    assert run.notes == [controlnet.NO_CONTROLNET] and "unit" not in controlnet.NO_CONTROLNET


def test_a_unit_that_waits_to_be_enabled_is_known(controlnet):
    idle, waiting = Unit(enabled=False), Unit(enabled=False, image=figure(4, 10, 12, 30))
    there = controlnet.there()
    assert there.waits([idle, None, Unit(image=waiting.image), waiting]) == 3 and there.waits([idle]) is None
