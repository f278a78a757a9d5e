"""Relatives of Forge: what some of them lack is done without, and what SeAl does not know is said, and the picture drawn without it."""

import importlib
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from seal_ext.hosts.webui import process_state
from seal_ext.install.webui import ROOT
from seal_ext.request import parse
from tests.hosts import forge_host, webui
from tests.hosts.test_controlnet import seal
from tests.hosts.test_forge import BRIDGE, draw, footprint


@pytest.fixture
def model():
    process_state.cache.clear()
    process_state.clear()
    return forge_host.Model()


# ---- what some of them lack


@pytest.mark.parametrize("classic", [True, False], ids=["Classic", "Neo"])
def test_an_autoencoder_that_nobody_asks(app, model, classic):
    """It tells the middle where that can be had, else it draws the same each time; and others find it as it was."""
    usual, _ = draw(app, model, "a cat", {})
    part = SimpleNamespace(sample=True)
    first = SimpleNamespace(regularization=part) if classic else SimpleNamespace()
    model.forge_objects.vae = SimpleNamespace(patcher=forge_host.Unasked(), first_stage_model=first)
    drawn = []
    for _ in range(2):
        process_state.clear()
        torch.manual_seed(len(drawn))
        before = torch.get_rng_state()
        x, p = draw(app, model, "a cat", {})
        drawn.append(x)
        assert not p.comments and torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*drawn) and torch.equal(drawn[0], usual) == classic and vars(part) == {"sample": True}


def test_an_autoencoder_is_as_before_when_its_host_fails(app, model, monkeypatch):
    part = SimpleNamespace(sample=True)
    model.forge_objects.vae = SimpleNamespace(patcher=forge_host.Unasked(), first_stage_model=SimpleNamespace(regularization=part))
    monkeypatch.setattr(forge_host.Model, "encode_first_stage", lambda *args: 1 / 0)
    _, p = draw(app, model, "a cat", {})
    assert refused(p, "ZeroDivisionError") and vars(part) == {"sample": True}


def test_an_engine_of_other_parts_sees_the_reference_anew(app, named, model, monkeypatch):
    """Forge and Neo make a new one of the same checkpoint when their user chooses another autoencoder, and say so in one place alone."""
    asked, own, drawn = [], forge_host.Model.encode_first_stage, []
    for parts in ("one", "one", "other"):
        engine = forge_host.Model()
        named["modules.shared"].sd_model = engine
        monkeypatch.setitem(sys.modules, "modules.sd_models", SimpleNamespace(model_data=SimpleNamespace(forge_hash=parts)))
        shift = 0.5 * (parts == "other")
        monkeypatch.setattr(forge_host.Model, "encode_first_stage",
                            lambda self, pixels, shift=shift: asked.append(shift) or own(self, pixels) + shift)  # fmt: skip
        engine.sd_checkpoint_info = model.sd_checkpoint_info
        drawn.append(draw(app, engine, "a cat", {})[0])
    assert asked == [0, 0.5] and torch.equal(*drawn[:2]) and not torch.equal(*drawn[1:])


def test_a_refiner_in_the_name_of_the_model_before_it(app, model, monkeypatch):
    swapped = SimpleNamespace(ORIGINAL_CHECKPOINT=None)
    monkeypatch.setitem(sys.modules, "modules.sd_samplers_common", swapped)
    plain, was = draw(app, model, "a cat")[0], footprint(model)
    finish = app.forge.Pass.finish

    def finishes(self, args):
        swapped.ORIGINAL_CHECKPOINT = "a.safetensors"  # after the first model call
        return finish(self, args)

    monkeypatch.setattr(app.forge.Pass, "finish", finishes)
    drawn, p = draw(app, model, "a cat", {})
    assert refused(p, "The refiner replaced") and footprint(model) == was and not torch.equal(drawn, plain)
    drawn, p = draw(app, model, "a cat", {})
    assert refused(p, "The refiner replaced") and torch.equal(drawn, plain)


def test_only_one_way_of_scheduling_prompts(app, named, model):
    usual, _ = draw(app, model, "a cat", BRIDGE)
    del named["modules.shared"].opts.use_old_scheduling
    before = named["modules.prompt_parser"].get_learned_conditioning
    named["modules.prompt_parser"].get_learned_conditioning = lambda model, texts, steps, hires: before(model, texts, steps, hires, False)
    drawn, p = draw(app, model, "a cat", BRIDGE)
    assert torch.equal(drawn, usual) and not p.comments


