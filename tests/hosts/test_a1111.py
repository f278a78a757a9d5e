"""The A1111 adapter beside a stand-in of the host: rows are told apart in every way the host splits them, and nothing stays behind."""

import contextlib
import copy
import functools
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import seal_ext
from seal_ext import layers
from seal_ext.core.guide import Known
from seal_ext.core.limbs import Body
from seal_ext.core.skeleton import Skeleton
from seal_ext.hosts.webui import conditioning, process_state
from seal_ext.request import parse
from seal_ext.shelf import Shelf
from tests.hosts import webui
from tests.skeletons import STANDING

BASE = dict(mask_source="whole")  # beside that, what users get


@pytest.fixture
def model():
    torch.manual_seed(0)  # of some random models hardly a token finds its like
    process_state.cache.clear()
    return webui.Model()


def reference(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8))


def draw(app, model, prompts, settings=None, wrap=None, p=None, **more):
    """A picture with SeAl, or without it; and its `p`, after the host closed it."""
    p = p or webui.Processing([prompts] if isinstance(prompts, str) else prompts)
    seal = None if settings is None else app.begin(p, parse([{"reference": reference()} | BASE | settings]))
    try:
        return webui.draw(app, model, p, seal, wrap or webui.Wrap, **more), p
    finally:
        p.close()


def footprint(model):
    return [(name, sorted(vars(module))) for name, module in model.unet.named_modules()]


def test_sites_are_counted_as_the_unet_runs_them(model):
    sites = list(layers.find_sites(model.unet))
    assert [(s.part, s.index) for s in sites] == [("down", 0), ("mid", 0), *(("up", number) for number in range(5))]
    assert all(s.name.endswith("attn1") for s in sites)


@pytest.mark.parametrize("wrap", [webui.Wrap, webui.TimestepsWrap])
def test_a_run_changes_the_picture_and_leaves_the_host_as_found(app, model, wrap):
    (plain, p), was = draw(app, model, "a cat", wrap=wrap), footprint(model)
    drawn, after = draw(app, model, "a cat", {}, wrap=wrap)
    assert torch.isfinite(drawn).all() and not torch.equal(drawn, plain)
    assert footprint(model) == was and set(vars(after)) == set(vars(p)) and after.closed == 1 and not after.comments
    assert torch.equal(draw(app, model, "a cat", wrap=wrap)[0], plain)


def test_limbs_are_compared_where_both_bodies_are_known(app, model):
    joints = np.full((18, 2), np.nan)
    joints[list(STANDING)] = list(STANDING.values())

    def drawn(skeleton, poses):
        p = webui.Processing(["a cat"])
        seal = app.begin(p, parse([{"reference": reference()} | BASE | {"limbs": 1.0}]))
        seal.align(app.Structures(known=Known(skeleton and Body.of(skeleton)), poses=poses))
        try:
            return webui.draw(app, model, p, seal)
        finally:
            p.close()

    theirs = Skeleton(64 * (joints * [1, -1] + [0, 1]))  # upside down
    plain = drawn(None, {})
    assert torch.equal(plain, drawn(Skeleton(joints), {})) and torch.equal(plain, drawn(None, {0: theirs}))
    assert not torch.equal(plain, drawn(Skeleton(joints), {0: theirs}))


def test_a_colour_that_hides_under_transparency_reaches_nothing(app, model):
    hidden = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    hidden[..., 3] = np.where(np.arange(64) < 32, 0, 255)
    white = np.where(hidden[..., 3:] == 0, 255, hidden[..., :3]).astype(np.uint8)
    seen = [draw(app, model, "a cat", {"reference": Image.fromarray(given)})[0] for given in (hidden, white, hidden[..., :3].copy())]
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("wrap", [webui.Wrap, webui.TimestepsWrap])
def test_delta_bridge_acts_only_where_the_reference_prompt_differs(app, model, wrap):
    only = {"infusion": False, "gate": False}
    plain = draw(app, model, "a cat", wrap=wrap)[0]
    assert torch.equal(draw(app, model, "a cat", only, wrap=wrap)[0], plain)
    assert torch.equal(draw(app, model, "a cat", only | {"appearance_prompt": "a cat"}, wrap=wrap)[0], plain)
    assert not torch.equal(draw(app, model, "a cat", only | {"appearance_prompt": "a dog"}, wrap=wrap)[0], plain)


