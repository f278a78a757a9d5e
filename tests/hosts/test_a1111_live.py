"""SeAl inside a real AUTOMATIC1111 WebUI, over its API: one thing at a time, on the embedded model and with its adapter."""

from concurrent.futures import ThreadPoolExecutor

import live_webui as live
import numpy as np
import pytest
from live_webui import DOG, HIRES, apart, seal
from PIL import Image

from seal_ext.detectors import NO_POSE
from seal_ext.settings import BY_NAME
from tests.skeletons import STANDING, painted

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.usefixtures("nothing_stays")]

LONG = "a red cat, " * 40


@pytest.mark.parametrize("sampler", ["Euler", "DDIM", "CFG++"])
def test_infusion_and_delta_bridge_each_act(webui, sampler):
    if sampler == "CFG++":  # these ask a model call for more than what guidance makes of it
        sampler = next(found["name"] for found in webui.call("/sdapi/v1/samplers") if found["name"] in ("Euler CFG++", "DDIM CFG++"))
    plain = webui.draw(sampler_name=sampler)[0]
    infused = webui.draw(seal(bridge=False), sampler_name=sampler)[0]
    bridged = webui.draw(seal(infusion=False, gate=False, lam=4.0, **DOG), sampler_name=sampler)[0]
    assert apart(plain, infused) > 2 and apart(plain, bridged) > 2


@pytest.mark.parametrize("more", [{}, DOG, {"noise": "noised", "seed_policy": "image"}, {"form": "output"}, {"form": "kv"}])
def test_a_batch_of_four_equals_its_singles(webui, more):
    together = webui.draw(seal(**more), batch_size=4)[-4:]
    # A place that is as like the reference's background as its character, to the last digit, goes the one way in a batch and the other
    # alone. In the noise that each image reads by itself that happens to one place in thousands.
    ties = 0.02 if "noise" in more else 0.0
    for i, image in enumerate(together):
        assert (np.abs(image - webui.draw(seal(**more), seed=1 + i)[0]) > 1).mean() <= ties


def test_a_second_picture_of_a_reference_is_the_same(webui):
    assert apart(webui.draw(seal(**DOG))[0], webui.draw(seal(**DOG))[0]) == 0


def test_the_match_map_on_request(webui, unit):
    drawn = webui.draw(seal(show_match=True, **DOG), units=[unit], batch_size=2)
    assert [picture.shape for picture in drawn[-2:]] == [(128, 128, 3)] * 2 and drawn[-1].std() > 10


def test_two_runs_at_once_do_not_mix(webui):
    """As from two tabs: each with a reference of its own, and one beside them without."""
    green = live.encoded(live.figure(shirt=(30, 160, 60)))
    runs = [seal(**DOG), None, seal(reference=green), seal(**DOG)]
    alone = [webui.draw(given)[0] for given in runs]
    with ThreadPoolExecutor(len(runs)) as tabs:
        at_once = list(tabs.map(lambda given: webui.draw(given)[0], runs))
    assert apart(alone[0], alone[2]) > 1
    assert all(np.array_equal(one, other) for one, other in zip(alone, at_once, strict=True))


def test_a_sampler_that_draws_a_batch_one_by_one(webui):
    """It does not say which of the pictures it shows."""
    how = dict(sampler_name="ODE (Bosh3)", batch_size=2)
    plain, drawn = webui.draw(**how), webui.draw(seal(**DOG), **how)
    assert ["one by one" in said for said in live.complaints(webui)] == [True]
    assert all(np.array_equal(*pair) for pair in zip(plain, drawn, strict=True))


def test_a_solver_that_adapts_its_steps(webui):
    """It looks at the picture as often as it likes, at any noise, and gives up where too much changes at once."""
    how = live.SMALL | dict(sampler_name="ODE (Adaptive Heun)")
    plain, drawn = (webui.draw(given, **how)[0] for given in (None, {"reference": live.encoded(live.figure())}))
    assert apart(plain, drawn) > 2 and not live.complaints(webui)


def test_hires(webui):
    plain, both, once = (webui.draw(given, **HIRES)[0] for given in (None, seal(), seal(hires=False)))
    assert plain.shape == (192, 192, 3) and apart(plain, both) > 2 and apart(both, once) > 0


@pytest.mark.parametrize("prompt", ["a red cat", "a red cat AND a house :0.7"])
def test_split_calls_draw_the_same(webui, prompt):
    split = webui.draw(seal(**DOG), prompt=prompt, override_settings={"batch_cond_uncond": False})[0]
    assert apart(webui.draw(seal(**DOG), prompt=prompt)[0], split) <= 2


def test_infotext_round_trip(webui):
    other = not BY_NAME["clamp"].default  # what is at its default is not told
    given = seal(**DOG, blocks="mid up.0-3:0.5 up.4-", clamp=other, lam=2.5)
    drawn, text = webui.drawn(given)
    assert "SeAl enabled: on" in text and f"SeAl clamp: {'on' if other else 'off'}" in text and "False" not in text
    again = webui.draw([True, given["reference"]], infotext=text, styles=[])  # left to the infotext, Forge fails over the styles
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
    if not models:
        pytest.skip("no sd-webui-controlnet with a T2I-Adapter: set SEAL_WEBUI_CONTROLNET, and for another checkpoint SEAL_WEBUI_CONTROLS")
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
    assert f"module: {preprocessor}" in text.lower() and apart(drawn[0], webui.draw(seal(align=False), units=[unit])[0]) > 1
    assert apart(alone, webui.draw(units=[unit])[0]) == 0