@pytest.mark.parametrize("first", ["setup_prompts", None])
def test_a_refusal_where_generations_begin_otherwise(app, monkeypatch, first):
    class HTTPException(Exception):
        def __init__(self, status_code, detail):
            super().__init__(status_code, detail)

    monkeypatch.setitem(sys.modules, "fastapi", SimpleNamespace(HTTPException=HTTPException))
    p = SimpleNamespace(is_api=True, said=[], comment=lambda sentence: p.said.append(sentence))
    if first is None:
        app.refuse(p, "No.")
        assert p.said == ["No."]
        return
    setattr(p, first, lambda: None)
    app.refuse(p, "No.")
    with pytest.raises(HTTPException) as caught:
        getattr(p, first)()
    assert caught.value.args == (422, "No.") and not p.said


# ---- what SeAl does not know


def refused(p, words):
    return len(p.comments) == 1 and words in next(iter(p.comments))


@pytest.mark.parametrize(("owner", "name"), [
    (forge_host.Patcher, "set_model_unet_function_wrapper"), (forge_host.Patcher, "add_conditioning_modifier"),
    (forge_host.Patcher, "set_model_sampler_post_cfg_function"), (forge_host.Objects, "shallow_copy"),
    (forge_host.VaePatcher, "clone"), (forge_host.Predictor, "sigma"),
])  # fmt: skip
def test_one_without_something_that_seal_hangs_on(app, model, monkeypatch, owner, name):
    """It is told before any of it is used."""
    plain, was = draw(app, model, "a cat")[0], footprint(model)
    monkeypatch.setattr(app.forge.Model, "encode", lambda *args: pytest.fail("a reference was encoded"))
    monkeypatch.delattr(owner, name)
    p = webui.Processing(["a cat"])
    p.sampler = SimpleNamespace()
    picture = Image.fromarray(np.full((64, 64, 3), 200, np.uint8))
    app.begin(p, parse([{"reference": picture, "mask_source": "whole"}])).before_sampling(torch.zeros(1, 4, 8, 8))
    p.close()
    monkeypatch.undo()
    assert refused(p, "does not know this relative") and footprint(model) == was and torch.equal(draw(app, model, "a cat")[0], plain)


def without(name):
    """A function of one mapping that is told all but this."""
    return lambda function: lambda args: function({key: value for key, value in args.items() if key != name})


@pytest.mark.parametrize(("slot", "told"), [
    ("add_conditioning_modifier", lambda function: lambda *state: (*function(*state[:6]), *state[6:])),
    ("set_model_unet_function_wrapper", lambda function: lambda apply, args: without("cond_or_uncond")(lambda a: function(apply, a))(args)),
    ("set_model_sampler_post_cfg_function", without("sigma")), ("set_model_sampler_post_cfg_function", without("cond_denoised")),
])  # fmt: skip
def test_one_that_tells_less(app, model, monkeypatch, slot, told):
    """The hook is there, and is called in another way than SeAl knows: from the first such call on the picture is drawn without it."""
    plain, was = draw(app, model, "a cat")[0], footprint(model)
    own = getattr(forge_host.Patcher, slot)
    monkeypatch.setattr(forge_host.Patcher, slot, lambda self, function: own(self, told(function)))
    drawn, p = draw(app, model, "a cat", BRIDGE)
    monkeypatch.undo()
    assert refused(p, "does not know this relative") and drawn.isfinite().all()
    assert torch.equal(drawn, plain) or "post_cfg" in slot  # by then the first U-Net call was made
    assert footprint(model) == was and torch.equal(draw(app, model, "a cat")[0], plain)


@pytest.mark.parametrize("slot", ["add_conditioning_modifier", "set_model_unet_function_wrapper", "set_model_sampler_post_cfg_function"])
def test_one_that_never_asks(app, model, monkeypatch, slot):
    """Whichever of them it is, the second model call shows it."""
    plain, was = draw(app, model, "a cat")[0], footprint(model)
    monkeypatch.setattr(forge_host.Patcher, slot, lambda self, function: None)
    if "post_cfg" in slot:  # or SeAl puts itself back into the list
        monkeypatch.setattr(app.forge, "AFTER", "somewhere else")
    drawn, p = draw(app, model, "a cat", BRIDGE)
    assert refused(p, "does not call SeAl") and footprint(model) == was
    assert torch.equal(drawn, plain) or "post_cfg" in slot  # by then the first U-Net call was made


