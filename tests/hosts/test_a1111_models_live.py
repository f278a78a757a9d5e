"""Every kind of model in a real WebUI, and what changes a model: another checkpoint, a LoRA, a refiner."""

import numpy as np
import pytest
from live_webui import DOG, HIRES, OPEN, SMALL, apart, complaints, encoded, figure, seal

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.usefixtures("tiny", "nothing_stays")]


# ---- what changes the model changes what it sees of the reference


def reads(webui, what="passes", given=None, **more):
    """How many passes over the reference a generation made; or how often it did not find it in memory."""
    before = webui.inside()["cache"][what]
    webui.draw(seal(**DOG | (given or {})), **SMALL | more)
    return webui.inside()["cache"][what] - before


def test_a_reference_is_read_once_for_all_prompts(webui):
    given = {"reference": encoded(figure(30))}
    assert reads(webui, given=given) > 0
    assert reads(webui, given=given, prompt="a blue dog in the snow") == 0
    assert reads(webui, given=given | {"appearance_prompt": ""}, prompt="a green cat") == 0
    assert reads(webui, given=given | {"read_with": "words"}, prompt="a green cat") > 0


def test_another_checkpoint_reads_the_reference_anew(webui):
    reads(webui)
    assert reads(webui) == 0
    with webui.using("tiny-sd1-other"):
        assert reads(webui, seed=2) > 0 and reads(webui, seed=3) == 0
    assert reads(webui, "misses") > 0  # what the first one saw was given back with it
    with webui.using("tiny-sd1-other"):
        pass
    assert reads(webui) == 0  # and is on disk


def test_a_lora_reads_the_reference_anew(webui):
    """And so does another strength of it; without it what was seen before is still true."""
    reads(webui)
    for prompt in ("a red cat <lora:tiny-lora:1>", "a red cat <lora:tiny-lora:0.5>"):
        plain = webui.draw(prompt=prompt, **SMALL)[0]
        assert apart(plain, webui.draw(**SMALL)[0]) > 1
        assert reads(webui, prompt=prompt) > 0 and reads(webui, prompt=prompt) == 0
        assert apart(plain, webui.draw(seal(**DOG), prompt=prompt, **SMALL)[0]) > 1
    assert reads(webui) == 0


REFINED = SMALL | dict(refiner_checkpoint="tiny-sd1-other", refiner_switch_at=0.2, steps=6)


def test_a_refiner_is_infused_as_well(webui):
    """Also where infusion begins after the switch; and the reference is read by both models."""
    plain, later = (webui.draw(given, **REFINED)[0] for given in (None, seal(start=0.3)))
    assert apart(plain, webui.draw(**SMALL | {"steps": 6})[0]) > 1 and not complaints(webui)
    assert not np.array_equal(plain, later)  # little, since the last steps of a random model do little, but without SeAl it is the same
    assert reads(webui, given={"reference": encoded(figure(31))}, **REFINED) >= 2
    assert np.array_equal(plain, webui.draw(**REFINED)[0])


def test_hires_with_another_checkpoint(webui):
    asked = SMALL | HIRES | dict(hr_checkpoint_name="tiny-sd1-other")
    plain, once, both = (
        webui.draw(given, **asked)[0] for given in (None, seal(hires=False, **OPEN, form="output"), seal(**OPEN, form="output"))
    )
    assert apart(plain, once) > 1 and apart(once, both) > 1 and not complaints(webui)
    assert np.array_equal(plain, webui.draw(**asked)[0])


# ---- other kinds of models: they stay loaded from here on


@pytest.fixture(scope="module", params=[("tiny-sd2-v", "is_sd2", "v"), ("tiny-sdxl", "is_sdxl", "eps"), ("tiny-inpaint", "is_sd1", "eps")],
                ids=["SD2-v", "SDXL", "inpainting"])  # fmt: skip
def kind(request, webui, tiny):
    """The name of a checkpoint that is loaded: of another kind than the others."""
    name, family, prediction = request.param
    with webui.using(name):
        inside = webui.inside()
        assert inside["kind"] == [family] and inside["parameterization"] == prediction
        yield name


WAYS = {
    "Euler": {},
    "DDIM": dict(sampler_name="DDIM"),
    "CFG 1": dict(cfg_scale=1),
    "AND": dict(prompt="a red cat AND a house :0.7"),
    "long": dict(prompt="a red cat, " * 40),
    "hires": HIRES,
    "split calls": dict(override_settings={"batch_cond_uncond": False}),
}


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_kinds_of_models(webui, kind, how):
    how = SMALL | how
    if kind == "tiny-inpaint" and how.get("enable_hr"):
        how |= {"hr_upscaler": "Lanczos"}  # with a latent upscaler the host itself cannot draw with an inpainting model
    before = webui.draw(**how)
    for more in ({}, DOG, {"noise": "noised"}) if how == SMALL else (DOG,):
        drawn = webui.draw(seal(**OPEN, **more), **how)
        assert not complaints(webui) and min(map(apart, before, drawn)) > 1
    assert np.array_equal(before, webui.draw(**how))


@pytest.mark.parametrize("full", [False, True], ids=["whole picture", "only masked"])
def test_inpainting_with_every_kind_of_model(webui, kind, full):
    start = dict(init_images=[encoded(figure(50, shirt=(20, 160, 60)))], mask=encoded(figure(50, black=True)), inpainting_fill=1)
    asked = SMALL | start | dict(route="img2img", denoising_strength=0.75, steps=6, inpaint_full_res=full)

    def drawn(given=None):
        webui.draw(**SMALL)  # the host encodes a picture with random numbers that the generation before left behind: the same each time
        return webui.draw(given, **asked)[0]

    plain, infused = drawn(), drawn(seal(**DOG))
    assert not complaints(webui) and apart(plain, infused) > 1 and np.array_equal(plain, drawn())


def test_a_batch_of_four_equals_its_singles_with_every_kind_of_model(webui, kind):
    together = webui.draw(seal(**DOG), batch_size=4, **SMALL)[-4:]
    assert max(apart(image, webui.draw(seal(**DOG), seed=1 + i, **SMALL)[0]) for i, image in enumerate(together)) <= 1
