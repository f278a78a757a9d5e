"""The committed model: written as it was read, measured by one command; and wrong usage answered in one line."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench import align_pairs, align_report, world_sheet
from bench.__main__ import main
from bench.align_pairs import DISTURBED, POSES, Result, pairs, real, real_pairs, world_joints
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
    assert found["reached"] == align_report.goal_reached(found["families"]) and found["families"]["all"]["right"] > 0.9
    assert found["real"]["not judged"] == 0
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


def test_the_goal_of_align_is_not_reached_by_refusing():
    row = {"right": 1.0, "refused": 0.0}
    assert align_report.GOAL == 0.95 and pytest.approx(1 / 3) == align_report.REFUSED_BELOW
    assert align_report.goal_reached({"standing": row, "lying": row | {"right": 0.95, "refused": 0.33}})
    for bad in ({"right": 0.94}, {"refused": 1.0}, {"refused": 1 / 3}):
        assert not align_report.goal_reached({"standing": row, "lying": row | bad})


def test_the_report_of_align_refuses_its_goal_to_whoever_always_refuses(monkeypatch, capsys):
    monkeypatch.setattr(align_report, "judged", lambda given, joints=True: Result(given.pose, given.disturbed, 0.0, 0.0, True))
    found = align_report.constructed(world_joints(range(2)), 1, given=False)
    said = capsys.readouterr().out
    assert not found["reached"] and found["families"]["lying"]["right"] == found["families"]["lying"]["refused"] == 1
    assert "not reached" in said and "100.0%   100.0%" in said


def only(points, *joints):
    """A body of which nothing but these joints is seen."""
    return np.where(np.isin(np.arange(18), joints)[:, None], points, np.nan)


def test_a_real_pair_without_a_common_joint_of_head_or_torso_is_not_judged(monkeypatch, capsys):
    body, other = world_joints(range(2))
    bases = [only(body, 0, 1, 2, 5, 14, 15), only(other, 8, 9, 10, 11, 12, 13), body]
    moved = SimpleNamespace(moves=True, alignment=SimpleNamespace(matrix=np.array([[1.0, 0, 0], [0, 1, 0]])))
    monkeypatch.setattr(align_pairs, "_aligned", lambda given, joints: moved)
    judged = [real(given) for given in real_pairs(bases)]
    assert [one is None for one in judged] == [True, False, True, False, False, False]
    told = [one for one in judged if one is not None]
    found = align_report.of_real(bases)["real"]
    assert found["pairs"] == 4 and found["not judged"] == 2 and found["refused"] == 0
    assert found["right"] == np.mean([one.right for one in told]) < 1
    assert "2 of 6" in capsys.readouterr().out
    assert align_report.of_real(bases[:2]) == {"real": {"pairs": 0, "not judged": 2}} and align_report.of_real(bases[:1]) == {}
    monkeypatch.setattr(align_pairs, "_aligned", lambda given, joints: None)
    assert all(real(given).refused for given in real_pairs(bases))


def test_a_family_that_cannot_be_filled_is_an_error():
    bases = [only(points, 0, 1, 2) for points in world_joints(range(2))]
    with pytest.raises(UserError, match="0 of 2 pairs of the family 'standing', 'whole'"):
        list(pairs(bases, 2))
