"""The results page says what the figures say; every goal is judged as it was asked, and can fail."""

import copy
import json

import pytest
import torch

from bench.cli import UserError
from bench.identity import measurement, page, report
from bench.identity.goals import goals, of_conditions, of_stranger, reversed_on
from bench.identity.known import FOUND
from bench.identity.measurement import Measurement, fingerprint, paired, weights_name
from bench.identity.methods import SOURCES, read_trials, standing
from bench.identity.tasks import POOLED, TASKS
from bench.metrics.bootstrap import recovered_ratio
from bench.seeds import FINAL


def figure(value, within=1.0):
    return {"value": value, "low": value - within, "high": value + within}


def row(identity, **more):
    values = {"identity": identity, "pattern": 45.0, "structure": 0.8, "text": 0.7, "leak": 0.1, "seconds": 2.0, "unet_rows": 40.0} | more
    return {name: figure(value) for name, value in values.items()}


def pair(identity=10.0, pattern=10.0, structure=0.0, text=0.0, leak=-0.3, times=1.5):
    return {
        "identity": figure(identity), "pattern": figure(pattern), "identity_ratio": figure(times, 0.1), "pattern_ratio": figure(times, 0.1),
        "structure": figure(structure, 0.01), "text": figure(text, 0.01), "leak": figure(leak, 0.1),
    }  # fmt: skip


def measured():
    """A report in which every goal is met."""
    methods = {"none": row(0.0, pattern=0.0, seconds=1.0), "reference_only": row(45.0, pattern=20.0), "ceiling": row(74.0)}
    methods |= {"reference_only@found": row(40.0), "seal": row(60.0), "seal_given": row(70.0, match=0.75)}
    told = {name: row(60.0, conflict_success=0.9, others_identity=65.0) for name in ("seal_given", "seal_told_place", "seal_told_caption")}
    beside = {"none": pair(), "reference_only": pair(), "ceiling": pair(identity=-4.0, times=0.95)}
    cases = {"pose": methods, "animals": methods, "misaligned": methods, "conflict": methods | told}
    of_cases = {case: {"seal_given": copy.deepcopy(beside)} for case in cases}
    about = {"seeds": [0, 32], "split": "development", "weights": "abc"}
    return about | {
        "methods": methods,
        "cases": cases,
        "paired": {"seal_given": beside, "seal": {"reference_only": pair()}},
        "paired_cases": of_cases,
    }


def swept():
    some = {key: figure(1.0) for key in ("identity", "pattern", "structure", "sharpness")}
    match = {"match": figure(0.7), "chance": 0.1}
    return {
        "sweeps": {"tau": [{"value": 0.1} | some]},
        "as the paper": [{"value": "form", "case": "pose"} | some, {"value": "gate", "case": "conflict", "identity": figure(-7.0)}],
        "matching": [{"feature": "hidden", "site": "up.6", "t": 401.0} | match],
    }


def conditions(**more):
    of = {"identity": 30.0, "structure_loss": 0.01, "sharpness": 1.0, "usual": True, "destroyed": False} | more
    shown = {key: figure(of[key]) for key in ("identity", "structure_loss", "sharpness")}
    return {"conditions": [{"name": "CFG 12", "intervals": shown} | of], "seeds": [90_000, 90_016], "weights": "abc"}


def set_to(report, path, value):
    for key in path[:-1]:
        report = report[key]
    report[path[-1]] = value


