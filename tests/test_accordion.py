"""The accordion beside a stand-in of gradio: what is drawn, what a paste fills, and what the buttons answer."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import seal_ext.ui
from seal_ext import __version__
from seal_ext.core.pixels import AlignError
from seal_ext.detectors import NO_POSE
from seal_ext.hosts.webui import process_state
from seal_ext.reference import Reference
from seal_ext.request import NAMES, PICTURES, parse
from seal_ext.settings import BY_NAME, PRESETS, Settings, defaults
from seal_ext.settings.infotext import EARLIER_DEFAULTS
from seal_ext.store import Store
from tests.skeletons import painted

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
DRAWN = np.zeros((24, 20), bool)
DRAWN[5:15, 5:15] = True
POSE = np.asarray(painted(size=(80, 96)))
FIRST = len(PICTURES) + 1  # of the settings among the arguments
MORE = NAMES.index("more")
STROKE = '[{"away": false, "radius": 0.04, "points": [[0.5, 0.4], [0.5, 0.75]]}]'
FIGURE = np.full((60, 48, 3), 90, np.uint8)
FIGURE[15:52, 16:33] = 200, 40, 40
MADE = []
SCRIPT = {"3": "_js", "4": "js"}  # what a gradio calls the page's own script that an event runs


class Part:
    """A component: what it was made with, and what was joined to its events."""

    def __init__(self, value=None, **told):
        self.value, self.told, self.events = value, told, []
        self.label, self.elem_id = told.get("label"), told.get("elem_id")
        MADE.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *what):
        pass

    def preprocess(self, payload):
        return payload and payload.read

    def _event(self, *args, **kwargs):
        assert {"_js", "js"}.isdisjoint(kwargs) or SCRIPT[sys.modules["gradio"].__version__[0]] in kwargs
        self.events.append((args, kwargs))
        return SimpleNamespace(then=self._event)

    change = click = input = _event


class Slot(Part):
    """An image's change fires for every answer of a script: nothing may hang on it."""

    change = property(lambda self: pytest.fail("a slot's change never comes to rest"))

    def upload(self, *args, **kwargs):
        return self._event(*args, **kwargs)

    clear = upload


@pytest.fixture(params=["3.41.2", "4.40.0"])
def accordion(monkeypatch, request):
    gradio, context = ModuleType("gradio"), ModuleType("gradio.context")
    kinds = "Row Column Group Accordion Gallery HTML Radio Dropdown Slider Checkbox CheckboxGroup Textbox Button"
    for name in kinds.split():
        setattr(gradio, name, type(name, (Part,), {}))
    gradio.Image, gradio.__version__ = Slot, request.param
    gradio.update = lambda **changes: {"__type__": "update", **changes}
    context.Context = SimpleNamespace(root_block=SimpleNamespace(blocks={}))
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    monkeypatch.setitem(sys.modules, "gradio.context", context)
    forget()
    yield importlib.import_module("seal_ext.ui.accordion")
    forget()


def forget():
    """What is drawn with has the gradio that was there when it was imported."""
    for name in ("accordion", "gradios"):
        sys.modules.pop(f"seal_ext.ui.{name}", None)
        if hasattr(seal_ext.ui, name):
            delattr(seal_ext.ui, name)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(process_state, "store", Store(tmp_path, lambda: 1 << 24))


def draw(accordion, tab="txt2img"):
    MADE.clear()
    return accordion.draw(Part, lambda name: f"script_{tab}_seal_{name}", tab)


def test_every_argument_has_its_component_in_order(accordion):
    drawn = draw(accordion)
    named = dict(zip(NAMES, drawn.components, strict=True))
    assert all(named[name].elem_id == f"script_txt2img_seal_{name}" for name in (*BY_NAME, "more") if name != "enabled")
    assert all(named[name].value == BY_NAME[name].default for name in BY_NAME)
    assert drawn.components[0].label == accordion.TITLE and drawn.components[0].value is False
    shown = {name: drawn.parts[name].told["info"] for name in BY_NAME if name != "enabled"}
    assert not any("`" in text for text in shown.values()) and "“hidden” compares" in shown["feature"]
    assert all(re.sub("[“”]", "`", text) == BY_NAME[name].help for name, text in shown.items())


@pytest.mark.parametrize(("name", "other", "without", "with_it"), [("clamp", "form", "joint", "kv"),
                                                                   ("seed_policy", "noise", "clean", "noised")])  # fmt: skip
def test_what_does_nothing_beside_another_setting_cannot_be_changed(accordion, name, other, without, with_it):
    drawn = draw(accordion)
    assert drawn.parts[name].told["interactive"] is False and "interactive" not in drawn.parts[other].told
    (answer,) = [args[0] for args, _ in drawn.parts[other].events if args[2:] == ([drawn.parts[name]],)]
    assert answer(with_it)["interactive"] and not answer(without)["interactive"]