def test_the_bridge_is_its_formula(app, model):
    """One step at λ = 1 without a filter: ε̂ + (ε_gen − ε_app), in the space of a sampler that predicts x₀."""
    only = {"infusion": False, "gate": False, "appearance_prompt": "a dog", "radius": 0}
    only |= {"lam": 1.0, "lam_shape": "constant", "lam_end": 1.0}
    x, seen = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), {}
    for text in ("a cat", "a dog"):
        call = {"c_crossattn": [webui.embed(text, False)], "c_concat": []}
        seen[text] = webui.Wrap(model)(x, torch.tensor([9.0]), cond=call)
    p = webui.Processing(["a cat"])
    seal = app.begin(p, parse([{"reference": reference()} | BASE | only]))
    guided = []
    for switched in (True, False):
        sampler = webui.SimpleNamespace(sampler_extra_args={"cond": webui.SimpleNamespace(batch=p.prompts)}, get_sigmas=lambda: None)
        p.sampler = sampler
        seal.before_sampling()
        guided.append(webui.Denoiser(p, sampler, webui.Wrap(model))(x, 9.0, app))
        if switched:
            p.close()
    assert torch.allclose(guided[0] - guided[1], seen["a cat"] - seen["a dog"], atol=1e-4)


@pytest.mark.parametrize("wrap", [webui.Wrap, webui.TimestepsWrap])
def test_prompts_are_compared_in_every_third_step_and_bridged_in_all(app, model, wrap):
    only = {"infusion": False, "gate": False, "appearance_prompt": "a dog", "lam": 2.0, "lam_end": 1.0, "lam_shape": "constant"}
    whole, unbridged = (draw(app, model, "a cat", only | how, wrap=wrap)[0] for how in ({}, {"lam": 0.0}))
    model.unet.calls.clear()
    held, _ = draw(app, model, "a cat", only | {"lam_every": 3}, wrap=wrap)
    assert model.unet.calls == [3, 2, 2, 3]
    assert 0 < (held - whole).abs().mean() < 0.5 * (unbridged - whole).abs().mean()


def test_a_vae_that_overflows_is_said_and_the_picture_is_drawn_without_seal(app, model, monkeypatch):
    plain, _ = draw(app, model, "a cat")
    own = model.encode_first_stage
    monkeypatch.setattr(model, "encode_first_stage", lambda pixels: SimpleNamespace(mode=lambda: own(pixels).mode() * torch.nan))
    drawn, p = draw(app, model, "a cat", {"reference": reference(7)})  # one that nobody has encoded before
    assert torch.equal(drawn, plain) and any("The VAE cannot encode the reference" in said for said in p.comments)


@pytest.mark.parametrize("settings", [{}, {"appearance_prompt": "a dog"}, {"noise": "noised", "seed_policy": "image"}])
def test_a_batch_equals_its_singles(app, model, settings):
    prompts = ["a cat", "a house AND a tree", "a cat"]
    together, p = draw(app, model, prompts, settings)
    assert not p.comments
    for i, prompt in enumerate(prompts):
        alone = draw(app, model, prompt, settings, p=webui.Processing([prompt], seeds=[i]))[0]
        assert torch.allclose(together[i], alone[0], atol=1e-4), i


@pytest.mark.parametrize("prompts", [["a cat", "a cat"], ["a cat AND a tree", "a house"]])
@pytest.mark.parametrize("app_prompt", ["", "a dog", "A VERY LONG DOG"])
def test_however_the_host_splits_its_calls_the_picture_is_the_same(app, model, prompts, app_prompt):
    settings = {"appearance_prompt": app_prompt}
    whole, p = draw(app, model, prompts, settings)
    split, _ = draw(app, model, prompts, settings, batched=False)
    assert torch.allclose(whole, split, rtol=1e-4, atol=1e-4) and not p.comments