def test_a_picture_drawn_in_parts_is_drawn_without_the_reference(app, model):
    """As Forge's own MultiDiffusion does in the place of a U-Net call."""
    widths = []

    def tiles(apply, args):
        widths.append(args["input"].shape[-1])
        halves = [apply(x, args["timestep"], **args["c"]) for x in args["input"].chunk(2, 3)]
        return torch.cat(halves, 3)

    def tiled():
        model.forge_objects.unet = model.forge_objects.unet.clone()
        model.forge_objects.unet.set_model_unet_function_wrapper(tiles)

    plain, _ = draw(app, model, "a cat", before=tiled)
    drawn, p = draw(app, model, "a cat", {}, before=tiled)
    assert set(widths) == {8} and torch.equal(drawn, plain) and refused(p, "draws the picture in parts")
    bridged, _ = draw(app, model, "a cat", BRIDGE, before=tiled)
    assert bridged.isfinite().all() and not torch.equal(bridged, plain)  # the words that differ still have their say


def test_a_sampler_that_never_looks_in_the_pictures_own_size(app, model):
    plain, _ = draw(app, model, "a cat")
    p = webui.Processing(["a cat"])
    seal = app.begin(p, parse([{"reference": Image.new("RGB", (64, 64), (200, 30, 40)), "mask_source": "whole"}]))
    own = seal.before_sampling
    seal.before_sampling = lambda x: own(torch.zeros(1, 4, 16, 16))
    drawn = forge_host.draw(app, model, p, seal)
    p.close()
    assert torch.equal(drawn, plain) and refused(p, "never worked")


def test_an_error_after_guidance_is_told_and_the_picture_drawn(app, model, monkeypatch):
    def fails(*args):
        raise ValueError("no such size")

    plain, was = draw(app, model, "a cat")[0], footprint(model)
    monkeypatch.setattr(app.forge.Run, "bridged", fails)
    drawn, p = draw(app, model, "a cat", BRIDGE)
    assert refused(p, "no such size") and drawn.isfinite().all()
    assert footprint(model) == was and torch.equal(draw(app, model, "a cat")[0], plain)


# ---- its ControlNet


@pytest.fixture
def controlnet(monkeypatch):
    """The adapter beside a ControlNet that is neither the extension nor Forge's."""
    packages = {"modules": ModuleType("modules"), "modules.errors": ModuleType("modules.errors")}
    packages["modules"].errors, packages["modules.errors"].report = packages["modules.errors"], lambda *args, **kwargs: pytest.fail(args)
    for name, module in packages.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("internal_controlnet.external_code", "lib_controlnet.external_code", "seal_ext.hosts.webui.controlnet.align"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("seal_ext.hosts.webui.controlnet.align")
    sys.modules.pop("seal_ext.hosts.webui.controlnet.align", None)


@pytest.mark.parametrize("given", [
    {"enabled": True, "image": 1}, SimpleNamespace(enabled=True), {"enabled": True, "module": "reference_only"},
])  # fmt: skip
def test_units_of_an_unknown_controlnet_are_left_alone(controlnet, given):
    run = seal([given])
    run.align(controlnet)
    assert run.p.script_args[1] is given and ["does not know the units" in note for note in run.notes] == [True]
    assert controlnet.infotext(run.found) == {}


@pytest.mark.parametrize("units", [[], [SimpleNamespace(enabled=False)], [None, 7]])
def test_where_no_unit_is_enabled_nothing_is_said_of_them(controlnet, units):
    run = seal(units)
    run.align(controlnet)
    assert ["from the prompt alone" in note for note in run.notes] == [True]


# ---- its modules and its page

MADE = []


class Script:
    def elem_id(self, name):
        return f"script_{name}"


class Part:
    """A component of gradio."""

    def __init__(self, value=None, **told):
        self.value = value
        MADE.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *what):
        pass


