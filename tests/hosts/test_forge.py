"""The Forge adapter beside a stand-in of the host: rows are told apart however they come, and nothing stays behind."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from seal_ext import layers
from seal_ext.core.guide import Known
from seal_ext.core.limbs import Body
from seal_ext.core.skeleton import read_skeleton
from seal_ext.hosts.webui import process_state
from seal_ext.request import parse
from seal_ext.shelf import Shelf
from tests.hosts import forge_host, webui
from tests.skeletons import painted

# Beside that, what users get. The stand-in's layers are all on one grid: with all of them infused its numbers grow beyond measure.
BASE = dict(mask_source="whole", blocks="up.3-")
BRIDGE = dict(appearance_prompt="a dog", lam=2.0, lam_end=1.0)


@pytest.fixture(params=[True, False], ids=["Forge", "reForge"])
def model(request):
    process_state.cache.clear()
    return forge_host.Model(request.param)


def draw(app, model, prompts, settings=None, scale=4.0, **more):
    p = webui.Processing([prompts] if isinstance(prompts, str) else prompts, scale=scale)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    seal = None if settings is None else app.begin(p, parse([{"reference": picture} | BASE | settings]))
    try:
        return forge_host.draw(app, model, p, seal, **more), p
    finally:
        p.close()


def footprint(model):
    unet = model.forge_objects.unet
    return [(name, sorted(vars(module))) for name, module in unet.model.diffusion_model.named_modules()], repr(unet.model_options)


def test_a_run_changes_the_picture_and_leaves_the_host_as_found(app, model):
    (plain, _), was = draw(app, model, "a cat"), footprint(model)
    drawn, p = draw(app, model, "a cat", {})
    assert torch.isfinite(drawn).all() and not torch.equal(drawn, plain) and not p.comments
    assert footprint(model) == was and torch.equal(draw(app, model, "a cat")[0], plain)
    assert p.preserved > 0, "room for the references was not asked for"


@pytest.mark.parametrize("settings", [{}, {"form": "output"}, {"form": "kv"}, {"feature": "qk_per_head"}, {"uncond_rows": 0.0}, BRIDGE])
@pytest.mark.parametrize("prompts", ["a cat", "a cat AND a hat", ["a cat", "a dog"]])
def test_rows_are_told_apart_in_one_call_or_many(app, model, settings, prompts):
    together, _ = draw(app, model, prompts, settings)
    apart, _ = draw(app, model, prompts, settings, split=True)
    assert torch.allclose(together, apart, rtol=1e-4, atol=1e-4)


def test_images_of_a_batch_are_as_if_drawn_alone(app, model):
    both, _ = draw(app, model, ["a cat", "a hat"], BRIDGE | {"seed_policy": "fixed"})
    alone, _ = draw(app, model, "a cat", BRIDGE | {"seed_policy": "fixed"})
    assert torch.allclose(both[:1], alone, rtol=1e-4, atol=1e-4)


def test_delta_bridge_rides_along_where_lengths_allow_and_costs_no_call(app, model):
    calls = model.forge_objects.unet.model.diffusion_model.calls
    draw(app, model, "a cat", BRIDGE)
    calls.clear()
    drawn, _ = draw(app, model, "a cat", BRIDGE)
    assert calls == [3, 3, 3, 2]  # λ is 0 at the very end
    calls.clear()
    draw(app, model, "A LONG CAT", BRIDGE | {"appearance_prompt": "A LONG DOG"})
    assert set(calls) <= {1, 2} and not torch.equal(drawn, draw(app, model, "a cat", {"appearance_prompt": "", "gate": False})[0])
    calls.clear()
    draw(app, model, "A LONG CAT", BRIDGE)  # what the host keeps apart stays apart
    assert set(calls) == {1}
    calls.clear()
    draw(app, model, "a cat", BRIDGE, split=True)
    assert set(calls) == {1}
    calls.clear()
    draw(app, model, "a cat", BRIDGE, scale=1.0)  # there are no other rows to go with
    assert set(calls) == {1, 2}


def test_prompts_are_compared_in_every_second_step_and_bridged_in_all(app, model):
    calls = model.forge_objects.unet.model.diffusion_model.calls
    whole, _ = draw(app, model, "a cat", BRIDGE | {"gate": False})
    calls.clear()
    held, _ = draw(app, model, "a cat", BRIDGE | {"gate": False, "lam_every": 2})
    assert calls == [3, 2, 3, 2]
    unbridged, _ = draw(app, model, "a cat", {"gate": False, "appearance_prompt": ""})
    assert 0 < (held - whole).abs().mean() < 0.5 * (unbridged - whole).abs().mean()


def test_a_vae_that_overflows_is_said_and_the_picture_is_drawn_without_seal(app, model, monkeypatch):
    plain, _ = draw(app, model, "a cat")
    own = forge_host.Model.encode_first_stage
    monkeypatch.setattr(forge_host.Model, "encode_first_stage", lambda *args: own(*args) * torch.nan)
    unseen = Image.fromarray(np.random.default_rng(7).integers(0, 256, (64, 64, 3), np.uint8))
    drawn, p = draw(app, model, "a cat", {"reference": unseen})
    assert torch.equal(drawn, plain) and any("The VAE cannot encode the reference" in said for said in p.comments)


def test_the_room_that_is_asked_for_holds_what_is_kept(app, model):
    """Of several references, too; each image reads for itself where its noise is its own."""

    def asked(prompts, settings, count=1):
        process_state.clear()
        pictures = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (64, 64, 3), np.uint8)) for n in range(count)]
        p = webui.Processing(prompts)
        seal = app.begin(p, parse([{"reference": pictures} | BASE | settings]))
        forge_host.draw(app, model, p, seal)
        p.close()
        return p.preserved, process_state.cache.bytes

    one, three = asked(["a cat"], {}), asked(["a cat"], {}, 3)
    images = asked(["a cat", "a cat"], {"noise": "noised", "seed_policy": "image"})
    assert all(room >= kept > 0 for room, kept in (one, three, images))
    assert (three[0], images[0]) == (3 * one[0], 2 * one[0])


def test_a_restart_draws_the_same_and_reads_nothing(app, model, tmp_path, monkeypatch):
    drawn, passes = [], []
    for _ in range(3):
        monkeypatch.setattr(process_state, "shelf", Shelf(tmp_path, lambda: 1 << 24))
        process_state.clear()
        before = process_state.cache.counts.passes
        drawn += [draw(app, model, "a cat", {})[0] for _ in range(2)]
        passes.append(process_state.cache.counts.passes - before)
    assert all(torch.equal(drawn[0], x) for x in drawn) and passes[0] > 0 == passes[1] == passes[2]


def test_a_reference_is_read_once_for_all_prompts(app, model):
    before = process_state.cache.counts.passes
    draw(app, model, "a cat", {})
    once = process_state.cache.counts.passes - before
    for prompts, more in (("a dog", {}), (["a hat", "a cat"], {}), ("a cat", BRIDGE)):
        draw(app, model, prompts, more)
    assert process_state.cache.counts.passes - before == once > 0
    draw(app, model, "a dog", {"read_with": "words"})
    assert process_state.cache.counts.passes - before == 2 * once


def test_the_match_map_on_request(app, model):
    p = webui.Processing(["a cat", "a hat"])
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    seal = app.begin(p, parse([{"reference": picture} | BASE | BRIDGE | {"show_match": True}]))
    forge_host.draw(app, model, p, seal)
    seal.end_pass()
    processed = webui.SimpleNamespace(images=[], infotexts=[])
    seal.add_pictures(processed)
    assert [image.size for image in processed.images] == [(64, 64)] * 2 and set(processed.infotexts) == {"SeAl match"}
    p.close()


def posed(app, p, settings):
    """A seal whose reference's joints are known, and the structure's too."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    seal = app.begin(p, parse([{"reference": picture} | BASE | settings]))
    pose = read_skeleton(np.asarray(painted(size=(64, 64))))
    seal.align(app.Structures(known=Known(Body.of(pose.moved((1 / 64, 1 / 64)))), poses={0: pose}))
    return seal