def test_prompts_of_unequal_length(app, model):
    plain, _ = draw(app, model, "A LONG CAT")
    drawn, p = draw(app, model, "A LONG CAT", {"appearance_prompt": "a dog"})
    assert not torch.equal(plain, drawn) and not p.comments


def test_without_negative_rows(app, model):
    plain, _ = draw(app, model, "a cat", skip=True)
    drawn, p = draw(app, model, "a cat", {"appearance_prompt": "a dog"}, skip=True)
    assert not torch.equal(plain, drawn) and not p.comments


def test_only_the_prompts_rows_are_infused(app, model):
    """With guidance 0 the picture is the negative prompt's alone: untouched, unless the setting gives it a share."""

    def unguided(settings=None):
        return draw(app, model, "a cat", settings, p=webui.Processing(["a cat"], scale=0.0))[0]

    assert torch.equal(unguided({"uncond_rows": 0.0}), unguided()) and not torch.equal(unguided({}), unguided())


def test_calls_of_other_extensions_are_left_alone(app, model):
    seen = []

    def stranger(wrap, params):
        seen.append(wrap(params.x[:1], params.sigma[:1], cond={"c_crossattn": [params.text_cond[:1]], "c_concat": [params.image_cond[:1]]}))

    draw(app, model, "a cat", None, stranger=stranger)
    plain = seen[0]
    draw(app, model, "a cat", {}, stranger=stranger)
    assert torch.equal(seen[4], plain)  # of the first step, where both have the same noise


def test_a_control_nets_mark_and_residuals_stay_out_of_the_reference(app, model):
    """The mark is no part of what the reference looks like, and its U-Net call is the class's own."""
    told = {"read_with": "words"}
    draw(app, model, "a cat", told)
    assert process_state.cache.counts.misses
    before = process_state.cache.counts.hits
    own, calls = type(model.unet).forward, []

    def hooked(x, timesteps, context):
        calls.append(len(x))
        assert context[:, 0].abs().min() == conditioning.MARK
        return own(model.unet, x, timesteps, context[:, 1:]) + 0.1

    vars(model.unet)["forward"] = hooked
    p = webui.Processing(["a cat"])
    for part in p.prompts[0]:
        part.cond = conditioning.marked(part.cond)
    p.negative = -conditioning.marked(-p.negative)
    plain_calls = len(calls)
    drawn, _ = draw(app, model, "a cat", told | {"appearance_prompt": "a dog", "gate": False}, p=p)
    assert len(calls) - plain_calls == 4 and vars(model.unet)["forward"] is hooked and torch.isfinite(drawn).all()
    del vars(model.unet)["forward"]
    assert process_state.cache.counts.hits == before  # another c_app: read anew, without the mark
    draw(app, model, "a dog", told)
    assert process_state.cache.counts.hits == before + 1


def test_a_reference_is_read_once_for_all_prompts_unless_it_is_read_with_them(app, model):
    def passes(prompts, **settings):
        before = process_state.cache.counts.passes
        drawn = draw(app, model, prompts, settings)[0]
        return process_state.cache.counts.passes - before, drawn

    once, cat = passes("a cat")
    assert once > 0 and passes("A LONG DOG")[0] == passes("a cat", appearance_prompt="a dog")[0] == passes(["a hat", "a cat"])[0] == 0
    told, other = passes("a cat", read_with="words")
    assert told == once and passes("a cat", read_with="words", appearance_prompt="a cat")[0] == 0 and not torch.equal(cat, other)
    assert passes("a dog", read_with="words")[0] == once and passes(["a hat", "a house"], read_with="words")[0] == 2 * once


class Boom(Exception):
    pass


@pytest.mark.parametrize("after", [0, 2, 4])
def test_an_exception_undoes_everything(app, model, after):
    plain, was, left = draw(app, model, "a cat")[0], footprint(model), [after]

    def explode(module, inputs):
        left[0] -= 1
        if left[0] < 0:
            raise Boom

    handle = model.unet.middle_block[0].register_forward_pre_hook(explode)
    p = webui.Processing(["a cat"])
    with pytest.raises(Boom):
        draw(app, model, "a cat", {}, p=p)
    handle.remove()
    assert footprint(model) == was and p.closed == 1 and "_seal" not in vars(p)
    assert torch.equal(draw(app, model, "a cat")[0], plain)


