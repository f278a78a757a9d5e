"""SeAl inside a real AUTOMATIC1111 WebUI, over its API: it acts in every way of drawing, and a plain picture stays the same to the bit."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

spec = importlib.util.spec_from_file_location("live_webui", Path(__file__).with_name("live.py"))
live = importlib.util.module_from_spec(spec)
spec.loader.exec_module(live)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("SEAL_WEBUI"), reason="no WebUI: set SEAL_WEBUI=PATH to test inside a real one"),
]

OPEN = dict(tau_early=0.0, tau_late=0.0, delta_early=1.0)  # infuses everywhere, also into a model of random weights
DOG = {"appearance_prompt": "a blue dog"}
SAMPLERS = ["Euler", "Euler a", "DPM++ 2M", "DPM++ SDE", "Heun", "DDIM", "PLMS", "UniPC"]
HIRES = dict(enable_hr=True, hr_scale=1.5, denoising_strength=0.6, hr_upscaler="Latent", hr_second_pass_steps=4)
LONG = "a red cat, " * 40


@pytest.fixture(scope="module")
def webui(tmp_path_factory):
    host = live.WebUI(Path(os.environ["SEAL_WEBUI"]).resolve(), tmp_path_factory.mktemp("webui"))
    host.start()
    yield host
    host.stop()


@pytest.fixture(scope="module")
def first(webui):
    """The plain picture, before SeAl ever ran."""
    return webui.draw()[0]


@pytest.fixture(autouse=True)
def nothing_stays(webui, first):
    """After every test: what the test did left no trace."""
    yield
    assert np.array_equal(webui.draw()[0], first)


def seal(**more):
    return {"reference": live.encoded(live.figure())} | OPEN | more


def apart(one, other):
    return np.abs(one - other).max()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(webui, sampler):
    plain = webui.draw(sampler_name=sampler)[0]
    infused = webui.draw(seal(), sampler_name=sampler)[0]
    bridged = webui.draw(seal(infusion=False, gate=False, **DOG), sampler_name=sampler)[0]
    assert apart(plain, infused) > 2 and apart(plain, bridged) > 0
    assert apart(plain, webui.draw(sampler_name=sampler)[0]) == 0


@pytest.mark.parametrize("more", [{}, DOG, {"noise": "noised", "seed_policy": "image"}])
def test_a_batch_equals_its_singles(webui, more):
    together = webui.draw(seal(**more), batch_size=2)[-2:]
    for i, image in enumerate(together):
        assert apart(image, webui.draw(seal(**more), seed=1 + i)[0]) <= 1


def test_a_second_picture_of_a_reference_is_the_same(webui):
    assert apart(webui.draw(seal(**DOG))[0], webui.draw(seal(**DOG))[0]) == 0


def test_hires(webui):
    plain, both, once = (webui.draw(given, **HIRES)[0] for given in (None, seal(), seal(hires=False)))
    assert plain.shape == (192, 192, 3) and apart(plain, both) > 2 and apart(both, once) > 0


WAYS = [
    dict(cfg_scale=1),
    dict(prompt="a red cat AND a house :0.7"),
    dict(prompt=LONG),
    dict(prompt="a [red:blue:0.5] cat"),
    dict(width=136, height=96),
    dict(override_settings={"s_min_uncond": 5.0, "s_min_uncond_all": True}),
    dict(override_settings={"skip_early_cond": 0.5}),
    dict(override_settings={"token_merging_ratio": 0.4}),
]


@pytest.mark.parametrize("how", WAYS)
def test_ways_of_drawing(webui, how):
    assert apart(webui.draw(**how)[0], webui.draw(seal(**DOG), **how)[0]) > 1


@pytest.mark.parametrize("prompt", ["a red cat", "a red cat AND a house :0.7"])
def test_split_calls_draw_the_same(webui, prompt):
    split = webui.draw(seal(**DOG), prompt=prompt, override_settings={"batch_cond_uncond": False})[0]
    assert apart(webui.draw(seal(**DOG), prompt=prompt)[0], split) <= 2


@pytest.mark.parametrize("masked", [False, True])
def test_img2img_and_inpainting(webui, masked):
    start = {"init_images": [live.encoded(live.figure(50, shirt=(20, 160, 60)))], "denoising_strength": 0.7, "steps": 6}
    if masked:
        start |= {"mask": live.encoded(live.figure(50, black=True)), "inpainting_fill": 1}
    assert apart(webui.draw(route="img2img", **start)[0], webui.draw(seal(**DOG), route="img2img", **start)[0]) > 1


@pytest.mark.parametrize("prompt", ["explode 2", "explode 7", "halt 2", "halt 7"])
def test_broken_runs(webui, prompt):
    """In the reference pass (the second U-Net call) and in sampling; what stays behind, the fixture looks for."""
    given = seal(reference=live.encoded(live.figure(40 + sum(map(ord, prompt)) % 40)), t_app="all", **DOG)
    if prompt == "explode 7":
        with pytest.raises(live.Refused, match="exploded"):
            webui.draw(given, prompt=prompt)
    else:
        webui.draw(given, prompt=prompt)


@pytest.mark.parametrize("optimiser", ["sdp - scaled dot product", "sub-quadratic", "V1 - original v1", "Doggettx", "None"])
def test_attention_optimisations(webui, optimiser):
    before = webui.draw(seal())[0]
    try:
        webui.call("/sdapi/v1/options", {"cross_attention_optimization": optimiser})
        plain = webui.draw()[0]
        assert apart(webui.draw(seal())[0], before) <= 3 and apart(webui.draw(seal())[0], plain) > 2
    finally:
        webui.call("/sdapi/v1/options", {"cross_attention_optimization": "Automatic"})


def test_infotext_round_trip(webui):
    given = seal(**DOG, blocks="mid up.0-3:0.5 up.4-", clamp=False, lam=2.5)
    drawn, text = webui.drawn(given)
    assert "SeAl enabled: on" in text and "SeAl clamp: off" in text and "False" not in text
    again = webui.draw([True, given["reference"]], infotext=text)
    assert apart(drawn[0], again[0]) == 0
    assert "SeAl" not in webui.drawn()[1]


def test_the_positional_form_is_the_same(webui):
    reference = live.encoded(live.figure())
    assert apart(webui.draw({"reference": reference})[0], webui.draw([True, reference])[0]) == 0


@pytest.mark.parametrize(("given", "named"), [
    ({"reference": "no picture"}, "reference"), ({"strength": 1.0}, "reference"), ({"reference": [], "strength": 1.0}, "reference"),
    (seal(strenght=1.0), "strength"), (seal(strength="much"), "strength"), (seal(strength=9.0), "strength"),
    (seal(blocks="everything"), "blocks"), (seal(top_k=1.5), "top_k"), (seal(start=0.9, end=0.1), "start"),
    (seal(mask="no picture"), "mask"), (seal(mask_source="drawn"), "mask_source"), (seal(enabled="yes"), "enabled"),
    (["on"], "enabled"), (seal(reference={"file": "/etc/passwd"}), "reference"),
])  # fmt: skip
def test_refusals_name_their_field(webui, given, named):
    with pytest.raises(live.Refused) as refused:
        webui.draw(given)
    assert refused.value.status == 422 and named in refused.value.sentence and refused.value.sentence.endswith((".", "?"))


@pytest.fixture
def unit(webui):
    """A unit with a small figure at the left."""
    try:
        models = [m for m in webui.call("/controlnet/model_list")["model_list"] if "t2i" in m.lower()]
    except live.Refused:
        models = []
    if not models or not os.environ.get("SEAL_WEBUI_CONTROLS"):
        pytest.skip("no T2I-Adapter: set SEAL_WEBUI_CONTROLS, and SEAL_WEBUI_CONTROLNET if need be")
    image = live.encoded(live.figure(24, 50, black=True))
    given = {"enabled": True, "module": "none", "model": models[0], "image": image, "resize_mode": "Just Resize"}
    return given | {"save_detected_map": False, "processor_res": 128, "threshold_a": 100, "threshold_b": 200}


def box(image):
    rows, columns = np.nonzero(image.max(2) > 60)
    return np.array([columns.min(), rows.min(), columns.max(), rows.max()])


@pytest.mark.parametrize("preprocessor", ["none", "canny"])
def test_controlnet_units_are_aligned(webui, unit, preprocessor):
    image = live.figure(24, 50, black=preprocessor == "none")
    unit |= {"module": preprocessor, "image": live.encoded(image)}
    alone = webui.draw(units=[unit])[0]
    drawn, text = webui.drawn(seal(show_aligned=True), units=[unit])
    wanted = box(live.opened(live.encoded(live.figure(black=True))))
    assert np.abs(box(drawn[-1]) - wanted).max() <= 8  # where the reference's figure stands, and as large
    assert f"Module: {preprocessor}" in text and apart(drawn[0], webui.draw(seal(align=False), units=[unit])[0]) > 1
    assert apart(alone, webui.draw(units=[unit])[0]) == 0


def test_controlnet_in_hires_and_with_long_prompts(webui, unit):
    for how in (HIRES, dict(prompt=LONG), dict(cfg_scale=1), dict(batch_size=2)):
        plain, drawn = webui.draw(units=[unit], **how), webui.draw(seal(**DOG), units=[unit], **how)
        assert apart(plain[0], drawn[0]) > 1 and len(plain) == len(drawn)


def test_reference_only_beside_seal(webui, unit):
    reference = unit | {"module": "reference_only", "model": "None", "image": live.encoded(live.figure())}
    assert apart(webui.draw(units=[unit, reference])[0], webui.draw(seal(**DOG), units=[unit, reference])[0]) > 1