def test_a_pose_is_needed_only_where_the_joints_are_not_found(accordion):
    """The text beside the slot says what SeAl says where it finds none."""
    assert "finds no joints on the reference" in NO_POSE and "finds no joints on the reference" in accordion.POSE


def test_ids_and_labels_are_each_there_once(accordion):
    draw(accordion)
    for kind in ("elem_id", "label"):
        given = [getattr(part, kind) for part in MADE if getattr(part, kind)]
        assert len(given) == len(set(given))
    assert all(part.elem_id for part in MADE if type(part).__name__ not in ("Row", "Column"))


def test_pictures_are_no_defaults_to_be_saved(accordion):
    drawn = draw(accordion)
    assert all(drawn.parts[name].do_not_save_to_config for name in (*PICTURES, "more", "ticks", "picture"))
    assert [parse([component.value for component in drawn.components]).settings] == [Settings()]


def test_drawing_it_again_is_the_same(accordion):
    ids = [[part.elem_id for part in draw(accordion).components] for _ in range(3)]
    assert ids[0] == ids[1] == ids[2] and ids[0] != [part.elem_id for part in draw(accordion, "img2img").components]


LAYOUT = """mask_source preset strength appearance_prompt align anchor advanced
group_infusion infusion start end feature threshold tau_early tau_late delta_early delta_late shape clamp rivals on_figure room limbs
softness top_k match_once form blocks uncond_rows hires hires_factor inner
group_reference_pass read_with noise seed_policy t_app cache_mb cache_holds cache_place
group_delta-bridge bridge lam lam_start lam_end lam_shape lam_every filter radius repeats gate gate_strength gate_low gate_high
group_anchoralign alike which margin hand_x hand_y hand_scale units
group_more_pictures show_aligned show_match show_disagreement show_mask
version"""


def test_settings_stand_under_their_headings(accordion):
    draw(accordion)
    drawn = [(part.elem_id or "").removeprefix("script_txt2img_seal_") for part in MADE]
    names = LAYOUT.split()
    assert [name for name in drawn if name in names] == names and set(BY_NAME) - {"enabled"} <= set(names)
    assert f"SeAl {__version__}<" in MADE[drawn.index("version")].value


def test_a_paste_fills_everything(accordion, store):
    asked = [Reference(PICTURE, drawn=DRAWN, pose=POSE), Reference(255 - PICTURE, pose=POSE), Reference(PICTURE[::-1].copy())]
    for one in asked:
        process_state.remember(one)
    settings = Settings.parse({"enabled": True, "lam": 2.5, "units": "all but 1", "hand_x": 0.25, "preset": "free"})
    parameters = settings.to_infotext() | {accordion.REFERENCE_KEY: " ".join(one.hash for one in asked)}
    drawn = draw(accordion)
    filled = {id(part): fill(parameters) for part, fill in drawn.infotext_fields}
    assert {id(part) for part in drawn.components} <= filled.keys()
    given = [filled[id(part)] for part in drawn.components]
    given = [one["value"] if isinstance(one, dict) else one for one in given]
    # Forge's API makes a list of whatever stands there, as it is in the component itself: also of an update.
    assert list(filled[id(drawn.parts["more"])]) == given[MORE] and all(isinstance(one, Image.Image) for one in given[MORE])
    again = parse(given)
    assert again.settings == settings and [one.hash for one in again.references] == [one.hash for one in asked]
    assert filled[id(drawn.parts["further"])]["visible"] and filled[id(drawn.parts["lost"])]["value"] == ""
    assert set(drawn.paste_field_names) == {BY_NAME[name].infotext for name in BY_NAME} | {accordion.REFERENCE_KEY}


def test_a_paste_without_the_reference_says_so_and_leaves_the_slots(accordion, store):
    filled = accordion.pasted({accordion.REFERENCE_KEY: "0123456789abcdef"})
    assert "no longer kept" in filled["lost"]["value"] and all("value" not in filled[name] for name in PICTURES)
    assert filled["more"] is None
    filled = accordion.pasted({})
    assert filled["lost"]["value"] == "" and "value" not in filled["reference"]
    assert "no longer kept" in accordion.pasted({accordion.REFERENCE_KEY: "../../etc/passwd"})["lost"]["value"]