def test_an_interrupt_while_reading_stops_the_run(app, named, model):
    was = footprint(model)
    named["modules.shared"].state.interrupted = True
    with pytest.raises(named["modules.sd_samplers_common"].InterruptedException):
        draw(app, model, "a cat", {})
    assert footprint(model) == was and named["modules.shared"].state.textinfo is None


def test_while_references_are_read_the_bar_is_theirs_and_the_seconds_are_said(app, named, model, monkeypatch):
    state, seen, own = named["modules.shared"].state, [], app.a1111.Pass.tell
    monkeypatch.setattr(app.a1111.Pass, "tell", lambda self, *n: (own(self, *n), seen.append((state.sampling_step, state.sampling_steps))))
    _, p = draw(app, model, "a cat", {"t_app": "all"})
    (said,) = p.timed
    assert seen == [(done, 4) for done in range(5)] and (state.sampling_step, state.sampling_steps) == (0, 4)
    assert said.startswith("SeAl read the reference in ") and said.endswith(" s.")
    _, p = draw(app, model, "a cat", {"t_app": "all"})
    assert not p.timed  # it was kept


def test_what_ends_a_run_is_any_of_close_the_next_start_and_a_copy(app, model):
    p, was = webui.Processing(["a cat"]), footprint(model)
    asked = parse([{"reference": reference()} | BASE])
    first = app.begin(p, asked)
    webui.draw(app, model, p, first)
    other = copy.copy(p)
    second = app.begin(other, asked)  # as the XYZ plot does
    assert first.closed and not second.closed and footprint(model) == was
    other.close()
    app.begin(p, asked)
    p.close()
    assert second.closed and p.closed == other.closed == 1 and not {"_seal", "close"} & (set(vars(p)) | set(vars(other)))


def within(p, act):
    """What the host calls while it draws `p`."""
    host = {"__name__": "modules.processing"}
    exec("def process_images_inner(p, act): return act()", host)
    return host["process_images_inner"](p, act)


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_seal_acts_inside_another_picture_where_it_was_asked_to_and_nowhere_else(app, marked, wanted):
    """Whether or not the extension that draws it marks it as ADetailer does."""
    outer, face, asked = webui.Processing(["a cat"]), webui.Processing(["a face"]), parse([{"reference": reference(), "inner": wanted}])
    if marked:
        face._ad_inner = True
    inside = within(outer, lambda: app.inner.for_inner_pass(face, asked)).settings
    assert inside.enabled == wanted and not inside.align
    assert app.inner.for_inner_pass(outer, asked).settings == within(outer, lambda: app.inner.for_inner_pass(outer, asked)).settings
    kept = app.inner.for_inner_pass(outer, asked).settings
    assert kept.enabled and kept.align


@pytest.mark.parametrize(("named_by_user", "inner", "then"), [
    ("wildcards,negpip", True, "wildcards,negpip,seal"), ("wildcards, seal", True, None), ("wildcards", False, None), (None, True, None),
])  # fmt: skip
def test_adetailer_runs_seal_where_inner_passes_are_wanted(app, named, named_by_user, inner, then):
    """It runs only scripts whose files its setting names; the host puts the setting back after the generation."""
    opts, p = named["modules.shared"].opts, webui.Processing(["a cat"])
    opts.data = {} if named_by_user is None else {"ad_script_names": named_by_user}
    p.override_settings = {"CLIP_stop_at_last_layers": 2}
    app.inner.for_inner_pass(p, parse([{"reference": reference(), "inner": inner}]))
    assert p.override_settings == {"CLIP_stop_at_last_layers": 2} | ({} if then is None else {"ad_script_names": then})
    assert Path(seal_ext.__file__).parents[1].joinpath("scripts", app.inner.OUR_SCRIPT + ".py").is_file()


