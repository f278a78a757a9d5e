"""The committed model: written as it was read, measured by one command; and wrong usage answered in one line."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench import align_report, world_sheet
from bench.__main__ import main
from bench.align_pairs import DISTURBED, POSES, pairs, world_joints
from bench.cases import make_cases
from bench.cli import UserError, run
from bench.drawing import Model, open_model
from bench.judge.reading import Judge
from bench.model.embedded import Embedded
from bench.model_card import GOALS
from bench.seeds import DEVELOPMENT, FINAL
from bench.writing import write_text
from seal_ext.studio.checkpoint import EMBEDDED, expand

needs_weights = pytest.mark.skipif(not (EMBEDDED / "manifest.json").exists(), reason="the weights are not in this tree")


@pytest.fixture(scope="module")
def files():
    return expand(EMBEDDED, EMBEDDED / "expanded")


@needs_weights
def test_the_files_come_back_from_the_networks_bit_by_bit(files):
    network = Embedded.load(files.checkpoint, files.adapter)
    for path, state in ((files.checkpoint, network.ldm_state()), (files.adapter, network.adapter_state())):
        kept = load_file(path)
        assert kept.keys() == state.keys()
        assert all(torch.equal(kept[name], state[name]) for name in kept)


@needs_weights
def test_every_network_of_the_files_knows_its_trade(files):
    """Names that went to wrong places would load as well, but say nothing: each network has to take its share of the error away."""
    model, cases = Model(files), make_cases(torch.arange(20, 28))
    pipe, image = model.pipe, cases.truth.picture.image
    latent = model.encode(image)
    assert (model.decode(latent) - image).abs().mean() < 0.05
    noise = model.noise(cases.seeds)

    def error(t: int, texts: list[str], hint: torch.Tensor | None) -> float:
        alpha = pipe.scheduler.alphas_cumprod[t]
        noisy = alpha.sqrt() * latent + (1 - alpha).sqrt() * noise
        ids = pipe.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
        features = None if hint is None else pipe.adapter(hint)
        context = pipe.text_encoder(ids).last_hidden_state
        epsilon = pipe.unet(noisy, t, context, down_intrablock_additional_residuals=features).sample
        return float((epsilon - noise).square().mean())

    said, hint = [c.text for c in cases.prompts], cases.truth.structure
    for t, most in ((900, 0.02), (500, 0.1)):
        whole = error(t, said, hint)
        assert whole < most and whole < 0.9 * error(t, said, None)
        assert whole < (0.9 if t == 900 else 1) * error(t, [""] * len(latent), hint)


@needs_weights
def test_shards_are_small_enough_for_any_remote():
    sizes = [path.stat().st_size for path in EMBEDDED.rglob("*") if path.is_file() and "expanded" not in path.parts]
    assert max(sizes) <= 15 * 2**20 and sum(sizes) <= 45e6


@needs_weights
def test_the_report_has_every_key_with_its_interval(files, tmp_path, capsys):
    out, card = tmp_path / "report.json", tmp_path / "card.md"
    assert run(main, ["model", "--seeds", "10:13", "--renders", "8", "--json", str(out), "--card", str(card)]) == 0
    report = json.loads(out.read_text())
    for name in GOALS:
        figure = report[name]
        assert set(figure) == {"value", "low", "high"} and figure["low"] <= figure["value"] <= figure["high"]
    assert report["model"]["width"] in (32, 64) and report["seeds"] == [10, 13]
    assert "development seeds 10:13" in card.read_text() and "in_context_identity" in capsys.readouterr().out


@needs_weights
def test_the_model_draws_the_asked_for_place(files):
    """A floor far below the measured figures and far above chance (a tenth): damaged or confused weights would not reach it."""
    model, judge = open_model(), Judge.load()
    cases = make_cases(torch.arange(20, 36))
    drawn = model.decode(model.draw([c.text for c in cases.prompts], cases.truth.structure, model.noise(cases.seeds)))
    reading = judge.read(drawn)
    assert (reading.attributes["background"] == cases.truth.settings.background).float().mean() >= 0.3
    overlap = (reading.silhouette & (cases.truth.picture.region > 0)).sum() / (cases.truth.picture.region > 0).sum()
    assert overlap > 0.5


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "name is missing"),
        (["magic"], "unknown report 'magic'"),
        (["model", "--seeds", "5:2"], "empty range"),
        (["model", "--seeds", f"{FINAL.start}:{FINAL.start + 2}"], "out of range"),
        (["model", "--seeds", "0:2", "--final"], "out of range"),
        (["model", "--seeds", "a:b"], "A:B"),
        (["model", "--renders", "0"], "--renders"),
        (["model", "--renders", "x"], "invalid int"),
        (["model", "--frobnicate"], "unrecognized"),
        (["world", "--seeds", "0:500"], "at most 64"),
        (["world", "--out", "sheet.gif"], ".png"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(argv, said, capsys):
    try:
        code = run(main, argv)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr().err.strip()
    assert code == 2 and said in captured and "\n" not in captured


def test_a_file_that_cannot_be_written_is_one_line(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    code = run(lambda argv: write_text(blocked / "out.json", "{}") or 0, [])
    assert code == 2 and "cannot be written" in capsys.readouterr().err


def test_the_widths_of_what_is_drawn_are_a_table(capsys):
    assert run(main, ["world", "--widths", "--seeds", "0:16"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("all") and float(last.split()[-1]) > 0.5


def test_the_sheet_of_truths_needs_no_model():
    picture = world_sheet.draw_sheet(range(DEVELOPMENT.start, DEVELOPMENT.start + 2), with_model=False)
    assert picture.shape == (3, 2 * (128 + world_sheet.CAPTION), 128 * (1 + 2 * world_sheet.POSES))


def test_align_says_by_family_what_is_right(tmp_path, capsys):
    given = {name: [list(map(float, place)) for place in points] for name, points in zip("ab", world_joints(range(2)), strict=True)}
    given["portrait"] = [place if joint in (0, 1, 2, 5, 8, 11, 14, 15) else None for joint, place in enumerate(given["a"])]
    (tmp_path / "joints.json").write_text(json.dumps(given))
    out = tmp_path / "align.json"
    assert align_report.main(["--joints", str(tmp_path / "joints.json"), "--count", "1", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["pairs"] == 25 and set(found["families"]) == {*POSES, *DISTURBED, "all"} and found["real"]["pairs"] == 6
    assert found["reached"] == all(row["right"] >= 0.95 for row in found["families"].values()) and found["families"]["all"]["right"] > 0.9
    assert "second person" in capsys.readouterr().out
    with pytest.raises(UserError, match="18 joints"):
        (tmp_path / "joints.json").write_text('{"a": [[0, 1]]}')
        align_report.main(["--joints", str(tmp_path / "joints.json")])


def test_a_pair_s_head_and_torso_stay_and_its_limbs_keep_their_lengths():
    still = [0, 1, 2, 5, 8, 11, 14, 15, 16, 17]
    for one in pairs(world_joints(range(6)), 1):
        before, after = one.whole.points, one.right
        assert after[still] == pytest.approx(before[still])
        assert np.hypot(*(after[3] - after[2])) == pytest.approx(np.hypot(*(before[3] - before[2])))
        size = [np.ptp(points[still], 0).max() for points in (one.there, after)]
        assert (one.there - one.there[1]) / size[0] == pytest.approx((after - after[1]) / size[1])