def test_a_paste_names_what_is_read_as_something_else_or_not_at_all(accordion, store):
    parameters = {"SeAl enabled": "on", "SeAl preset": "faithful", "SeAl lam": "<b>", "SeAl later": "1", "Steps": "20"}
    drawn = draw(accordion)
    filled = {id(part): fill(parameters) for part, fill in drawn.infotext_fields}
    assert filled[id(drawn.parts["preset"])] == "strong"
    assert filled[id(drawn.parts["lam"])] == EARLIER_DEFAULTS[0, 3, 0]["lam"]  # as every picture that names no version had it
    said = filled[id(drawn.parts["lost"])]["value"]
    assert said.count("<p") == 3 and "Preset: " in said and "λ must be" in said and "&lt;b&gt;" in said and "SeAl later" in said


def test_a_further_reference_takes_all_along_that_came_with_it(accordion):
    picture, mask, pose = (Image.fromarray(array) for array in (PICTURE, DRAWN.astype(np.uint8) * 255, POSE))
    more, shown, *slots, said = accordion._added(None, "", picture, mask, pose)
    assert slots == [None] * len(PICTURES) and shown["visible"] and said == ""
    laid = parse([True, picture, None, None, *(BY_NAME[name].default for name in NAMES[FIRST:MORE]), more]).references[1]
    assert np.array_equal(laid.alpha > 127, DRAWN) and np.array_equal(laid.pose, POSE)
    assert len(accordion._added(more, "", picture, None, None)[0]) == 2
    (painted,) = accordion._added(None, STROKE, Image.fromarray(FIGURE), None, None)[0]
    assert np.asarray(painted)[30, 24, 3] == 255 and np.asarray(painted)[5, 5, 3] == 0
    for refused, why in (((None, mask, pose), accordion.preview.EMPTY), ((Image.new("RGB", (4, 4)), None, None), "16 pixels"),
                         ((picture, None, picture), "skeleton")):  # fmt: skip
        kept, *same, said = accordion._added(more, "", *refused)
        assert why in said and "value" not in kept and not any("value" in slot for slot in same)


def test_with_a_reference_goes_what_was_given_for_it(accordion):
    """The mask and the pose of the one before would count for another picture; those of one that is yet to come stay."""
    drawn = joined(accordion)
    beside = [drawn.parts["mask"], drawn.parts["reference_pose"]]
    (cleared, uploaded) = drawn.parts["reference"].events
    assert cleared[0][2] == uploaded[0][2] == beside and cleared[0][0]() == [None, None]
    assert uploaded[0][0]("full") == [None, None] and not any("value" in kept for kept in uploaded[0][0](""))
    assert "sealFull('txt2img')" in str(uploaded[1])
    ((take, _, slots), _), *_ = drawn.parts["last"].events
    assert slots == [drawn.parts["reference"], *beside] and take("a picture") == ["a picture", None, None]
    assert not any("value" in kept for kept in take(None))


def test_help_of_a_tick_stands_below_it(accordion):
    """Where gradio puts it above, it reads as the setting's before."""
    drawn, style = draw(accordion), (Path(__file__).parents[1] / "style.css").read_text()
    ticks = [part for part in drawn.parts.values() if type(part).__name__ == "Checkbox"]
    assert len(ticks) > 10 and all(part.told["elem_classes"] == ["seal-check"] for part in ticks)
    assert re.search(r"\.seal-check \{[^}]*column-reverse", style)


def test_ticks_are_written_as_units(accordion):
    shown = '{"shown": [0, 2]}'
    assert accordion._ticked(["0"], "all", shown) == "all but 2" and accordion._ticked(["0", "2"], "all but 2", shown) == "all"
    assert accordion._ticked([], "nonsense", shown) == "all but 0 2" and accordion._ticked([], "all", "") == "all"


def test_the_preset_moves_what_presets_move(accordion):
    names = sorted({name for changes in PRESETS.values() for name in changes})
    assert [change["value"] for change in accordion._preset("free", names)] == [defaults("free")[name] for name in names]


class Host:
    """As much of the WebUI as the accordion asks."""

    there = staticmethod(lambda: None)
    strange = staticmethod(lambda units: "")
    opened = staticmethod(list)
    prompt_of = staticmethod(lambda picture: (getattr(picture, "info", None) or {}).get("parameters", ""))
    from_gallery = staticmethod(lambda file: file)

    def __init__(self, answer="a cat"):
        self.answer = answer

    def units(self):
        return [Part()]

    def interrogated(self, picture):
        return self.answer

    def segmenting(self, reference):
        return {}

    def asked(self, reference, prompt):
        if not prompt:
            raise AlignError("SeAl needs words.")
        return f"{prompt} <{reference.size[0]}>"


def joined(accordion, without=""):
    drawn, host = draw(accordion), Host()
    around = [Part(elem_id=f"txt2img_{name}") for name in accordion.AROUND if name != without]
    last = Part(elem_id="html_log_txt2img")
    sys.modules["gradio.context"].Context.root_block.blocks = dict(enumerate([*around, last]))
    drawn.seen(around[0], host)
    assert not drawn.joined
    drawn.seen(last, host)
    return drawn