def test_scripts_that_are_asked_again_with_a_copy_end_nothing(app, model):
    """As ADetailer asks them, after its own pictures: the next picture of the same generation is SeAl's as well."""
    p = webui.Processing(["a cat"])
    begun = app.begin(p, parse([{"reference": reference()} | BASE]))
    assert within(p, lambda: app.is_asked_again(copy.copy(p))) and not begun.closed
    assert not app.is_asked_again(copy.copy(p)) and not within(p, lambda: app.is_asked_again(p))
    p.close()
    assert not within(p, lambda: app.is_asked_again(copy.copy(p)))


@pytest.mark.parametrize("settings", [{}, {"form": "output"}, {"form": "kv"}, {"feature": "qk_per_head"}])
def test_another_extensions_forward_is_reached_in_every_layer(app, model, monkeypatch, settings):
    """What it makes of the layer's attention is what the reference is infused into."""
    own, reached = webui.CrossAttention.forward, []

    def theirs(factor):
        @functools.wraps(own)  # which copies the name of the module, too
        def forward(self, x, context=None, mask=None, **kwargs):
            reached.append(context is None)
            return factor * own(self, x, context, mask, **kwargs)

        return forward

    before, _ = draw(app, model, "a cat", settings)
    monkeypatch.setattr(webui.CrossAttention, "forward", theirs(1.0))
    draw(app, model, "a cat")
    plain = sum(reached)
    reached.clear()
    drawn, p = draw(app, model, "a cat", settings)
    readings = 7  # the cache is warm, and every layer of every call comes through
    assert plain <= sum(reached) <= plain + readings and torch.allclose(drawn, before, rtol=1e-3, atol=1e-3) and not p.comments
    monkeypatch.setattr(webui.CrossAttention, "forward", theirs(0.2))
    assert not torch.allclose(draw(app, model, "a cat", settings)[0], drawn, atol=0.1)


@pytest.mark.parametrize("package", ["modules.sd_hijack_optimizations", "modules.hypernetworks.hypernetwork"])
def test_the_hosts_own_optimisations_and_hypernetworks_take_part(app, model, named, monkeypatch, package):
    before, _ = draw(app, model, "a cat", {})
    scope = {"__name__": package, "own": webui.CrossAttention.forward}
    exec("def forward(self, x, context=None, mask=None, **kwargs):\n return own(self, x, context, mask)", scope)
    monkeypatch.setattr(webui.CrossAttention, "forward", scope["forward"])
    assert torch.equal(draw(app, model, "a cat", {})[0], before)
    hypernetwork = ModuleType("modules.hypernetworks.hypernetwork")
    hypernetwork.apply_hypernetworks = lambda networks, seen, layer: (seen, 0.5 * seen)
    monkeypatch.setitem(sys.modules, "modules.hypernetworks", SimpleNamespace(hypernetwork=hypernetwork))
    shared = named["modules.shared"]
    shared.loaded_hypernetworks = [SimpleNamespace(name="one", multiplier=1.0)]
    drawn, _ = draw(app, model, "a cat", {})
    assert not torch.allclose(drawn, before, atol=0.1)
    shared.loaded_hypernetworks, shared.opts.upcast_attn = [], True
    assert torch.allclose(draw(app, model, "a cat", {})[0], before, rtol=1e-4, atol=1e-4)


def test_merged_tokens_are_named(app, model):
    """Where tokens are merged nobody knows what is where: the figure's mask does not apply in silence."""
    p = webui.Processing(["a cat"])
    seal = app.begin(p, parse([{"reference": reference()} | BASE]))
    for block in model.unet.output_blocks:
        spatial = block[0]
        spatial.forward = lambda x, context, own=spatial: torch.cat([type(own).forward(own, x[..., :4], context), x[..., 4:]], -1)
    seal.align(app.Structures(figures=(np.ones((64, 64), bool),)))
    webui.draw(app, model, p, seal)
    p.close()
    assert any("Tokens are merged" in said for said in p.comments)