@pytest.mark.parametrize("looks", [(0.5,), (1.25,), (1.5, 0.5)])
def test_a_sampler_may_look_at_the_picture_in_another_size(app, model, looks):
    """As "Euler SMEA Dy" does, with the first model call as well: those calls are as without SeAl, and the others take no harm."""
    settings = BRIDGE | {"limbs": 1.0, "gate": True, "show_match": True, "show_disagreement": True}
    drawn, calls = {}, model.forge_objects.unet.model.diffusion_model.calls
    for name, more in (("plain", None), ("infused", settings | {"appearance_prompt": ""}), ("both", settings)):
        p = webui.Processing(["a cat", "a hat"])
        seal = None if more is None else posed(app, p, more)
        calls.clear()
        drawn[name] = forge_host.draw(app, model, p, seal, looks=looks)
        assert not p.comments
        if name == "both":
            assert [rows for rows in calls if rows > 1] == [*[4] * len(looks), 6] * 3 + [4] * (len(looks) + 1)  # reading is a row alone
            seal.end_pass()
            assert all(picture.shape == (64, 64, 3) and picture.std() > 1 for picture in seal.shown.matches)
            assert [picture.shape for picture in seal.shown.disagreement] == [(8, 8)] * 2
        p.close()
    assert len({tuple(x.flatten().tolist()) for x in drawn.values()}) == 3 and all(x.isfinite().all() for x in drawn.values())


