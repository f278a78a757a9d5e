"""Asking the embedded model inside a real WebUI where the character is: it finds what the studio finds, and nothing stays behind."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from bench.cases import make_cases, writer
from seal_ext.core.mask import overlap
from seal_ext.core.overlay import REFERENCE
from seal_ext.studio.attention import ways
from seal_ext.studio.models import open_studio

live = sys.modules["live_webui"]
pytestmark = [pytest.mark.slow, pytest.mark.live]
BUSY = 3003  # of the bench's cases one whose background is not even, and whose kind the embedded model knows well


@pytest.fixture(scope="module")
def character():
    """A reference, its mask, and the words for who it is."""
    cases = make_cases(torch.tensor([BUSY]))
    shot = cases.reference
    image = (shot.picture.image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    return image, shot.picture.alpha[0].numpy() > 0.5, writer(cases.identities, shot.poses, shot.settings, 0, ("kind",)).subject()


def masked(webui, image, **more):
    return webui.call("/seal/v1/mask", {"reference": live.encoded(Image.fromarray(image)), **more})


def test_the_route_asks_the_model(webui, character):
    image, truth, words = character
    found = masked(
        webui, image, mask_source="attention", appearance_prompt=f"(masterpiece:1.2), a photo of {words}, BREAK [in:on:0.5] a meadow"
    )
    mask = live.opened(found["mask"])[..., 0] > 127
    assert found["found"] == "attention" and f'the words "{words}"' in found["reasons"][0] and overlap(mask, truth) > 0.7
    studio = ways(open_studio, f"{words}, on a meadow", words)["attention"](image)
    assert overlap(mask, studio.mask) > 0.9
    with pytest.raises(live.Refused, match="needs words"):
        masked(webui, image, mask_source="attention")


@pytest.mark.usefixtures("nothing_stays")
def test_a_picture_shows_the_outline_and_says_so(webui, character):
    image, _, words = character
    given = {"reference": live.encoded(Image.fromarray(image)), "mask_source": "attention", "show_aligned": False}
    pictures = webui.draw(given, prompt=f"{words}, running", batch_size=2)
    outline = pictures[-1]
    assert (outline == REFERENCE).all(2).sum() > 200 and min(outline.shape[:2]) >= 512
    said = " ".join(live.complaints(webui))
    assert f'by the words "{words}"' in said and "outline" in said
    plain = webui.draw(given | {"mask_source": "whole"}, prompt=f"{words}, running", batch_size=2)
    assert len(plain) == len(pictures) - 1 and live.changed(plain[-1], pictures[-2])
    again = webui.draw(given, prompt=f"{words}, running", batch_size=2)
    assert len(again) == len(pictures) and all(map(np.array_equal, again, pictures))


@pytest.mark.usefixtures("tiny", "nothing_stays")
@pytest.mark.parametrize("call", [1, 2])
def test_a_picture_that_ends_early_leaves_nothing(webui, call):
    """With a random model, whose answer is anything: what counts is what stays."""
    noise = np.random.default_rng(call).integers(0, 256, (96, 128, 3), np.uint8)
    given = {"reference": live.encoded(Image.fromarray(noise)), "mask_source": "auto"}
    with pytest.raises(live.Refused, match="exploded"):
        webui.draw(given | {"infusion": False, "bridge": False}, prompt=f"explode {call}")
    assert webui.draw(given, prompt=f"halt {call}")