def test_a_model_that_changes_mid_run_is_looked_up_again(app, named, model):
    p, refiner = webui.Processing(["a cat"]), webui.Model()
    refiner.sd_checkpoint_info.filename = "b.safetensors"
    seal = app.begin(p, parse([{"reference": reference()} | BASE]))
    x = webui.draw(app, model, p, seal)
    named["modules.shared"].sd_model = refiner
    webui.Denoiser(p, p.sampler, webui.Wrap(refiner))(x, 1.5, app)
    assert seal.passing.run.now.progress.gamma == pytest.approx(2 / 3)  # it goes on where the model before it stood
    assert seal.passing.unet is refiner.unet and not any("forward" in vars(m) for m in model.unet.modules())
    p.close()
    assert not any("forward" in vars(m) for m in refiner.unet.modules())


def test_a_model_without_a_unet_is_said_and_drawn_without(app, named, model):
    plain, _ = draw(app, model, "a cat")
    model.model.diffusion_model = torch.nn.Identity()
    drawn, p = draw(app, model, "a cat", {})
    assert torch.equal(plain, drawn) and "needs a U-Net" in next(iter(p.comments))


def test_a_refusal_is_an_error_of_the_api_and_a_note_on_the_page(app):
    pytest.importorskip("fastapi")
    page, api = webui.Processing(["a cat"]), webui.Processing(["a cat"])
    api.is_api = True
    for p in (page, api):
        app.refuse(p, "No.", "No (field).")
    page.fill_fields_from_opts()
    with pytest.raises(Exception) as caught:
        api.fill_fields_from_opts()
    assert page.comments == {"No.": 1} and caught.value.status_code == 422 and caught.value.detail == "No (field)."


def test_shadowing_gives_way_to_who_came_later():
    class Thing:
        pass

    thing = Thing()
    undo = layers.shadow(thing, "forward", 1)
    vars(thing)["forward"] = 2
    undo()
    assert vars(thing) == {"forward": 2}
    layers.shadow(thing, "forward", 3)()
    assert vars(thing) == {"forward": 2}


def test_a_cut_patch_does_nothing_even_if_somebody_wrapped_it(model):
    """Whoever patched on top of ours puts ours back when he leaves: by then it only passes calls on."""
    sites = layers.find_sites(model.unet)
    site, x = next(iter(sites)), torch.randn(1, 4, webui.WIDTH)
    plain = sites[site](x)
    with layers.Layers(sites) as patched:
        ours = vars(sites[site])["forward"]
        undo_theirs = layers.wrap(sites[site], "forward", lambda own: lambda *args, **kwargs: 2 * own(*args, **kwargs))
        with patched.answering(lambda call: 3 * call.own()):
            assert torch.equal(sites[site](x), 6 * plain) and torch.equal(sites[site](x=x, context=None), 6 * plain)
        assert torch.equal(sites[site](x), 2 * plain)
    assert torch.equal(ours(x), plain) and torch.equal(sites[site](x), 2 * plain)
    undo_theirs()
    with patched.answering(lambda call: 3 * call.own()):
        assert torch.equal(sites[site](x), plain)
    vars(sites[site])["forward"] = ours  # as others undo: by putting back what they found
    assert not layers.is_patched(sites[site])
    with layers.Layers(sites) as again, again.answering(lambda call: 3 * call.own() if call.is_plain else call.own()):
        assert torch.equal(sites[site](x), 3 * plain)


def test_marks_of_a_control_net():
    cond = torch.randn(2, 3, 8)
    for one in (cond, {"crossattn": cond, "vector": torch.randn(2, 5)}):
        marked = conditioning.marked(one)
        assert conditioning.is_marked(marked) and not conditioning.is_marked(one) and conditioning.tokens(marked).shape[1] == 4
        assert (
            conditioning.alike(conditioning.unmarked(marked), one)
            and conditioning.alike(conditioning.unmarked(one), one)
            and not conditioning.alike(marked, one)
        )


# ---- when what references take is given back