def test_delta_bridge_beside_a_sampler_that_replaces_what_comes_after_guidance(app, model):
    """As reForge's CFG++ samplers do, which want to know what the negative prompt alone says."""
    seen = []

    def listens(args):
        seen.append(args["uncond_denoised"])
        return args["denoised"]

    drawn, _ = draw(app, model, "a cat", BRIDGE, told={"sampler_post_cfg_function": [listens]})
    assert len(seen) == 4 and torch.equal(drawn, draw(app, model, "a cat", BRIDGE)[0])


def test_delta_bridge_without_guidance(app, model):
    plain, _ = draw(app, model, "a cat", {"infusion": False}, scale=1)
    bridged, _ = draw(app, model, "a cat", BRIDGE | {"infusion": False, "gate": False}, scale=1)
    assert not torch.equal(plain, bridged) and torch.isfinite(bridged).all()


def test_what_a_control_net_says_reaches_every_row(app, model):
    without, _ = draw(app, model, "a cat", BRIDGE)
    drawn, _ = draw(app, model, "a cat", BRIDGE, control=True)
    assert not torch.allclose(drawn, without)
    assert torch.allclose(drawn, draw(app, model, "a cat", BRIDGE, control=True, split=True)[0], rtol=1e-4, atol=1e-4)


def test_another_extensions_attention_is_blended_with(app, model):
    def replaced():
        options = model.forge_objects.unet.model_options["transformer_options"]
        places = {(*block, 0): forge_host.plain_attention for block in forge_host.UNet.BLOCKS}
        model.forge_objects.unet = model.forge_objects.unet.clone()
        model.forge_objects.unet.model_options["transformer_options"] = options | {"patches_replace": {"attn1": places}}

    plain, _ = draw(app, model, "a cat", {})
    beside, p = draw(app, model, "a cat", {}, before=replaced)
    assert torch.allclose(plain, beside, rtol=1e-4, atol=1e-4), "the same attention in another's words is the same picture"
    assert not p.comments
    assert not torch.allclose(draw(app, model, "a cat", {"form": "joint"}, before=replaced)[0], draw(app, model, "a cat")[0])


def test_of_more_rows_others_are_told_what_the_host_would_tell(app, model):
    level = torch.ones(2)
    told = app.forge.rows_said({"block": 1} | forge_host.rows_said(model, [1, 0], level), [1, 0, 0], level)
    wanted = {"block": 1} | forge_host.rows_said(model, [1, 0, 0], level)
    assert told.keys() == wanted.keys() and all(np.array_equal(told[name], wanted[name]) for name in wanted)


def reference_unit(model, adain):
    """Forge's reference_only, or reference_adain: a call of its own is recorded, and every later one has as many rows of the prompt."""
    unet = model.forge_objects.unet = model.forge_objects.unet.clone()
    kept, recording = {}, []

    def rows(told):
        if not model.forge:  # it takes the numbers of prompts for those of rows
            return tuple([number for number, kind in enumerate(told["cond_or_uncond"]) if bool(kind) is negative]
                         for negative in (False, True))  # fmt: skip
        assert sorted([*told["cond_indices"], *told["uncond_indices"]]) == list(range(len(told["cond_mark"])))
        return told["cond_indices"], told["uncond_indices"]

    def mixed(own, other):
        return torch.cat([own, other], 1) if len(own) else other

    def joined(told, prompts, negatives):
        return torch.cat([negatives if kind else prompts for kind in told["cond_or_uncond"]])

    def attention(q, k, v, told):
        if recording:
            kept[told["block"]] = k, v
            return forge_host.plain_attention(q, k, v, told)
        prompts, negatives = rows(told)
        more = [mixed(own[prompts], other) for own, other in zip((k, v), kept[told["block"]], strict=True)]
        parts = (q[prompts], *more), (q[negatives], k[negatives], v[negatives])
        return joined(told, *(forge_host.plain_attention(*part, told) if len(part[0]) else part[0] for part in parts))

    def statistics(x, when, told):
        if recording:
            kept["x"] = x
            return x
        prompts, negatives = rows(told)
        return joined(told, x[prompts] + 0.1 * kept["x"] if prompts else x[prompts], x[negatives])

    def records(inner, x, sigma, *rest):
        recording.append(True)
        options = model.forge_objects.unet.model_options
        c = {"c_crossattn": webui.embed("x", False).expand(len(x), -1, -1),
             "transformer_options": {**options["transformer_options"], **forge_host.rows_said(model, [0], sigma)}}  # fmt: skip
        args = {"input": x + 1, "timestep": sigma, "cond_or_uncond": [0], "c": c}
        wrapper = options.get("model_function_wrapper", lambda apply, args: apply(args["input"], args["timestep"], **args["c"]))
        wrapper(inner.apply_model, args)
        recording.clear()
        return (inner, x, sigma, *rest)

    unet.add_conditioning_modifier(records)
    options = unet.model_options["transformer_options"]
    if adain:
        options["block_modifiers"] = [statistics]
    else:
        options["patches_replace"] = {"attn1": {(*block, 0): attention for block in forge_host.UNet.BLOCKS}}


