"""The layers of U-Nets as they are built: every word of *Blocks* takes in each the layers that the documentation says."""

import re
from pathlib import Path

import diffusers
import pytest
import torch
from torch import nn

from seal_ext.core.blocks import Blocks
from seal_ext.layers import find_sites
from seal_ext.settings import Settings

METHOD = Path(__file__).resolve().parents[1] / "docs" / "method.md"
SD1 = dict(cross_attention_dim=768, attention_head_dim=8)
SD2 = dict(cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True)
SDXL = dict(cross_attention_dim=2048, attention_head_dim=[5, 10, 20], use_linear_projection=True, block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=[1, 2, 10], down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"))  # fmt: skip
DEPTHS = {"sd1": (1, 1, 1, 0), "sd2": (1, 1, 1, 0), "sdxl": (0, 2, 10)}  # transformers of a level, from fine to coarse


class Downsample(nn.Module): ...


class Upsample(nn.Module): ...


def attends(width, depth):
    layer = nn.Module()
    blocks = nn.ModuleList([nn.Module() for _ in range(depth)])
    for block in blocks:
        block.attn1, block.attn2 = nn.Module(), nn.Module()
        block.attn1.to_q = nn.Linear(width, width, device="meta")
    layer.transformer_blocks = blocks
    return layer


def ldm(depths):
    """The layers of a U-Net in the order in which the ldm and sgm packages, and Forge, name and build them."""
    unet, widths, last = nn.Module(), (320, 640, 1280, 1280), len(depths) - 1
    down, up = [[nn.Module()]], []
    for level, depth in enumerate(depths):
        down += [[nn.Module(), *([attends(widths[level], depth)] * bool(depth))] for _ in range(2)]
        down += [[Downsample()]] * (level < last)
    for level, depth in reversed(list(enumerate(depths))):
        for number in range(3):
            grows = [Upsample()] * (level > 0 and number == 2)
            up.append([nn.Module(), *([attends(widths[level], depth)] * bool(depth)), *grows])
    unet.input_blocks = nn.ModuleList(map(nn.ModuleList, down))
    unet.middle_block = nn.ModuleList([nn.Module(), attends(widths[last], depths[last] or 1), nn.Module()])
    unet.output_blocks = nn.ModuleList(map(nn.ModuleList, up))
    return unet


@pytest.fixture(scope="module", params=["diffusers", "ldm"])
def unets(request):
    if request.param == "ldm":
        return {name: ldm(depths) for name, depths in DEPTHS.items()}
    with torch.device("meta"):
        return {name: diffusers.UNet2DConditionModel(**more) for name, more in {"sd1": SD1, "sd2": SD2, "sdxl": SDXL}.items()}


def taken(unet, word):
    """Count, width and numbers of the layers that a word takes, as the documentation writes them."""
    blocks, layers = Blocks.parse(word), find_sites(unet)
    chosen = [site for site in layers if blocks.weight(site) > 0]
    if not chosen:
        return "–"
    (width,) = {layers[site].to_q.in_features for site in chosen}
    first, last = chosen[0].index, chosen[-1].index
    assert [site.index for site in chosen] == list(range(first, last + 1))
    return f"{len(chosen)} × {width}, `{chosen[0].part}.{first}" + (f"-{last}`" if last > first else "`")


def test_every_word_takes_the_layers_that_the_table_says(unets):
    table = re.findall(r"^\| `((?:down|mid|up)@1/\d)` \| (.+?) \| (.+?) \|$", METHOD.read_text(encoding="utf-8"), re.MULTILINE)
    for word, small, large in table:
        assert [taken(unets[name], word) for name in ("sd1", "sd2", "sdxl")] == [small, small, large], word
    words = {word for word, _, _ in table}
    for unet in unets.values():  # and the table has them all
        assert {f"{site.part}@1/{site.grid}" for site in find_sites(unet)} <= words


def test_the_default_takes_what_it_took_in_sd1_and_the_papers_layers_elsewhere(unets):
    def chosen(name, text):
        return {site for site in find_sites(unets[name]) if Blocks.parse(text).weight(site) > 0}

    assert chosen("sd1", Settings().blocks) == chosen("sd1", "up.3-")
    for name in ("sd2", "sdxl"):
        assert chosen(name, Settings().for_architecture(name).blocks) == chosen(name, "mid up")
    assert len(chosen("sdxl", "up@1/4")) == 30  # all of a grid, or none