def test_it_is_joined_with_the_page_once_and_only_if_all_is_there(accordion):
    assert not joined(accordion, without="gallery").joined
    drawn = joined(accordion)
    before = len(drawn.parts["look"].events)
    drawn.seen(Part(elem_id="html_log_txt2img"), Host())
    assert drawn.joined and before == len(drawn.parts["look"].events) > 0


def test_a_glance_answers_with_what_is_seen_and_said(accordion):
    drawn = joined(accordion)
    (answer, inputs, outputs), _ = drawn.parts["glance"].events[0]
    values = [part.value for part in drawn.components]
    values[:2] = True, Image.fromarray(PICTURE)
    values[1].info["parameters"] = "a cat"
    picture, told, ticks, read = answer(*values, 64, 64, None)
    assert len(inputs) == len(NAMES) + 3 and len(outputs) == 4
    assert "base" in picture and "prompt alone" in told and not ticks["visible"] and read["interactive"]


def test_the_model_is_asked_with_the_reference_prompt_or_else_the_tabs(accordion):
    """Also before SeAl is enabled; what it says counts then, and a refusal changes nothing."""
    drawn = joined(accordion)
    (ask, inputs, outputs), _ = drawn.parts["seek"].events[0]
    assert len(inputs) == len(NAMES) + 1 and outputs == [drawn.parts["mask_source"], drawn.parts["lost"]]
    (refreshed,) = drawn.parts["seek"].events[1:]
    assert "sealLook('txt2img')" in str(refreshed)
    values = [part.value for part in drawn.components]
    values[:2] = False, {"image": Image.fromarray(PICTURE), "mask": None}
    source, said = ask(*values, "a cat")
    assert source["value"] == "auto" and "a cat &lt;24&gt;" in said
    values[NAMES.index("appearance_prompt")] = "a dog"
    assert "a dog" in ask(*values, "a cat")[1]
    values[NAMES.index("appearance_prompt")] = ""
    source, said = ask(*values, "")
    assert "value" not in source and "needs words" in said
    values[1] = None
    assert "Reference is missing" in ask(*values, "a cat")[1]


def test_all_that_is_kept_goes_once_the_user_has_said_yes(accordion, store, tmp_path, monkeypatch):
    drawn, reference = joined(accordion), Reference(PICTURE)
    ((answer, inputs, outputs), told), *_ = drawn.parts["empty"].events
    assert len(inputs) == 1 and outputs == [drawn.parts["emptied"]] and "confirm(" in str(told)
    process_state.remember(reference)
    assert answer("") == "" and process_state.recall(reference.hash) is not None
    assert "keeps no references" in answer("yes") and process_state.recall(reference.hash) is None
    process_state.remember(reference)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert "Permission denied" in answer("yes")


def test_the_interrogator_answers_or_is_said_to_fail(accordion):
    picture = Image.fromarray(PICTURE)
    assert accordion._interrogated(picture, Host()) == ("a cat", "")
    assert accordion.NOTHING_READ in accordion._interrogated(picture, Host("<error>"))[1]
    assert accordion.preview.EMPTY in accordion._interrogated(None, Host())[1]


def test_the_page_s_script_knows_the_ids_it_is_told(accordion):
    drawn = draw(accordion)
    script = (Path(__file__).parents[1] / "javascript" / "seal.js").read_text()
    (stage,) = [part.value for part in MADE if (part.elem_id or "").endswith("_preview")]
    ids = {part.elem_id for part in MADE}
    for name, given in re.findall(r'data-(\S+)="([^"]*)"', stage):
        if name == "does":
            assert f'"{given}"' in script
        elif name != "tab":
            camel = re.sub(r"-(.)", lambda found: found[1].upper(), name)
            assert (f"dataset.{camel}" in script or f'"{camel}"' in script) and set(given.split()) <= ids, name
    assert drawn.parts["strokes"].told["elem_classes"] == ["seal-hidden"]  # it has to be on the page: the script writes there


def test_further_references_are_opened_by_the_host(accordion):
    drawn, picture = joined(accordion), Image.fromarray(PICTURE)
    four = sys.modules["gradio"].__version__.startswith("4")
    more = drawn.parts["more"]
    assert more.preprocess(SimpleNamespace(read=[(picture, None)]) if four else [picture]) == [picture]
    if four:  # and by the one that gradio makes of its class when it is updated
        assert type(more)().preprocess(SimpleNamespace(read=[(picture, None)])) == [picture] and "preprocess" not in vars(more)
        assert more.preprocess(None) == []
        assert more.get_block_name() == "gallery"