@pytest.mark.parametrize("adain", [False, True])
@pytest.mark.parametrize("settings", [{}, BRIDGE])
@pytest.mark.parametrize("prompts", ["a cat", ["a cat", "a hat"]])
def test_reference_units_are_asked_as_the_host_asks_them(app, model, prompts, settings, adain):
    """They mix what they recorded with the rows of the prompt, and know how many these are; SeAl acts beside them."""
    if not model.forge and (adain or isinstance(prompts, list)):
        pytest.skip("reForge makes nothing of the one unit, and of the other only with single pictures")
    beside = dict(before=lambda: reference_unit(model, adain))
    alone, _ = draw(app, model, prompts, **beside)
    drawn, p = draw(app, model, prompts, settings, **beside)
    assert not p.comments and not torch.allclose(drawn, alone, atol=1e-3)
    assert not torch.allclose(drawn, draw(app, model, prompts, settings)[0], atol=1e-3)
    assert torch.allclose(drawn, draw(app, model, prompts, settings, split=True, **beside)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{"appearance_prompt": ""}, BRIDGE])
@pytest.mark.parametrize("prompts", ["a cat", "a cat AND a hat", ["a cat", "a hat"]])
def test_an_ip_adapter_meets_its_own_rows(app, model, monkeypatch, prompts, settings):
    """It replaces cross-attention, and takes from cond_or_uncond and the number of rows whose these are: those for c_app are a prompt's."""
    tokens, negatives = torch.randn(2, 4, webui.WIDTH, generator=torch.Generator().manual_seed(3)), []

    def adapter(q, k, v, told):
        negatives.append(told["cond_or_uncond"].count(1))
        images = len(q) // len(told["cond_or_uncond"])
        own = torch.cat([tokens[kind].expand(images, -1, -1) for kind in told["cond_or_uncond"]])
        return forge_host.plain_attention(q, k, v, told) + forge_host.plain_attention(q, own, own, told)

    def adapts():
        unet = model.forge_objects.unet = model.forge_objects.unet.clone()
        unet.model_options["transformer_options"]["patches_replace"] = {"attn2": dict.fromkeys(forge_host.UNet.BLOCKS, adapter)}

    alone, _ = draw(app, model, prompts, before=adapts)
    before = sum(negatives)
    drawn, p = draw(app, model, prompts, settings, before=adapts)
    assert not p.comments and not torch.allclose(drawn, alone, atol=1e-3)
    assert sum(negatives) == 2 * before
    assert not torch.allclose(drawn, draw(app, model, prompts, settings)[0], atol=1e-3)
    close = 1e-4 * float(drawn.abs().max())  # what the order of sums makes of values this large
    assert torch.allclose(drawn, draw(app, model, prompts, settings, split=True, before=adapts)[0], atol=close)
    monkeypatch.setattr(app.forge, "_may_count", lambda told: True)  # in calls of their own the rows cannot be mistaken
    assert torch.allclose(drawn, draw(app, model, prompts, settings, before=adapts)[0], atol=close)


def test_words_that_another_extension_replaces_are_named(app, model):
    """As forge-couple does: every prompt's row sees that extension's words, the reference prompt's too, and nothing is left to steer."""
    words = torch.randn(1, 3, webui.WIDTH, generator=torch.Generator().manual_seed(5))

    def couple(q, k, v, told):
        own = words.expand(len(q), -1, -1)
        return forge_host.plain_attention(q, own, own, told)

    def couples():
        unet = model.forge_objects.unet = model.forge_objects.unet.clone()
        unet.model_options["transformer_options"]["patches_replace"] = {"attn2": dict.fromkeys(forge_host.UNet.BLOCKS, couple)}

    only = BRIDGE | {"infusion": False}
    drawn, p = draw(app, model, "a cat", only, before=couples)
    assert torch.allclose(drawn, draw(app, model, "a cat", before=couples)[0], atol=1e-4)
    assert [said for said in p.comments if said.startswith("Delta-Bridge had no effect")]
    assert not draw(app, model, "a cat", only)[1].comments


