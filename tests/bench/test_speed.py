"""The bench of speed: what it counts, how a picture is put together, and that what was measured is not measured again."""

import json

import pytest
import torch

from bench.identity.methods import TUNED
from bench.speed import costs, report
from bench.speed.clocks import peak
from bench.speed.networks import SHAPES, Network, Shape, filled
from bench.speed.page import COLUMNS, page
from seal_ext.settings import Settings

TINY = Shape(
    "sd15", 64,
    {"block_out_channels": (32, 64), "down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2,
     "cross_attention_dim": 32, "attention_head_dim": 8, "norm_num_groups": 8, "layers_per_block": 1},
    {"block_out_channels": (32, 32), "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
     "latent_channels": 4, "norm_num_groups": 8},
)  # fmt: skip


@pytest.fixture(scope="module")
def network():
    return Network(TINY)


def test_calls_and_memory_of_a_network(network):
    times = costs.calls(network, report.Clock(network.device), 2, 2, costs.VARIANTS)
    assert {name: [len(one) for one in rounds] for name, rounds in times.items()} == {
        **{key: [2, 2] for key in ("plain", "infused", "bridged")}, "reading": [1], "encode": [1, 1], "decode": [1, 1],
        "reference_only": [2, 2]}  # fmt: skip
    assert all(seconds > 0 for rounds in times.values() for one in rounds for seconds in one)
    seen = costs.memory(network)
    assert seen["plain"] > seen["weights"] > 1e5 and seen["bridged"] > seen["plain"] and seen["reading"] > 0
    network.lay_out(64, 2, 2)  # two pictures of two references
    assert set(costs.curve(network, report.Clock(network.device), 1)) == {"looking", "held", "reading"}
    network.lay_out(64, 1, 1)


def test_a_picture_is_put_together_of_its_calls():
    times = {"plain": [[1.0]], "reference_only": [[2.0, 9.0]], "infused": [[1.5, 1.25]], "bridged": [[2.0, 8.0]], "reading": [[0.5]],
             "encode": [[3.0]], "decode": [[4.0]]}  # fmt: skip
    found = costs.put_together(times, costs.Counts(20, readings=3, asked=4, looks=2))
    infusion = 2 * 1.5 + 18 * 1.25
    assert found == pytest.approx({
        "plain": 24, "reference_only": 3 + 40 + 4, "first": 3 + 1.5 + infusion + 2 + 4, "cached": infusion + 2 + 4,
        "first_infusion": 3 + 1.5 + infusion + 4, "cached_infusion": infusion + 4})  # fmt: skip


def test_what_a_picture_has_of_each_call():
    always = Settings(enabled=True, lam_every=1, lam_end=0.6, t_app="every 4")
    assert vars(costs.counts(always, 7)) == {"steps": 20, "readings": 5, "asked": 12, "looks": 7}
    rarely = Settings(enabled=True, lam_every=5, lam_end=0.6, t_app="all")
    assert vars(costs.counts(rarely, 0)) == {"steps": 20, "readings": 20, "asked": 3, "looks": 0}
    assert costs.counts(Settings(enabled=True, bridge=False), 0).asked == 0


def test_memory_counts_what_is_alive_at_once():
    def act():
        one = torch.zeros(1000, 1000)
        two = one + 1
        del one
        return two * 2

    assert 8_000_000 <= peak(torch.device("cpu"), act) < 8_100_000


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_the_shapes_are_the_true_ones(name):
    """By the number of their weights, without memory for them."""
    import diffusers

    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**SHAPES[name].unet)
        vae = diffusers.AutoencoderKL(**SHAPES[name].vae)
    assert sum(p.numel() for p in unet.parameters()) == {"sd15": 859_520_964, "sdxl": 2_567_463_684}[name]
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863


def test_random_weights_keep_the_size_of_what_goes_through():
    network = filled(lambda: torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.Linear(200, 100)), "cpu", torch.float32)
    out = network(torch.randn(50, 300, generator=torch.Generator().manual_seed(1)))
    assert 0.7 < out.std() < 1.4


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch, capsys):
    seen = []

    def measured(bench, name, part):
        seen.append(part)
        if part == "pictures":
            return {"seconds": {key: [1.0, 1.2] for key in ("plain", *COLUMNS)}, "looks": 3}
        if part == "calls":
            return {name: [[1.0, 1.0]] for name in (*costs.VARIANTS, "reading", "encode", "decode")}
        if part == "memory":
            return {"weights": 10, "plain": 100, "bridged": 112, "reading": 2**20}
        return {"looking": 1.5, "held": 1.1, "reading": 0.5}

    monkeypatch.setattr(report.Bench, "_measured", measured)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert report.main(["--json", "figures.json", "--page", "speed.md"]) == 0
        assert len(seen) == 1 + 2 * 3 + 9 + 7  # whole pictures, calls and memory of each, two curves
    found = json.loads((tmp_path / "figures.json").read_text())
    assert set(found) == {"embedded", "sd15", "sdxl"}
    readings = costs.counts(TUNED, 0).readings
    for figures in found.values():
        assert set(figures["ratio"]) == set(COLUMNS) and figures["cache_mb"] == readings and figures["peak_ratio"] == 1.12
    text = (tmp_path / "speed.md").read_text()
    assert "| SDXL | 1024 |" in text and "nan" not in text and page(found, "cpu") == text
    assert report.main(["--networks", "sdxl", "--parts", "memory"]) == 0 and len(seen) == 23