BESIDE = ("paired", "seal_given")
CASES = "paired_cases"
# What has to be worse for each goal to be open.
FAILS = {
    "identity, of ceiling's": ((*BESIDE, "ceiling", "identity_ratio"), figure(0.91)),
    "identity, of reference_only's": ((*BESIDE, "reference_only", "identity_ratio"), figure(1.29)),
    "identity less reference_only's": ((*BESIDE, "reference_only", "identity"), figure(0.9)),
    "pattern, of reference_only's": ((*BESIDE, "reference_only", "pattern_ratio"), figure(1.2)),
    "pattern less reference_only's": ((*BESIDE, "reference_only", "pattern"), figure(0.5)),
    "leak less half of reference_only's": ((*BESIDE, "reference_only", "leak"), figure(-0.05, 0.1)),
    "structure less none's": ((*BESIDE, "none", "structure"), figure(-0.015, 0.01)),
    "text less none's": ((*BESIDE, "none", "text"), figure(-0.025, 0.01)),
    "seal: identity, of reference_only's": (("paired", "seal", "reference_only", "identity_ratio"), figure(1.19)),
    "seal: identity less reference_only's": (("paired", "seal", "reference_only", "identity"), figure(0.9)),
    "animals: identity less reference_only's": ((CASES, "animals", "seal_given", "reference_only", "identity"), figure(0.5)),
    "animals: identity less none's": ((CASES, "animals", "seal_given", "none", "identity"), figure(-3.0)),
    "misaligned: identity less none's": ((CASES, "misaligned", "seal_given", "none", "identity"), figure(0.5)),
    "changed as asked, told one word": (("cases", "conflict", "seal_given", "conflict_success"), figure(0.84)),
    "changed as asked, told light and place": (("cases", "conflict", "seal_told_place", "conflict_success"), figure(0.84)),
    "changed as asked, told a full caption": (("cases", "conflict", "seal_told_caption", "conflict_success"), figure(0.84)),
}


def test_every_goal_is_there_and_met():
    assert {goal.what for goal in goals(measured()) if goal.met} == set(FAILS) == {goal.what for goal in goals(measured())}


@pytest.mark.parametrize("what", FAILS)
def test_every_goal_can_fail(what):
    worse = copy.deepcopy(measured())
    set_to(worse, *FAILS[what])
    assert [goal.what for goal in goals(worse) if not goal.met] == [what]


def test_a_report_of_few_methods_has_few_goals():
    assert goals({"methods": {"none": row(0.0)}, "cases": {}, "paired": {}, "paired_cases": {}}) == []


def test_a_destroyed_condition_counts_with_the_defaults_alone():
    for more, met in (({}, True), ({"destroyed": True, "usual": False}, True), ({"destroyed": True}, False)):
        assert of_conditions(conditions(**more)["conditions"]).met is met


def test_an_order_is_reversed_only_where_it_was_sure():
    here, there = measured(), measured()
    assert reversed_on(here, there) == []
    set_to(there, (CASES, "pose", "seal_given", "reference_only", "identity"), figure(-0.5))
    assert reversed_on(here, there) == ["seal_given and reference_only"]
    assert not of_stranger(here, there).met and of_stranger(here, here).met
    set_to(here, (CASES, "pose", "seal_given", "reference_only", "identity"), figure(0.5))
    assert reversed_on(here, there) == []


def test_the_page_holds_every_case_and_row():
    text = page.page(measured(), swept(), measured(), conditions())
    assert (
        "| **seal** | 60.0 [59.0, 61.0] | 81% | 45.0 [44.0, 46.0] | 100% |" in text
        and "| gate | -7.0 [-8.0, -6.0] |" in text
        and "### conflict" in text
        and "| up.6 | hidden | 401 |" in text
    )
    assert "2.00" in text  # seconds beside a plain picture's
    assert "| CFG 12 | 30.0 [29.0, 31.0] |" in text and "destroys" not in text and all(what in text for what in FAILS)
    assert "destroys pictures" in page.page(measured(), swept(), measured(), conditions(destroyed=True))


def test_without_a_second_model_the_page_says_so_and_its_goal_is_open():
    text = page.page(measured(), swept(), None, conditions())
    assert "not trained far enough" in text and not of_stranger(measured(), None).met


