"""SeAl beside ControlNet units that lay hands on cross-attention: IP-Adapters, of random weights, that fit the tiny checkpoint."""

import live_webui as live
import pytest
from live_webui import DOG, HIRES, OPEN, apart, complaints, seal

from tests.hosts.ip_adapter import NAME

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.usefixtures("tiny", "nothing_stays")]

PREPROCESSOR = {"a1111": "ip-adapter_clip_h", "forge": "CLIP-ViT-H (IPAdapter)", "reforge": "CLIP-ViT-H (IPAdapter)"}
WAYS = [{}, dict(batch_size=2, seed=7), dict(cfg_scale=1), dict(prompt="a red cat AND a house :0.7"), dict(prompt="a cat, " * 60), HIRES]


@pytest.fixture
def unit(webui):
    model = next(name for name in webui.call("/controlnet/model_list")["model_list"] if name.startswith(NAME))
    return {"enabled": True, "module": PREPROCESSOR[webui.kind], "model": model, "weight": 1.5, "save_detected_map": False,
            "image": live.encoded(live.figure(40, shirt=(30, 160, 60)))}  # fmt: skip


@pytest.mark.parametrize("how", WAYS, ids=["alone", "batch", "CFG 1", "AND", "long", "hires"])
def test_an_ip_adapter_beside_seal(webui, unit, how):
    """Each acts, and together they draw what neither does; an IP-Adapter's picture says nothing of where things are."""
    plain, adapted = webui.draw(**how)[-1], webui.draw(units=[unit], **how)[-1]
    assert apart(plain, adapted) > 1
    infused, bridged = (webui.draw(given, units=[unit], **how)[-1] for given in (seal(bridge=False, **OPEN, **DOG), seal(**OPEN, **DOG)))
    room = "Delta-Bridge is off" not in " ".join(complaints(webui))
    assert room == (webui.kind != "a1111") and len(complaints(webui)) == (not room)  # the extension keeps an adapter's tokens as they came
    assert apart(adapted, infused) > 1 and (apart(infused, bridged) > 0) == room
    assert apart(webui.draw(seal(bridge=False, **OPEN, **DOG), **how)[-1], infused) > 1
    assert apart(webui.draw(units=[unit], **how)[-1], adapted) == 0


def test_the_reference_is_read_without_the_adapter(webui, unit):
    """So that what is kept of a reference serves with it and without."""
    given = seal(reference=live.encoded(live.figure(70, 80, shirt=(90, 30, 140))), bridge=False)
    alone = webui.draw(given)[0]
    passes = webui.inside()["cache"]["passes"]
    webui.draw(given, units=[unit])
    assert webui.inside()["cache"]["passes"] == passes and apart(alone, webui.draw(given)[0]) == 0


def test_pictures_of_a_batch_are_as_if_drawn_alone_beside_an_adapter(webui, unit):
    """The rows that Delta-Bridge adds get the adapter's tokens as those of the prompt do, however many images there are."""
    together = webui.draw(seal(**DOG), units=[unit], batch_size=3)[-3:]
    for number, picture in enumerate(together):
        assert apart(picture, webui.draw(seal(**DOG), units=[unit], seed=1 + number)[0]) <= 1