def test_sdxl_is_told_the_pooled_words_of_c_app(app):
    """Beside the words themselves, in the rows of c_app and no others."""
    words = {"crossattn": torch.ones(1, 3, 8), "vector": torch.full((1, 5), 2.0)}
    c = {"c_crossattn": torch.zeros(4, 3, 8), "y": torch.zeros(4, 5), "transformer_options": {}}
    args = {"input": torch.zeros(4, 4, 8, 8), "timestep": torch.full((4,), 9.0), "cond_or_uncond": [1, 0], "c": c}
    theirs = app.forge.Pass._of_appearance(SimpleNamespace(_app=lambda: words), args, 2, 2)
    assert torch.equal(theirs["c"]["y"], torch.full((2, 5), 2.0)) and torch.equal(theirs["c"]["c_crossattn"], torch.ones(2, 3, 8))
    assert app.forge.joined(args, theirs)["c"]["y"][:, 0].tolist() == [0, 0, 0, 0, 2, 2]


def test_other_wrappers_and_calls_of_other_extensions_stay_what_they_are(app, model):
    seen = []

    def others():
        def wrapper(apply, args):
            seen.append(len(args["input"]))
            return apply(args["input"], args["timestep"], **args["c"])

        def records(inner, x, sigma, *rest):
            patcher = model.forge_objects.unet
            told = {"cond_or_uncond": [0], "sigmas": sigma}
            args = {"input": x, "timestep": sigma, "cond_or_uncond": [0], "c": {"c_crossattn": webui.embed("x", False),
                                                                              "transformer_options": told}}  # fmt: skip
            mine = patcher.model_options["model_function_wrapper"](inner.apply_model, args)
            assert torch.equal(mine, inner.apply_model(x, sigma, **args["c"])), "a call before the sampler's own was infused"
            return (inner, x, sigma, *rest)

        unet = model.forge_objects.unet = model.forge_objects.unet.clone()
        unet.set_model_unet_function_wrapper(wrapper)
        unet.add_conditioning_modifier(records)

    drawn, p = draw(app, model, "a cat", {}, before=others)
    assert seen and not p.comments
    assert torch.allclose(drawn, draw(app, model, "a cat", {})[0], atol=1e-5)


def test_an_exception_undoes_everything(app, model, monkeypatch):
    was, unet = footprint(model), model.forge_objects.unet.model.diffusion_model
    plain, _ = draw(app, model, "a cat")

    class Boom(Exception):
        pass

    inner = model.forge_objects.unet.model
    original = inner.apply_model
    monkeypatch.setattr(inner, "apply_model", lambda *a, **k: (_ for _ in ()).throw(Boom) if len(unet.calls) > 2 else original(*a, **k))
    unet.calls.clear()
    with pytest.raises(Boom):
        draw(app, model, "a cat", BRIDGE)
    monkeypatch.undo()
    assert footprint(model) == was and torch.equal(draw(app, model, "a cat")[0], plain)


def test_a_model_without_a_unet_is_said_and_drawn_without(app, model):
    plain, _ = draw(app, model, "a cat")
    places = layers.find_sites(model.forge_objects.unet.model.diffusion_model)
    assert len(places) == 7
    flat = model.forge_objects.unet.model.diffusion_model
    for name in ("input_blocks", "middle_block", "output_blocks"):
        flat._modules["other_" + name] = flat._modules.pop(name)
    flat.places = lambda: (flat.other_input_blocks[0][0], flat.other_middle_block[0], *(x[0] for x in flat.other_output_blocks))
    drawn, p = draw(app, model, "a cat", {})
    assert torch.equal(drawn, plain) and any("needs a U-Net" in said for said in p.comments)


def test_a_sampler_that_draws_a_batch_one_by_one_is_said_and_left_alone(app, model):
    """As reForge's ODE samplers do."""
    drawn, p = draw(app, model, ["a cat", "a hat"], {}, alone=True)
    assert torch.equal(drawn, draw(app, model, ["a cat", "a hat"], alone=True)[0])
    [said] = p.comments
    assert "batch size of 1" in said
