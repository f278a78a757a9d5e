"""Models without a U-Net in a real WebUI: one sentence says so, and the picture is the one without SeAl, whatever else is asked for."""

import base64
import json
import urllib.request

import numpy as np
import pytest
from live_webui import DOG, HIRES, SMALL, apart, complaints, encoded, figure, seal

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.usefixtures("nothing_stays")]

HOW = SMALL | dict(scheduler="Simple")  # what the host chooses by itself is for other models: it draws these black
OTHERS = pytest.mark.parametrize("other", ["tiny-flux", "tiny-sd3"], ids=["Flux", "SD3"])


@pytest.fixture
def loaded(webui, other):
    """Another model, for this test; after it `nothing_stays` draws with the embedded one again."""
    with webui.using(other):
        assert webui.inside()["kind"] == [other.replace("tiny-", "is_")]
        yield


@pytest.fixture
def unit(webui):
    name = next(name for name in webui.call("/controlnet/model_list")["model_list"] if "t2i" in name.lower())
    return {"enabled": True, "module": "none", "model": name, "image": encoded(figure(24, 50, black=True)), "resize_mode": "Just Resize",
            "save_detected_map": False}  # fmt: skip


def errors(webui):
    """How many the host has reported so far."""
    return webui.log.read_text(errors="replace").count("Traceback (most recent")


def uploaded(webui, picture):
    """A picture as the page sends it: gradio 3 in words, and gradio 4 wants it uploaded before."""
    if webui.kind != "forge":
        return "data:image/png;base64," + encoded(picture)
    data = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    data += base64.b64decode(encoded(picture)) + b"\r\n--x--\r\n"
    request = urllib.request.Request(f"http://127.0.0.1:{webui.port}/upload", data, {"Content-Type": "multipart/form-data; boundary=x"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return {"path": json.loads(answer.read())[0], "meta": {"_type": "gradio.FileData"}}


def glanced(webui, reference):
    """What the page's preview draws and says once SeAl is on and has a reference, with all else as it stands there at first."""
    given = {"accordion-checkbox": True, "reference": uploaded(webui, reference)}
    page = webui.call("/config")
    names = {part["id"]: (part["props"].get("elem_id") or "").removeprefix("script_txt2img_seal_") for part in page["components"]}
    first = {part["id"]: part["props"].get("value") for part in page["components"]}
    asked = next((number, event["inputs"]) for number, event in enumerate(page["dependencies"])
                 if {"picture", "ticks"} <= {names[part] for part in event["outputs"]} and event["inputs"])  # fmt: skip
    values = [given.get(names[part], first[part]) for part in asked[1]]
    body = {"fn_index": asked[0], "data": values, "session_hash": "test"}
    picture, told, *_ = webui.call("/run/predict", body)["data"]
    return json.loads(picture), told


START = dict(init_images=[encoded(figure(50, shirt=(20, 160, 60)))], denoising_strength=0.75, route="img2img")
WAYS = {
    "reference": ({}, {}),
    "reference prompt": (DOG, {}),
    "two references": ({"reference": [encoded(figure()), encoded(figure(shirt=(30, 160, 60)))]}, {}),
    "noised": ({"noise": "noised"}, {}),
    "batch": (DOG, dict(batch_size=2, n_iter=2)),
    "CFG 1": (DOG, dict(cfg_scale=1)),
    "AND": (DOG, dict(prompt="a red cat AND a house :0.7")),
    "img2img": (DOG, START),
    "masked": (DOG, START | dict(inpainting_fill=1, mask=encoded(figure(50, black=True)), inpaint_full_res=True)),
    "hires": (DOG, HIRES | dict(batch_size=2)),
    "unit": (DOG, dict(units=True)),
    "unit and hires": (DOG, HIRES | dict(units=True, batch_size=2)),
}


@OTHERS
@pytest.mark.parametrize("way", WAYS)
def test_one_sentence_and_the_same_picture(webui, loaded, unit, way):
    more, how = WAYS[way]
    how = HOW | how | ({"units": [unit]} if how.get("units") else {})
    webui.draw(**how)  # with a mask an encoder draws with whatever random numbers the picture before left
    reported, plain = errors(webui), webui.draw(**how)
    reported = errors(webui) - reported
    assert all(picture.std() > 1 for picture in plain) and not complaints(webui)
    kept, so_far = webui.inside()["cache"], errors(webui)
    drawn = webui.draw(seal(**more), **how)
    assert len(drawn) == len(plain) and all(map(np.array_equal, drawn, plain))
    [sentence] = complaints(webui)
    assert "SD1, SD2 or SDXL" in sentence and "drawn without SeAl" in sentence
    assert webui.inside()["cache"] == kept and errors(webui) - so_far == reported  # nothing was read, and nothing went wrong


@OTHERS
def test_over_to_a_model_with_a_unet_and_back(webui, other):
    """What SeAl draws there is what it drew before, and the other model draws as it did, too."""
    infused = webui.draw(seal(**DOG), **SMALL)[0]
    assert apart(infused, webui.draw(**SMALL)[0]) > 1
    seen = []
    for _ in range(2):
        with webui.using(other):
            seen.append(webui.draw(seal(**DOG), **HOW)[0])
            assert len(complaints(webui)) == 1
        assert np.array_equal(webui.draw(seal(**DOG), **SMALL)[0], infused) and not complaints(webui)
    assert np.array_equal(*seen)


@OTHERS
def test_the_routes(webui, loaded):
    """They know nothing of the model."""
    before, reference, structure = errors(webui), encoded(figure()), encoded(figure(24, 50, black=True))
    assert webui.call("/seal/v1/version")["version"] and webui.call("/seal/v1/schema")["$defs"] and "store" in webui.call("/seal/v1/cache")
    assert 0.05 < webui.call("/seal/v1/mask", {"reference": reference})["share"] < 0.9
    asked = {"reference": reference, "structure": structure, "width": 128, "height": 128, "resize_mode": "Just Resize"}
    assert webui.call("/seal/v1/align", asked)["image"] and errors(webui) == before


@OTHERS
def test_the_preview(webui, loaded):
    before = errors(webui)
    drawn, told = glanced(webui, figure())
    assert drawn["base"].startswith("data:image/png") and "No enabled ControlNet unit" in told and errors(webui) == before
