"""Tuning gives every method the same chances, keeps every trial, and goes on where it stopped."""

import json

import pytest

from bench.cli import run
from bench.identity import methods, tuning

NONE = {"identity": 0.0, "structure": 0.8, "text": 0.7}


class Fake:
    """A bench on which a method is the better the lower its knobs stand in their lists."""

    drawn = 0

    def __init__(self, seeds):
        self.seeds = seeds

    def figures(self, case, method):
        Fake.drawn += 1
        return {"identity": method, "pattern": 0.0, "structure": 0.8, "text": 0.7, "leak": 0.0, "conflict_success": 1.0,
                "others_identity": 1.0}, NONE  # fmt: skip


@pytest.fixture
def fake(monkeypatch):
    def made(**knobs):
        return 50.0 - sum(tuning.SPACES["masactrl"][name].index(value) for name, value in knobs.items())

    Fake.drawn = 0
    monkeypatch.setattr(tuning, "Bench", Fake)
    monkeypatch.setattr(tuning, "MAKE", {"masactrl": made, "seal": lambda **knobs: 1.0})
    monkeypatch.setattr(tuning, "weights_name", lambda: "weights")


def tried(path, method="masactrl"):
    return [trial for trial in methods.read_trials(path) if trial["method"] == method]


def test_every_trial_is_kept_and_none_is_made_twice(fake, tmp_path):
    path = tmp_path / "tuning.json"
    assert run(tuning.main, ["--methods", "masactrl", "--trials", "3", "--json", str(path)]) == 0
    assert len(tried(path)) == Fake.drawn == 3
    assert run(tuning.main, ["--methods", "masactrl", "--trials", "8", "--json", str(path)]) == 0
    assert len(tried(path)) == Fake.drawn == 8
    knobs = [json.dumps(trial["knobs"], sort_keys=True) for trial in tried(path)]
    assert knobs[0] == "{}" and len(set(knobs)) == 8
    for trial in tried(path)[1:]:
        assert all(value in tuning.SPACES["masactrl"][name] for name, value in trial["knobs"].items())


def test_later_trials_step_away_from_the_best(fake, tmp_path):
    path = tmp_path / "tuning.json"
    run(tuning.main, ["--methods", "masactrl", "--trials", "10", "--json", str(path)])
    trials, space = tried(path), tuning.SPACES["masactrl"]
    for number in range(6, 10):
        best = max(trials[:number], key=lambda trial: trial["merit"])["knobs"]
        usual = {"from_step": 0.08, "from_layer": 10, "masked": False}  # what its source has
        changed = [n for n in space if trials[number]["knobs"][n] != (usual | best)[n]]
        assert len(changed) <= 2
    assert methods.best_knobs("masactrl", path) == max(trials, key=lambda trial: trial["merit"])["knobs"]


def test_a_second_look_decides_between_the_best(fake, tmp_path, monkeypatch):
    path = tmp_path / "tuning.json"
    run(tuning.main, ["--methods", "masactrl", "--trials", "6", "--seeds", "100:108", "--json", str(path)])
    monkeypatch.setattr(Fake, "figures", lambda self, case, method: ({"identity": 100 - method}, NONE))  # the last are the first
    assert run(tuning.main, ["--methods", "masactrl", "--again", "0:16", "--json", str(path)]) == 0
    seen = [trial for trial in tried(path) if "again" in trial]
    assert len(seen) == tuning.FINALISTS and len(tried(path)) == 6 and {t["again"]["seeds"] for t in seen} == {"0:16"}
    best = min(seen, key=lambda trial: trial["merit"])
    assert methods.standing(best) > best["merit"] and methods.best_knobs("masactrl", path) == best["knobs"]
    assert methods.standing({"merit": 30.0, "seeds": "100:108", "again": {"merit": 60.0, "seeds": "0:16"}}) == 50


def test_peers_are_judged_by_identity_and_seal_also_by_what_it_breaks():
    seen = {"identity": 60.0, "pattern": 20.0, "structure": 0.5, "text": 0.4, "leak": 0.5}
    assert tuning.merit("masactrl", seen, NONE) == 60
    whole = tuning.merit("seal", seen | {"structure": 0.8, "text": 0.7, "leak": 0.0}, NONE)
    assert whole == 70 and tuning.merit("seal", seen, NONE) < whole - 30
    assert tuning.merit("seal", seen | {"structure": 0.785, "text": 0.68, "leak": 0.0}, NONE) == whole


def test_seal_is_made_from_pairs_of_tau_and_delta(monkeypatch):
    monkeypatch.setattr(methods, "seal", lambda settings: settings)
    made = methods.tried_seal(tau=(0.6, 0.5), delta=(1.0, 2.0), lam=3.0)
    assert (made.tau_early, made.tau_late, made.delta_early, made.delta_late, made.lam) == (0.6, 0.5, 1.0, 2.0, 3.0)
    assert not made.clamp and methods.tried_seal(delta=(0.5, 1.0)).clamp


@pytest.mark.parametrize(
    ("argv", "said"),
    [(["--methods", "magic"], "unknown method 'magic'"), (["--trials", "0"], "--trials must be"), (["--seeds", "5:5"], "empty")],
)
def test_wrong_usage_is_one_sentence(argv, said, capsys):
    assert run(tuning.main, argv) == 2
    assert said in capsys.readouterr().err


def test_the_committed_trials_are_as_many_for_every_method_and_the_defaults_are_seals_best():
    trials = methods.read_trials()
    counts = {name: len([t for t in trials if t["method"] == name]) for name in tuning.SPACES}
    assert set(counts.values()) == {tuning.TRIALS}, counts
    assert len({t["weights"] for t in trials}) == 1
    for name in ("seal", "seal_conflict"):
        best = methods.best_knobs(name)
        chosen = {k: v for k, v in best.items() if k not in ("tau", "delta")}
        for pair in ("tau", "delta"):
            if pair in best:
                chosen |= {f"{pair}_early": best[pair][0], f"{pair}_late": best[pair][1]}
        assert {k: getattr(methods.TUNED, k) for k in chosen} == chosen, name
