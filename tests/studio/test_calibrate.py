"""Calibration: the warp's truth is true, a layer that matches is kept, one that does not is dropped, and τ separates."""

import json

import numpy as np
import pytest
import torch

from seal_ext.core.mask import Box
from seal_ext.layers import Site
from seal_ext.settings import Settings
from seal_ext.studio import calibrate
from seal_ext.studio.__main__ import main
from seal_ext.studio.calibrate import AT, BINS, Tally, as_blocks, best_tau, choose, copies_of
from seal_ext.studio.checkpoint import EMBEDDED
from seal_ext.studio.cli import UserError, read_settings, run
from seal_ext.studio.warp import USUAL, Warp, thin_plate

BOX = Box(20, 20, 100, 110)


@pytest.mark.parametrize("warp", [Warp(), Warp(mirror=True, degrees=-20, scale=0.8), *USUAL])
def test_every_pixel_of_a_copy_is_where_the_warp_says_it_came_from(warp):
    y, x = np.mgrid[0:128, 0:128].astype(np.float32)
    copy = warp(np.stack([x + 0.5, y + 0.5], -1), BOX)
    points = np.array([(40.5, 60.5), (64.5, 64.5), (80.5, 90.5)])
    seen = np.array([copy[int(py), int(px)] for px, py in points])
    assert seen == pytest.approx(warp.origin(points, BOX), abs=0.1)


def test_a_thin_plate_goes_through_its_pegs():
    random = np.random.default_rng(0)
    pegs, moves = random.uniform(0, 100, (12, 2)), random.uniform(-5, 5, (12, 2))
    assert thin_plate(pegs, moves, pegs) == pytest.approx(moves, abs=1e-6)


def test_an_unmoved_copy_matches_itself(figure):
    (copy,) = copies_of(*figure, [Warp()])
    reference = calibrate.subject_tokens(torch.from_numpy(figure[1])[None].float(), (16, 16))[0]
    place, known = copy.truth((16, 16), reference)
    assert torch.equal(place[:, 0] * 16 + place[:, 1], torch.arange(256)) and torch.equal(known, reference)


def tally(share, grid=(16, 16), chance=0.1, tau=0.6):
    bins = np.linspace(-1, 1, BINS + 1)[:-1]
    return Tally(grid, 100 * share, 100, 100 * chance, (bins > tau).astype(float), (bins < tau).astype(float))


def tallies_of(shares):
    return {
        (Site(name, *name.split(".")), kind, t): tally(share if kind == "hidden" else 0.1, grid, chance)
        for name, (share, grid, chance) in shares.items()
        for kind in calibrate.FEATURES
        for t in AT
    }


def test_what_matches_well_on_its_grid_is_kept():
    shares = {"mid.0": (1.0, (2, 2), 1.0), "up.0": (0.9, (8, 8), 0.35), "up.1": (0.6, (16, 16), 0.1), "up.2": (0.15, (16, 16), 0.1)}
    choice = choose(tallies_of(shares))
    assert choice.feature == "hidden" and [site.name for site in choice.sites] == ["mid.0", "up.0", "up.1"]
    assert choice.early[0] == pytest.approx(0.6, abs=0.02)


def test_where_nothing_matches_it_is_said():
    with pytest.raises(UserError, match="mask"):
        choose(tallies_of({"up.0": (0.1, (16, 16), 0.1)}))
    with pytest.raises(UserError, match="larger size"):
        choose(tallies_of({"up.0": (1.0, (2, 2), 1.0)}))


def test_tau_separates_subject_from_background():
    tau, subject, background = best_tau([tally(1.0, tau=0.42)])
    assert tau == pytest.approx(0.42, abs=0.02) and subject > 0.98 and background < 0.02


def test_sites_are_written_as_the_setting_reads_them():
    sites = [Site("", "mid", 0), *(Site("", "up", i) for i in (0, 1, 2, 5))]
    assert as_blocks(sites) == "mid.0 up.0-2 up.5"
    blocks = Settings(blocks=as_blocks(sites)).block_weights()
    assert [blocks.weight(Site("", "up", i)) for i in range(7)] == [1, 1, 1, 0, 0, 1, 0] and blocks.weight(Site("", "mid", 0)) == 1


def test_the_command_prints_a_table_and_writes_a_preset(studio, files, monkeypatch, capsys):
    monkeypatch.setattr(calibrate, "studio_of", lambda *given: studio)
    monkeypatch.setattr(calibrate, "LEAST", -1.0)  # random weights match by chance
    argv = ["calibrate", "--reference", str(files / "reference.png"), "--mask", str(files / "mask.png"), "--out", str(files / "p.json")]
    assert run(main, argv) == 0
    told = capsys.readouterr().out
    assert "up.0" in told and "chance" in told
    assert read_settings(str(files / "p.json")).feature == json.loads((files / "p.json").read_text())["feature"]
    assert not any(m._forward_pre_hooks for m in studio.pipe.unet.modules())


@pytest.mark.skipif(not (EMBEDDED / "manifest.json").exists(), reason="the weights are not in this tree")
def test_the_embedded_model_finds_its_character_in_warped_copies(tmp_path):
    from bench.cases import make_cases
    from bench.world.sheet import to_bytes
    from seal_ext.studio.models import open_studio

    cases = make_cases(torch.tensor([25]))
    picture = to_bytes(cases.reference.picture.image[0]).numpy()
    mask = (cases.reference.picture.region[0] > 0).numpy()
    tallies = calibrate.measure(open_studio(device="cpu"), picture, mask)
    choice = choose(tallies)
    best = max(t.score for (site, kind, _), t in tallies.items() if kind == choice.feature and min(t.grid) == 16)
    assert best > 0.3 and choice.late[1] - choice.late[2] > 0.3