def test_after_a_while_without_seal_nothing_is_kept(app, model):
    draw(app, model, "a cat", {})
    kept = process_state.cache.bytes
    for _ in range(process_state.A_WHILE - 1):
        app.without(webui.Processing(["a cat"]))
    inner = webui.Processing(["a face"])
    inner._ad_inner = True
    app.without(inner)  # a part of the user's own picture
    assert process_state.cache.bytes == kept > 0
    draw(app, model, "a cat", {})
    for _ in range(process_state.A_WHILE):
        assert process_state.cache.bytes == kept
        app.without(webui.Processing(["a cat"]))
    assert process_state.cache.bytes == 0


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("shapes"), None])
def test_a_picture_without_seal_that_has_no_memory_gets_ours(app, model, error):
    draw(app, model, "a cat", {})
    kept, p = process_state.cache.bytes, webui.Processing(["a cat"])
    with contextlib.suppress(RuntimeError), contextlib.closing(p):
        app.without(p)
        app.without(p)
        if error is not None:
            raise error
    assert process_state.cache.bytes == (0 if isinstance(error, torch.cuda.OutOfMemoryError) else kept) and "close" not in vars(p)
    assert p.closed


def test_another_model_and_none_give_all_back_but_a_refiner_does_not(app, named, model):
    draw(app, model, "a cat", {})
    p = webui.Processing(["a cat"])
    begun = app.begin(p, parse([{"reference": reference()} | BASE]))
    app.on_model_loaded(model)
    assert process_state.cache.bytes
    begun.close()
    app.on_model_loaded(model)
    assert process_state.cache.bytes == 0

    unloaded = []
    models = ModuleType("modules.sd_models")
    models.unload_model_weights = own = lambda *args, **more: unloaded.append((args, more)) or "done"
    sys.modules["modules.sd_models"] = models
    try:
        undo = app.hear_unloading()
        draw(app, model, "a cat", {})
        assert process_state.cache.bytes and models.unload_model_weights(1, info=2) == "done"
        assert process_state.cache.bytes == 0 and unloaded == [((1,), {"info": 2})]
        undo()
        assert models.unload_model_weights is own
    finally:
        del sys.modules["modules.sd_models"]
    app.hear_unloading()()  # a relative that unloads otherwise


def test_a_restart_draws_the_same_and_reads_nothing(app, model, tmp_path, monkeypatch):
    drawn, passes = [], []
    for _ in range(3):
        monkeypatch.setattr(process_state, "shelf", Shelf(tmp_path, lambda: 1 << 24))
        process_state.clear()
        before = process_state.cache.counts.passes
        drawn += [draw(app, model, "a cat", {})[0] for _ in range(2)]
        passes.append(process_state.cache.counts.passes - before)
    assert all(torch.equal(drawn[0], x) for x in drawn) and passes[0] > 0 == passes[1] == passes[2]
    networks = ModuleType("networks")
    networks.loaded_networks = [SimpleNamespace(name="style", mtime=1.0, unet_multiplier=1.0)]
    monkeypatch.setitem(sys.modules, "networks", networks)
    for mtime, new in ((1.0, True), (1.0, False), (2.0, True)):  # a LoRA, and then one that was trained on under the same name
        networks.loaded_networks[0].mtime = mtime
        process_state.clear()
        before = process_state.cache.counts.passes
        draw(app, model, "a cat", {})
        assert (process_state.cache.counts.passes > before) is new


def test_what_other_weights_saw_goes_with_the_generation(app, model):
    draw(app, model, "a cat", {})
    (first,) = process_state.cache._entries
    model.sd_checkpoint_info.sha256 = "2"
    draw(app, model, "a cat", {})
    (second,) = process_state.cache._entries
    assert first.weights != second.weights


def test_where_memory_runs_out_all_is_given_back_and_said(app, model, monkeypatch):
    plain = draw(app, model, "a cat")[0]
    draw(app, model, "a dog", {"reference": reference(1)})

    def scarce(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sys.modules["seal_ext.run.reading"], "reference_input", scarce)
    drawn, p = draw(app, model, "a cat", {})
    assert torch.equal(drawn, plain) and process_state.cache.bytes == 0 and not process_state._latents
    assert len(p.comments) == 1 and "Memory ran out" in next(iter(p.comments))