def test_a_page_shows_the_pictures_of_the_state_that_it_tells_of():
    assert Measurement(state="earlier").folder.name == "earlier" != Measurement().folder.name == fingerprint()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_page_says_how_often_the_test_seeds_were_drawn(monkeypatch, tmp_path, number):
    for module in (page, measurement):
        monkeypatch.setattr(module, "DRAWS", tmp_path / "final.json")
    for state in range(number):
        monkeypatch.setattr(measurement, "fingerprint", lambda state=state: str(state))
        for _ in range(2):  # the same state of code and weights is one draw
            measurement.count_draw(FINAL[:8])
            measurement.count_draw(range(8))
    assert f"drawn {number} time" in page.page(measured(), swept(), measured(), conditions())
    assert number == 0 or len(json.loads(page.DRAWS.read_text())) == number


def test_test_seeds_are_counted_before_the_first_is_drawn(monkeypatch, tmp_path):
    monkeypatch.setattr(measurement, "DRAWS", tmp_path / "final.json")
    monkeypatch.setattr(report, "Measurement", stopped)
    with pytest.raises(Stopped):
        report.measure(["pose"], ["none"], FINAL[:8])
    assert [draw["seeds"] for draw in json.loads(measurement.DRAWS.read_text())] == [[FINAL.start, FINAL.start + 8]]


class Stopped(Exception):
    pass


def stopped(*_):
    raise Stopped


def test_figures_of_different_states_make_no_page(monkeypatch, tmp_path):
    for name, state in (("", "now"), ("-sweeps", "now"), ("-stranger", "now"), ("-conditions", "before")):
        (tmp_path / f"identity{name}.json").write_text(json.dumps({"state": state}))
    monkeypatch.setattr(page, "STRANGER", tmp_path)
    with pytest.raises(UserError, match="different states"):
        page.main(["--from", "--json", str(tmp_path / "identity.json"), "--folder", str(tmp_path)])


def test_tuning_and_results_are_of_the_weights_that_are_here():
    assert {trial["weights"] for trial in read_trials()} == {weights_name()}
    text = (page.ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert f"(weights {weights_name()})" in text and f"(`bench/tuning.json`, {page.tuning_name()})" in text


def test_the_best_peers_are_drawn_everywhere():
    """Otherwise the best peer of a pooled goal might be one that is not there."""
    best = {name: max((standing(trial) for trial in read_trials() if trial["method"] == name), default=0.0) for name in SOURCES}
    wanted = sorted(best, key=lambda name: -best[name])[:3]
    assert set(wanted) <= set(report.EVERYWHERE) and set(wanted) <= set(report.OPPONENTS[FOUND])


def test_pooled_cases_share_no_picture():
    seeds = torch.arange(4)
    drawn = [torch.cat([task.reference.picture.image, task.structure()], 1) for task in (TASKS[name](seeds) for name in POOLED)]
    for number, one in enumerate(drawn):
        assert not any(torch.equal(a, b) for other in drawn[:number] for a in one for b in other)


def test_pairing_compares_the_same_cases():
    error = torch.tensor([50.0, 40.0, 30.0])
    columns = {"identity": error, "identity_vae": torch.full((3,), 10.0), "pattern": error, "pattern_vae": torch.zeros(3)}
    columns |= {
        "structure": error / 100,
        "found": torch.ones(3),
        "asked": torch.ones(3),
        "kept": torch.ones(3),
        "keepable": torch.ones(3),
        "leaked": torch.ones(3),
        "could_leak": 2 * torch.ones(3),
    }
    half = columns | {"identity": (error + 10) / 2, "pattern": error / 2}
    more = paired(half, columns, columns)
    assert all(more[name][key] == pytest.approx(50) for name in ("identity", "pattern") for key in ("value", "low", "high"))
    assert more["text"]["value"] == more["structure"]["value"] == 0 and more["leak"]["value"] == pytest.approx(0.25)
    assert recovered_ratio(2 * error, error, 1.5 * error)["low"] == pytest.approx(2)


def test_the_sheet_stands_without_pictures_of_every_method():
    class Nothing:
        def picture(self, case, name, seeds):
            return None

    made = page.sheet(Nothing(), range(8))
    assert made.shape == (3, 128 * (3 + len(page.SHOWN)), 128 * 3 * len(page.SHEET_CASES))
    assert set(page.SHEET_CASES) <= set(TASKS)
