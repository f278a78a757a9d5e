"""However a generation ends in a real WebUI, nothing of it stays: a plain picture afterwards is the one from before, to the bit."""

import itertools
import os
from contextlib import nullcontext

import live_webui as live
import numpy as np
import pytest
from live_webui import DOG, SMALL, apart, seal

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.usefixtures("tiny", "nothing_stays")]

REFERENCES = 30
UNSEEN = itertools.count(20)  # a figure that no test has shown yet, so that nothing of it is in the cache
GROWTH = 24 << 20  # bytes that a process may drift by without having kept anything


@pytest.mark.parametrize("how", [{}, dict(sampler_name="DDIM"), dict(batch_size=2)], ids=["Euler", "DDIM", "batch 2"])
@pytest.mark.parametrize("call", [2, 5])
def test_an_exception_in_the_unet(webui, how, call):
    """In the reference pass, where the picture is drawn without SeAl and the user reads why; in sampling it is the host's to say."""
    given = seal(reference=live.encoded(live.figure(next(UNSEEN))), t_app="all", **DOG)
    if call == 5:
        with pytest.raises(live.Refused, match="exploded"):
            webui.draw(given, prompt=f"explode {call}", **how)
    else:
        assert len(webui.draw(given, prompt=f"explode {call}", **how)) >= how.get("batch_size", 1)
        assert any("exploded" in sentence for sentence in webui.inside()["said"])


@pytest.mark.parametrize("call", [2, 5])
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_an_interrupt(webui, call, sampler):
    given = seal(reference=live.encoded(live.figure(next(UNSEEN))), t_app="all", **DOG)
    webui.draw(given, prompt=f"halt {call}", sampler_name=sampler)
    # What was half read is read again, and wholly.
    before = webui.inside()["cache"]["passes"]
    webui.draw(given, sampler_name=sampler)
    assert call == 5 or webui.inside()["cache"]["passes"] > before


@pytest.mark.parametrize("broken", [
    dict(model="nothing-of-this-name"), dict(module="no such preprocessor"), dict(image="no picture"), dict(model="None", module="canny"),
])  # fmt: skip
def test_a_controlnet_unit_that_fails(webui, broken):
    unit = dict(enabled=True, module="none", model=f"{live.EMBEDDED}-t2iadapter-sd15", image=live.encoded(live.figure(black=True)))
    try:
        assert webui.draw(seal(**DOG), [unit | broken])
    except live.Refused as refused:
        assert refused.status in (422, 500)


def test_an_adapter_that_does_not_fit_the_model(webui):
    """Its residuals have the wrong width, so the U-Net raises: ControlNet's to say, and nothing of ours may stay. The Forges go without."""
    unit = dict(enabled=True, module="none", model=f"{live.EMBEDDED}-t2iadapter-sd15", image=live.encoded(live.figure(black=True)),
                resize_mode="Just Resize", processor_res=128)  # fmt: skip
    with nullcontext() if webui.forge else pytest.raises(live.Refused):
        webui.draw(seal(**DOG), [unit])


def test_another_attention_optimiser_between_two_pictures(webui):
    given = seal(**live.OPEN)
    before = webui.draw(given)[0]
    for optimiser in ("sub-quadratic", "None", "sdp - scaled dot product"):
        with webui.using(optimiser=optimiser):
            plain = webui.draw()[0]
            assert apart(webui.draw(given)[0], before) <= 3 and apart(before, plain) > 2
            assert np.array_equal(plain, webui.draw()[0])
    assert np.array_equal(before, webui.draw(given)[0])


def test_another_checkpoint_between_two_pictures(webui, first):
    before = webui.draw(seal())[0]
    other = webui.tiny[-1]
    with webui.using(other):
        webui.draw(seal())
        assert np.array_equal(webui.draw(**SMALL)[0], first[0][other])
    assert np.array_equal(before, webui.draw(seal())[0])


def test_a_refusal_leaves_nothing(webui):
    for given in (seal(strength=9.0), seal(mask_source="drawn"), {"reference": "no picture"}):
        with pytest.raises(live.Refused):
            webui.draw(given)


def test_thirty_references_in_a_row_keep_memory_flat(webui):
    """Within a small budget, so that the cache is full long before the end."""
    resident = []
    for number in range(REFERENCES):
        image = live.encoded(live.figure(30 + 2 * number, 70 + number % 20, shirt=(200 - 3 * number, 30 + 5 * number, 40)))
        webui.draw(seal(reference=image, cache_mb=4, **DOG), steps=2, **SMALL)
        now = webui.inside()
        assert now["cache"]["bytes"] <= 4 << 20
        resident.append(now["resident"])
    if resident[0] is None:
        pytest.skip(f"this system ({os.name}) does not tell a process's memory")
    assert resident[-1] - min(resident[REFERENCES // 3 : REFERENCES // 2]) < GROWTH, resident
