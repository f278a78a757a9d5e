"""Every way of drawing in a real WebUI, crossed: SeAl acts in each, and the same picture without it is the one from before."""

import importlib.util
import os
from pathlib import Path

import live_webui as live
import numpy as np
import pytest
from live_webui import HIRES, OPEN, SMALL, changed, complaints, seal

spec = importlib.util.spec_from_file_location("live_matrix", Path(__file__).with_name("matrix.py"))
matrix = importlib.util.module_from_spec(spec)
spec.loader.exec_module(matrix)

KIND = live.kind_of(Path(os.environ.get("SEAL_WEBUI", "")).resolve())
pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.usefixtures("tiny")]


def request_of(case):
    """What the API is asked for."""
    sampler, way, prompt, guidance, batch, _, words = case
    asked = dict(sampler_name=sampler, prompt=matrix.PROMPTS[prompt], batch_size=batch, width=64, height=96) | matrix.GUIDANCE[guidance]
    if way == "hires":
        asked |= HIRES
    elif way != "txt2img":
        start = live.figure(50, shirt=(20, 160, 60)).resize((64, 96))
        asked |= dict(route="img2img", init_images=[live.encoded(start)], denoising_strength=1.0)
    if way in ("inpaint", "only masked"):
        mask = live.figure(50, black=True).resize((64, 96))
        asked |= dict(mask=live.encoded(mask), inpainting_fill=1, inpaint_full_res=way == "only masked")
    strength = 1.0 if sampler.startswith("ODE") else 2.0  # a solver that adapts its steps gives up where too much changes at once
    return asked, {"strength": strength} | ({"appearance_prompt": words} if words else {})


def test_the_matrix_knows_all_that_the_host_offers(webui):
    offered = webui.inside()["optimisers"]
    assert set(offered) - {"xformers"} == set(matrix.OPTIMISERS[webui.kind]) - {"None", "Automatic"}
    assert {sampler["name"] for sampler in webui.call("/sdapi/v1/samplers")} == set(matrix.SAMPLERS[webui.kind])


@pytest.fixture(scope="module")
def chosen(webui, tiny):
    """Chooses an attention optimiser, where it is another than before."""
    now = ["Automatic"]

    def choose(optimiser):
        if now[0] != optimiser:
            webui.call("/sdapi/v1/options", {"cross_attention_optimization": optimiser})
            now[0] = optimiser

    yield choose
    choose("Automatic")


@pytest.mark.parametrize("case", sorted(matrix.cases(KIND), key=lambda case: case[5]), ids=matrix.name_of)
def test_matrix(webui, chosen, case):
    asked, words = request_of(case)
    chosen(case[5])

    def plain():
        webui.draw(**SMALL)  # the host encodes a picture with random numbers that the generation before left behind: the same each time
        return webui.draw(**asked)

    before = plain()
    drawn = webui.draw(seal(**OPEN | words), **asked)
    said = [sentence for sentence in complaints(webui) if not (case[3] == "merged tokens" and sentence.startswith("Tokens are merged"))]
    assert len(drawn) == len(before) and not said
    assert all(map(changed, before, drawn))
    assert all(np.array_equal(one, other) for one, other in zip(before, plain(), strict=True))


def test_after_all_of_them_nothing_stays(webui, chosen, nothing_stays):
    chosen("Automatic")
