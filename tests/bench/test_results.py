"""The results page says what the figures say, and the goals are judged as they were asked."""

import pytest
import torch

from bench.identity import page
from bench.identity.goals import goals
from bench.identity.measurement import paired
from bench.identity.tasks import TASKS


def row(identity, **more):
    values = {"identity": identity, "pattern": 45.0, "structure": 0.8, "text": 0.7, "leak": 0.1, "seconds": 2.0, "unet_rows": 40.0} | more
    return {name: {"value": value, "low": value - 1, "high": value + 1} for name, value in values.items()}


def figures():
    methods = {"none": row(0.0, pattern=0.0, seconds=1.0), "reference_only": row(45.0, pattern=20.0, leak=0.8)}
    methods["seal"] = row(70.0, match=0.75)
    conflict = {"none": row(0.0), "seal": row(60.0, conflict_success=0.9, others_identity=65.0)}
    cases = {"pose": methods, "conflict": conflict, "aligned": methods, "misaligned": methods}
    paired = {"reference_only": {"identity": row(25.0)["identity"], "pattern": row(25.0)["identity"]}}
    return {"methods": methods, "cases": cases, "paired": paired, "seeds": [0, 8], "split": "development"}


def swept():
    some = {key: row(1.0)["identity"] for key in ("identity", "pattern", "structure", "sharpness")}
    match = {"match": row(0.7)["identity"], "chance": 0.1}
    return {"sweeps": {"tau": [{"value": 0.1} | some]}, "matching": [{"feature": "hidden", "site": "up.6", "t": 401.0} | match]}


def test_goals_that_are_met_and_goals_that_are_not():
    assert all(goal.met for goal in goals(figures(), 80.0))
    worse = figures()
    worse["methods"]["seal"] = row(61.0, structure=0.77, leak=0.5, match=0.6, pattern=30.0)
    unmet = {goal.what for goal in goals(worse, 80.0) if not goal.met}
    assert unmet == {"pattern", "structure, by none's", "leak, by reference_only's", "match", "identity, by reference_only's"}


def test_of_a_weak_peer_half_as_much_again_is_asked():
    weak = figures()
    weak["methods"]["reference_only"]["identity"]["value"] = 30.0
    assert next(goal for goal in goals(weak) if "by reference_only's" in goal.what and "identity" in goal.what).asked == "≥ 45.0"


def test_a_report_of_few_methods_has_few_goals():
    assert goals({"methods": {"none": row(0.0)}, "cases": {}, "paired": {}}) == []


def test_the_page_holds_every_case_and_method():
    text = page.page(figures(), swept())
    assert "| **seal** | 70.0 [69.0, 71.0]" in text and "### conflict" in text and "| up.6 | hidden | 401 |" in text
    assert "2.00" in text  # seconds beside a plain picture's


def test_pairing_compares_the_same_cases():
    error = torch.tensor([50.0, 40.0, 30.0])
    columns = {"identity": error, "identity_vae": torch.full((3,), 10.0), "pattern": error, "pattern_vae": torch.zeros(3)}
    half = columns | {"identity": (error + 10) / 2, "pattern": error / 2}
    more = paired(half, columns, columns)
    assert all(more[name][key] == pytest.approx(50) for name in ("identity", "pattern") for key in ("value", "low", "high"))


def test_the_sheet_stands_without_pictures_of_every_method():
    class Nothing:
        def picture(self, case, name, seeds):
            return None

    made = page.sheet(Nothing(), range(8))
    assert made.shape == (3, 128 * (3 + len(page.SHOWN)), 128 * 3 * len(page.SHEET_CASES))
    assert set(page.SHEET_CASES) <= set(TASKS)