def test_a_references_pose_guides_limbs(webui, unit):
    unit |= {"image": live.encoded(painted(scale=0.5, shift=(0.1, 0.2)))}
    posed = seal(limbs=1.0, reference_pose=live.encoded(painted(STANDING | {4: (0.2, 0.3)})))
    for align in (True, False):
        alone, guided, without, rests = (webui.draw(given | {"align": align}, units=[unit])[0]
                                         for given in (seal(limbs=1.0), posed, seal(limbs=0.0), posed | {"limbs": 0.0}))  # fmt: skip
        assert apart(alone, guided) > 1 and not live.complaints(webui)
        assert align or apart(without, rests) == 0  # nothing else follows from a pose, but how large the structure becomes


@pytest.fixture
def photo(webui):
    """A photograph of a person, from a package that this WebUI needs."""
    found = webui.data_of("skimage") / "data" / "astronaut.png"
    if not found.is_file() or not webui.data_of("mediapipe", "modules/pose_landmark/pose_landmark_full.tflite").is_file():
        pytest.skip("this WebUI has no mediapipe with its body model, or no photograph to try it on")
    return live.encoded(Image.open(found).resize((256, 256)))


def test_the_reference_s_joints_come_by_themselves(webui, unit, photo):
    """From mediapipe, for a ready-made map, where ControlNet's detectors have no files; and where there are none, that is said."""
    skeleton = live.encoded(painted(scale=0.5, shift=(0.1, 0.2)))
    unit |= {"image": skeleton}
    given = seal(reference=photo, align=False)
    guided, unguided = (webui.draw(given | {"limbs": limbs}, units=[unit])[0] for limbs in (1.0, 0.0))
    assert apart(guided, unguided) > 1
    webui.draw(seal(reference=photo), units=[unit])
    assert NO_POSE not in " ".join(live.complaints(webui))
    told = webui.call("/seal/v1/align", {"reference": photo, "structure": skeleton, "width": 128, "height": 128})
    assert NO_POSE not in " ".join(told["reasons"])
    webui.draw(seal(), units=[unit])  # a drawn figure, not a person
    assert NO_POSE in " ".join(live.complaints(webui))


def test_controlnet_in_hires_and_with_long_prompts(webui, unit):
    for how in (HIRES, dict(prompt=LONG), dict(cfg_scale=1), dict(batch_size=2)):
        plain, drawn = webui.draw(units=[unit], **how), webui.draw(seal(**DOG), units=[unit], **how)
        assert apart(plain[0], drawn[0]) > 1 and len(plain) == len(drawn)


@pytest.mark.parametrize("module", ["reference_only", "reference_adain"])
def test_reference_units_beside_seal(webui, unit, module):
    """At a weight at which Forge's act in narrow layers, too."""
    reference = unit | {"module": module, "model": "None", "image": live.encoded(live.figure()), "weight": 2.0, "threshold_a": 0.5}
    alone, both = webui.draw(units=[unit, reference])[0], webui.draw(seal(**DOG), units=[unit, reference])[0]
    assert apart(webui.draw(units=[unit])[0], alone) > 1 and apart(alone, both) > 1


def steepness(picture: np.ndarray) -> float:
    """How much neighbouring pixels differ: speckles have a multiple of a picture's."""
    return float(sum(np.abs(np.diff(picture, axis=axis)).mean() for axis in (0, 1)))


@pytest.mark.parametrize("form", ["joint", "output", "kv"])
def test_strong_guidance_breaks_no_picture(webui, unit, form):
    how = dict(cfg_scale=7, steps=12, units=[unit])
    plain, drawn = (webui.draw(seal(form=form, strength=strength), **how)[0] for strength in (0.0, 1.0))  # of the same aligned structure
    assert apart(plain, drawn) > 2 and steepness(drawn) < 1.8 * steepness(plain) + 1


def test_style_align_beside_seal(webui):
    """Forge's own, which lets the images of a batch look at each other."""
    share, how = {"StyleAlign Integrated": {"args": [True, 1.0]}}, dict(batch_size=2, seed=7, cfg_scale=7, steps=12)
    plain, alone = (webui.draw(alwayson_scripts=scripts, **how)[-1] for scripts in ({}, share))
    both = webui.draw(alwayson_scripts=share | {"seal": {"args": [seal(**DOG)]}}, **how)[-1]
    assert apart(plain, alone) > 1 and apart(alone, both) > 1 and not live.complaints(webui)
    assert steepness(both) < 1.8 * steepness(alone) + 1


def test_multidiffusion_beside_seal(webui):
    """The Forges' own, which draws the picture in tiles: SeAl says so and leaves them alone."""
    tiles = {"MultiDiffusion Integrated": {"args": [True, "MultiDiffusion", 64, 64, 32, 4]}}
    plain, alone = (webui.draw(alwayson_scripts=scripts)[0] for scripts in ({}, tiles))
    both = webui.draw(alwayson_scripts=tiles | {"seal": {"args": [seal()]}})[0]
    assert apart(plain, alone) > 1 and np.array_equal(alone, both)
    assert ["draws the picture in parts" in said for said in live.complaints(webui)] == [True]


@pytest.mark.parametrize("prompt", ["an inner pass", "an unmarked inner pass"])
def test_inner_passes_are_left_alone_unless_asked_for(webui, prompt):
    """What ADetailer does after a picture: drawing it over once more, with the same script arguments."""
    how = dict(prompt=prompt)
    plain, once, both = (webui.draw(given, **how)[0] for given in (None, seal(strength=0.0), seal(strength=0.0, inner=True)))
    infused, inner = webui.draw(seal(), **how)[0], webui.draw(seal(inner=True), **how)[0]
    assert live.complaints(webui) == ["an inner pass was drawn"]
    assert apart(plain, infused) > 1 and apart(infused, inner) > 1
    assert apart(plain, once) == apart(plain, both) == 0  # without infusion nothing differs, inside or out
