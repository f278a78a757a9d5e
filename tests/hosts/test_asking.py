"""Asking the model where the character is, beside stand-ins of A1111, Forge and reForge: when, with which words, and what stays behind."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from seal_ext import request as asked_for
from seal_ext import segmenters
from seal_ext.core.mask import CHECK, as_guess, subject_of
from seal_ext.core.pixels import AlignError
from seal_ext.finds import finds
from seal_ext.hosts.webui import process_state
from seal_ext.request import looked, parse
from seal_ext.settings import SettingsError
from tests.hosts import forge_host, webui

BUSY = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 64, 3), np.uint8))
WHERE = np.zeros((96, 64), bool)
WHERE[20:70, 16:48] = True
MODELS = {"A1111": webui.Model, "Forge": forge_host.Model, "reForge": lambda: forge_host.Model(False)}


@pytest.fixture(params=MODELS)
def model(request, monkeypatch):
    monkeypatch.setattr(segmenters, "ways", dict)
    monkeypatch.setattr(asked_for, "_finds", finds())
    process_state.clear()
    torch.manual_seed(0)
    return MODELS[request.param]()


@pytest.fixture
def sure(app, monkeypatch):
    """Whatever the model says, somebody stands in the middle; the maps that it said."""
    maps = []
    monkeypatch.setattr(app.asking, "from_probability", lambda rgb, heat: maps.append(heat) or subject_of(WHERE, "attention"))
    return maps


def unet_of(model):
    return model.unet if hasattr(model, "unet") else model.forge_objects.unet.model.diffusion_model


def asked(**more):
    return parse([{"reference": BUSY} | more])


def begun(app, prompt="a cat, running", **more):
    p = webui.Processing([prompt])
    try:
        return app.begin(p, asked(**more)), p
    finally:
        p.close()


LOOKS = [1, 1]  # one for the words, and one for what belongs together


def test_it_is_asked_once_where_nothing_else_is_sure(app, model, sure):
    seal, p = begun(app)
    assert unet_of(model).calls == LOOKS and seal.subjects[0].source == "attention"
    (heat,) = sure
    assert heat.shape[0] / heat.shape[1] == pytest.approx(96 / 64, abs=0.1) and np.isfinite(heat).all() and heat.std() > 0
    assert 'by the words "a cat".' in " ".join(p.comments) and "Check the outline" in " ".join(p.comments)
    processed = SimpleNamespace(images=[], infotexts=[])
    seal.add_pictures(processed)
    (outline,) = processed.images
    assert (
        outline.size == (512, 768)
        and processed.infotexts == ["SeAl outline"]
        and (38, 166, 91) in {c for _, c in outline.getcolors(1 << 20)}
    )
    begun(app)
    assert unet_of(model).calls == LOOKS
    begun(app, appearance_prompt="a dog")
    assert unet_of(model).calls == LOOKS + LOOKS and 'the words "a dog"' in " ".join(begun(app, appearance_prompt="a dog")[1].comments)


def test_it_is_not_touched_where_something_else_is_known(app, model, sure):
    plain = Image.new("RGB", (96, 96), "white")
    plain.paste((200, 30, 40), (30, 20, 60, 80))
    for given in (dict(reference=plain), dict(mask=Image.fromarray(WHERE)), dict(mask_source="whole")):
        assert not begun(app, **given)[0].outlined
    assert not unet_of(model).calls and not sure


def test_nothing_stays_behind(app, model, sure):
    unet, p = unet_of(model), webui.Processing(["a cat"])
    draw = webui.draw if isinstance(model, webui.Model) else forge_host.draw
    before, random = draw(app, model, p), torch.random.get_rng_state()
    was = [(name, sorted(vars(module))) for name, module in unet.named_modules()]
    begun(app)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [(name, sorted(vars(module))) for name, module in unet.named_modules()] == was and torch.equal(draw(app, model, p), before)


def test_what_fails_is_a_sentence_and_leaves_the_host_as_it_was(app, model, sure, monkeypatch):
    unet = unet_of(model)
    was = [(name, sorted(vars(module))) for name, module in unet.named_modules()]

    def fails(*args, **more):
        raise ValueError("out of memory")

    monkeypatch.setattr(type(unet), "forward", fails)
    with pytest.raises(SettingsError, match=r"could not be asked.*\(ValueError: out of memory\)"):
        begun(app, mask_source="attention")
    assert [(name, sorted(vars(module))) for name, module in unet.named_modules()] == was and len(app.errors.reports) == 1


@pytest.mark.parametrize(("prompt", "said"), [("", "needs words"), ("masterpiece, best quality", "needs words")])
def test_without_words_there_is_nothing_to_ask(app, model, sure, prompt, said):
    with pytest.raises(SettingsError, match=said):
        begun(app, prompt, mask_source="attention")
    assert not unet_of(model).calls and begun(app, prompt)[0].subjects[0].source != "attention"


def test_a_model_of_another_kind_is_named(app, model, sure, monkeypatch):
    for name in ("input_blocks", "middle_block", "output_blocks"):
        setattr(unet_of(model), name, torch.nn.Identity())
    with pytest.raises(SettingsError, match="Only a U-Net as in SD1, SD2 or SDXL"):
        begun(app, mask_source="attention")


def test_a_compiled_unet_cannot_be_asked(app, model, sure, monkeypatch):
    if not isinstance(model, webui.Model):
        pytest.skip("Forge compiles none")
    monkeypatch.setattr(app.a1111.sd_unet, "current_unet", object())
    with pytest.raises(SettingsError, match="compiled U-Net") as refusal:
        begun(app, mask_source="attention")
    assert "drawn without" not in str(refusal.value)


def test_what_is_asked_by_hand_counts_until_asked_again(app, model, sure):
    reference, lock = asked().references[0], app.asking.call_queue.queue_lock
    with pytest.raises(SettingsError, match="not been asked"):
        looked(reference, "attention", process_state.known_ways(reference))
    found = app.asking.by_hand(reference, "a cat")
    assert lock.entered == 1 and not lock.held and CHECK not in found.reasons and "a cat" in found.reasons[0]
    for source in ("auto", "attention"):  # as the preview looks
        seen = looked(asked().references[0], source, process_state.known_ways(reference)).seen
        assert seen.source == "attention" and (seen.mask == WHERE).all()
    seal, p = begun(app, "a dog")  # its words do not matter any more, and the user has seen the outline
    assert seal.subjects[0].source == "attention" and not seal.outlined and not p.comments and unet_of(model).calls == LOOKS
    app.asking.by_hand(reference, "a dog")
    assert unet_of(model).calls == LOOKS + LOOKS
    process_state.clear()
    assert not process_state.known_ways(reference)


def test_what_is_asked_by_hand_counts_even_as_a_guess(app, model, monkeypatch):
    plain = Image.new("RGB", (64, 96), "white")
    plain.paste((200, 30, 40), (30, 20, 60, 80))  # another way is sure of this
    monkeypatch.setattr(app.asking, "from_probability", lambda rgb, heat: as_guess(subject_of(WHERE, "attention"), 0.4))
    reference = asked(reference=plain).references[0]
    assert looked(reference, "auto", process_state.known_ways(reference)).seen.source == "background"
    app.asking.by_hand(reference, "a cat")
    assert (looked(reference, "auto", process_state.known_ways(reference)).seen.mask == WHERE).all()  # as the preview looks
    assert (begun(app, reference=plain)[0].subjects[0].mask == WHERE).all()


def test_what_was_painted_is_not_passed_over(app, model, sure):
    with pytest.raises(AlignError, match="You painted"):
        app.asking.by_hand(asked(mask=Image.fromarray(WHERE)).references[0], "a cat")


def test_a_route_waits_in_the_queue_and_a_generation_is_in_it_already(app, model, sure):
    reference, lock = asked().references[0], app.asking.call_queue.queue_lock
    with lock:
        begun(app)
    assert lock.entered == 1
    assert looked(reference, "auto", app.asking.waiting(reference, "a dog")).seen.source == "attention" and lock.entered == 2


def test_controlnets_segmenter_comes_before_the_model_and_looks_once(app, model, sure, monkeypatch):
    looks = []

    def segmenting(run):
        return lambda rgb: run(lambda: looks.append(1) or subject_of(WHERE, "controlnet"))

    monkeypatch.setattr(app.asking.segmentation, "way", segmenting)
    reference, lock = asked().references[0], app.asking.call_queue.queue_lock
    assert begun(app)[0].subjects[0].source == "controlnet" and not sure and not lock.entered
    assert looked(reference, "auto", app.asking.waiting(reference, "")).seen.source == "controlnet" and looks == [1]
    assert looked(reference, "auto", process_state.known_ways(reference)).seen.source == "controlnet"
    process_state.clear()
    assert looked(reference, "auto", app.asking.segmenting(reference, app.asking.queued)).seen.source == "controlnet" and lock.entered == 1


def test_the_preview_and_a_picture_within_show_what_the_last_picture_used(app, model, sure):
    reference = asked().references[0]
    begun(app)
    assert begun(app, "")[0].subjects[0].source == "attention" and len(sure) == 1  # drawn inside another, without words of its own
    with pytest.raises(SettingsError, match="needs words"):
        looked(reference, "attention", app.asking.waiting(reference, ""))
    assert looked(reference, "auto", process_state.known_ways(reference)).seen.source == "attention"


def test_a_forge_loads_its_model_first(app, model, sure, monkeypatch):
    """Before the first picture there is only something in its place."""
    shared, loaded = app.asking.shared, []
    monkeypatch.setattr(shared, "sd_model", object())
    load = SimpleNamespace(forge_model_reload=lambda: loaded.append(1) or setattr(shared, "sd_model", model))
    monkeypatch.setitem(sys.modules, "modules.sd_models", load)
    assert begun(app)[0].subjects[0].source == "attention" and loaded == [1]


@pytest.mark.parametrize(("prompt", "words"), [
    ("a (red|cat)", "a redcat"), (["a cat", "a dog"], "a cat"), ("a cat AND a dog", "a cat"), (r"a cat \(big\), [x]", "a cat big , x"),
    ("a\n cat", "a cat"), ("a cat|BREAK|a hat", "a cat a hat"), (None, ""), ([], ""),
])  # fmt: skip
def test_only_words_are_asked_for(app, model, prompt, words):
    assert app.asking.plain(prompt) == words


def test_a_large_picture_is_looked_at_in_the_models_own_size(app, model, sure, monkeypatch):
    sizes, unet = [], unet_of(model)
    own = type(unet).forward
    monkeypatch.setattr(
        type(unet), "forward", lambda self, x, *args, **more: sizes.append(tuple(x.shape[-2:])) or own(self, x, *args, **more)
    )
    begun(app, reference=BUSY.resize((640, 960)))
    assert set(sizes) == {(16, 16)}
