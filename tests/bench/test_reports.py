"""The committed model: opened by two readers alike, measured by one command; and wrong usage answered in one line."""

import json

import pytest
import torch

from bench import world_sheet
from bench.__main__ import main
from bench.cases import make_cases
from bench.cli import run
from bench.drawing import Model, open_model
from bench.judge.reading import Judge
from bench.model_card import GOALS
from bench.seeds import DEVELOPMENT, FINAL
from bench.writing import write_text
from seal_ext.studio.checkpoint import EMBEDDED, expand, load_diffusers

needs_weights = pytest.mark.skipif(not (EMBEDDED / "manifest.json").exists(), reason="the weights are not in this tree")


@pytest.fixture(scope="module")
def files():
    return expand(EMBEDDED, EMBEDDED / "expanded")


@needs_weights
def test_our_reading_and_diffusers_predict_the_same_noise(files):
    ours = Model(files).network
    theirs = load_diffusers(files.checkpoint, files.adapter)
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, 4, 16, 16, generator=generator), torch.tensor([10, 800])
    context = torch.randn(2, 77, ours.shape.context, generator=generator)
    hint = torch.rand(2, 3, 128, 128, generator=generator)
    with torch.no_grad():
        one = ours.unet(x, t, context, ours.adapter(hint))
        other = theirs.unet(x, t, context, down_intrablock_additional_residuals=list(theirs.adapter(hint))).sample
        assert (one - other).abs().max() <= 1e-4
        assert (ours.unet(x, t, context) - theirs.unet(x, t, context).sample).abs().max() <= 1e-4


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
    drawn = model.decode(model.draw([c.text for c in cases.prompts], cases.truth.skeleton, model.noise(cases.seeds)))
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


def test_the_sheet_of_truths_needs_no_model():
    picture = world_sheet.draw_sheet(range(DEVELOPMENT.start, DEVELOPMENT.start + 2), with_model=False)
    assert picture.shape == (3, 2 * (128 + world_sheet.CAPTION), 128 * (1 + 2 * world_sheet.POSES))