CALLBACKS = (
    "on_cfg_denoiser",
    "on_cfg_denoised",
    "on_before_ui",
    "on_ui_settings",
    "on_app_started",
    "on_model_loaded",
    "on_script_unloaded",
)
OURS = (
    "api",
    "request",
    "ui.webui",
    *(f"hosts.webui.{name}" for name in ("controlnet.align", "asking", "inner", "session", "options", "process_state", "xyz")),
)


def wired(monkeypatch, page=None):
    """scripts/seal.py as a WebUI loads it: one without most of its modules, or one where drawing the page does this."""
    reported, MADE[:] = [], []
    packages = {"modules": {}, "modules.errors": {"report": lambda sentence, **more: reported.append(sentence)},
                "modules.scripts": {"Script": Script, "AlwaysVisible": "always"},
                "gradio": {"Accordion": Part, "HTML": Part, "Checkbox": Part}}  # fmt: skip
    if page is not None:
        packages |= {"modules.script_callbacks": dict.fromkeys(CALLBACKS, lambda function: None)}
        packages |= {"modules.ui_components": {"InputAccordion": None}, "seal_ext.ui.accordion": {"draw": page}}
        handlers = ("on_cfg_denoiser", "on_cfg_denoised", "on_model_loaded", "register", "add_section", "clear", "detectors")
        names = dict.fromkeys(handlers) | {"settle": lambda: None, "hear_unloading": lambda: None}
        packages |= {f"seal_ext.{name}": names for name in OURS}
    for name, content in packages.items():
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)
        parent, _, own = name.rpartition(".")
        if parent:  # `from … import` looks there first
            monkeypatch.setattr(importlib.import_module(parent), own, made, raising=False)
    # Imported anew, with this gradio, and never seen by another test.
    monkeypatch.setitem(sys.modules, "seal_ext.ui.absent", None)
    monkeypatch.delitem(sys.modules, "seal_ext.ui.absent")
    monkeypatch.setattr(importlib.import_module("seal_ext.ui"), "absent", None, raising=False)
    monkeypatch.delattr("seal_ext.ui.absent")
    spec = importlib.util.spec_from_file_location("seal_script", ROOT / "scripts" / "seal.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, reported


def said(words):
    return any(words in str(part.value) for part in MADE)


def test_a_webui_without_one_of_the_modules_says_so_on_its_page(monkeypatch):
    module, reported = wired(monkeypatch)
    assert module.AbsentScript().show(False) == "always" and module.SealScript().show(False) is False and len(reported) == 1
    (off,) = module.AbsentScript().ui(False)
    assert off.value is False and said("cannot work in this WebUI")


def test_what_a_call_says_in_the_words_of_before_is_said_under_the_picture(monkeypatch):
    module, reported = wired(monkeypatch, lambda *args: None)
    comments, picture = [], np.full((16, 16, 3), 99, np.uint8)
    module.request, module.controlnet = SimpleNamespace(parse=parse), SimpleNamespace(align_units=lambda *given: None)
    module.xyz = SimpleNamespace(changed=lambda p, asked: asked)
    module.process_state = SimpleNamespace(known_ways=lambda reference: {})
    begun = SimpleNamespace(references=(), settings=None, note=None, align=lambda found: None)
    ours = {"end": lambda p: None, "is_asked_again": lambda p: False, "without": lambda p: None, "begin": lambda p, asked: begun}
    module.inner = SimpleNamespace(for_inner_pass=lambda p, asked: asked)
    module.session = SimpleNamespace(**ours)
    p = SimpleNamespace(comment=comments.append)
    module.SealScript().before_process(p, {"reference": picture, "preset": "faithful"})
    assert len(comments) == 1 and comments[0].startswith("Preset: ") and not reported
    module.SealScript().before_process(p, {"reference": picture, "preset": "faithful", "enabled": False})
    assert len(comments) == 1


def test_a_page_that_cannot_be_drawn_leaves_seal_off(monkeypatch):
    """A script without arguments of its own would be called with those of all."""

    def fails(*args):
        raise TypeError("no such <argument>")

    module, reported = wired(monkeypatch, fails)
    assert module.SealScript().show(False) == "always" and module.AbsentScript().show(False) is False and not reported
    (off,) = module.SealScript().ui(True)
    assert off.value is False and len(reported) == 1 and said("no such &lt;argument&gt;")
    assert not parse([off.value]).settings.enabled
