"""Tuning gives every method the same chances, keeps every trial, and goes on where it stopped."""

import json
from typing import ClassVar

import pytest

from bench.cli import run, seed_range
from bench.identity import methods, tuning
from bench.identity.measurement import weights_name

NONE = {"identity": 0.0, "structure": 0.8, "text": 0.7}
FIRST, AGAIN = "100:124", "0:32"
ENOUGH = 24  # seeds of one look, below which the best trial is the luckiest one


def step(method, knobs):
    """How far the knobs stand from the beginnings of their lists."""
    return sum(tuning.SPACES[method][name].index(value) for name, value in knobs.items() if value in tuning.SPACES[method][name])


class Fake:
    """A bench on which a method is the better the lower its knobs stand in their lists, or the higher if it is turned round."""

    drawn: ClassVar[list] = []
    turned = False

    def __init__(self, seeds):
        self.seeds = seeds

    def tried(self, method, knobs):
        Fake.drawn.append((self.seeds, method, knobs))
        return {"merit": 50.0 + step(method, knobs) * (1 if Fake.turned else -1), "figures": {}, "none": {}}


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(Fake, "drawn", [])
    monkeypatch.setattr(Fake, "turned", False)
    monkeypatch.setattr(tuning, "Bench", Fake)
    monkeypatch.setattr(tuning, "weights_name", lambda: "weights")


def tune(path, *words, methods="masactrl"):
    assert run(tuning.main, ["--methods", methods, "--json", str(path), *words]) == 0


def kept(path, method="masactrl"):
    return [trial for trial in methods.read_trials(path) if trial["method"] == method]


def knobs_of(trial):
    return {name: tuning.listed(value) for name, value in trial["knobs"].items()}


def test_every_trial_is_kept_and_none_is_made_twice(fake, tmp_path):
    path = tmp_path / "tuning.json"
    tune(path, "--trials", "3")
    before = kept(path)
    assert len(before) == len(Fake.drawn) == 3
    tune(path, "--trials", "8")
    assert kept(path)[:3] == before and len(kept(path)) == len(Fake.drawn) == 8
    tune(path, "--trials", "8")
    assert len(kept(path)) == len(Fake.drawn) == 8
    assert [trial["trial"] for trial in kept(path)] == list(range(8))
    assert len({json.dumps(trial["knobs"], sort_keys=True) for trial in kept(path)}) == 8


def test_trials_are_the_same_whether_or_not_they_were_interrupted(fake, tmp_path, monkeypatch):
    at_once, resumed = tmp_path / "at once.json", tmp_path / "resumed.json"
    tune(at_once, "--trials", "8", methods="masactrl,seal")

    def interrupted(self, method, knobs, whole=Fake.tried):
        if len(Fake.drawn) == stop:
            raise KeyboardInterrupt
        return whole(self, method, knobs)

    with monkeypatch.context() as patched:
        patched.setattr(Fake, "tried", interrupted)
        for more in (2, 4, 5):
            stop = len(Fake.drawn) + more
            assert run(tuning.main, ["--methods", "masactrl,seal", "--json", str(resumed), "--trials", "8"]) == 130
    tune(resumed, "--trials", "8", methods="masactrl,seal")
    assert at_once.read_text() == resumed.read_text()


def test_trials_of_other_weights_or_seeds_do_not_count(fake, tmp_path, monkeypatch):
    path = tmp_path / "tuning.json"
    tune(path, "--trials", "2", "--seeds", FIRST)
    tune(path, "--trials", "2", "--seeds", "200:224")
    monkeypatch.setattr(tuning, "weights_name", lambda: "others")
    tune(path, "--trials", "2", "--seeds", FIRST)
    assert len(Fake.drawn) == len(kept(path)) == 6


@pytest.mark.parametrize("method", tuning.SPACES)
def test_the_first_trial_is_the_source_s_own_and_knobs_stay_in_their_spaces(fake, tmp_path, method):
    path = tmp_path / "tuning.json"
    tune(path, "--trials", "8", methods=method)
    first, *others = [knobs_of(trial) for trial in kept(path, method)]
    if method == "seal_conflict":  # the rest of SeAl is as it is tuned, so that its own knobs alone decide
        assert first == {name: getattr(methods.PAPER, name) for name in ("gate", "lam", "lam_end")}
    else:
        assert first == {}
    for knobs in others:
        outside = {n: v for n, v in knobs.items() if v not in (*tuning.SPACES[method][n], tuning._usual(method, n))}
        assert knobs.keys() == tuning.SPACES[method].keys() and not outside


def test_later_trials_step_away_from_the_best(fake, tmp_path):
    path = tmp_path / "tuning.json"
    tune(path, "--trials", "10")
    trials, space = kept(path), tuning.SPACES["masactrl"]
    for number in range(6, 10):
        best = max(trials[:number], key=lambda trial: trial["merit"])["knobs"]
        usual = {"from_step": 0.08, "from_layer": 10, "masked": False}  # what its source has
        changed = [n for n in space if trials[number]["knobs"][n] != (usual | best)[n]]
        assert len(changed) <= 2
    assert methods.best_knobs("masactrl", path) == max(trials, key=lambda trial: trial["merit"])["knobs"]


def test_a_second_look_decides_between_the_best(fake, tmp_path, monkeypatch):
    path = tmp_path / "tuning.json"
    tune(path, "--trials", "6", "--seeds", FIRST, methods="masactrl,seal")
    best = sorted(kept(path), key=lambda trial: -trial["merit"])[: tuning.FINALISTS]
    seals = kept(path, "seal")
    Fake.drawn.clear()
    monkeypatch.setattr(Fake, "turned", True)  # what was best is worst
    tune(path, "--again", AGAIN)
    assert [(seeds, method, knobs) for seeds, method, knobs in Fake.drawn] == [(range(32), "masactrl", knobs_of(t)) for t in best]
    seen = [trial for trial in kept(path) if "again" in trial]
    assert len(kept(path)) == 6 and {t["again"]["seeds"] for t in seen} == {AGAIN} and kept(path, "seal") == seals
    assert sorted(t["trial"] for t in seen) == sorted(t["trial"] for t in best)
    assert methods.best_knobs("masactrl", path) == knobs_of(max(seen, key=methods.standing))


def test_a_trial_stands_at_its_mean_over_all_seeds():
    assert methods.standing({"merit": 30.0, "seeds": "100:108"}) == 30
    assert methods.standing({"merit": 30.0, "seeds": "100:108", "again": {"merit": 60.0, "seeds": "0:16"}}) == 50


def test_seal_is_judged_by_what_it_breaks_and_peers_are_not():
    seen = {"identity": 60.0, "pattern": 20.0, "structure": 0.5, "text": 0.4, "leak": 0.5}
    kind = seen | {"structure": 0.8, "text": 0.7, "leak": 0.0}
    for name in methods.SOURCES:
        assert tuning.merit(name, seen, NONE) == tuning.merit(name, kind, NONE) >= 60
    whole = tuning.merit("seal", kind, NONE)
    assert whole == 70 and tuning.merit("seal", seen, NONE) < whole - 30
    assert tuning.merit("seal", kind | {"structure": 0.785, "text": 0.68}, NONE) == whole
    assert tuning.merit("seal", kind | {"structure": 0.76}, NONE) < whole
    assert tuning.merit("seal", kind | {"leak": 0.1}, NONE) < whole
    assert tuning.merit("seal_conflict", {"conflict_success": 0.5, "others_identity": 20.0}, NONE) == 70


@pytest.fixture
def undrawn(monkeypatch):
    """The true bench without a model: a row gives the figures that it would be drawn with."""
    monkeypatch.setattr(tuning, "open_model", lambda: None)
    monkeypatch.setattr(tuning.Judge, "load", lambda: None)
    monkeypatch.setattr(tuning, "none", lambda stands: "none")
    monkeypatch.setattr(tuning, "make", lambda name, knobs, told: (name, knobs, told))
    monkeypatch.setattr(tuning, "figures", lambda columns, without: {k: {"value": v} for k, v in columns.items()})
    columns = {"identity": 20.0, "pattern": 8.0, "structure": 0.8, "text": 0.7, "leak": 0.0, "others_identity": 20.0}
    success, drawn = dict(zip(tuning.TOLD, (0.2, 0.4, 0.9), strict=True)), []

    def drawn_as(self, case, row):
        drawn.append((case, row))
        return columns | {"conflict_success": 0.0 if row == "none" else success[row[2]]}

    monkeypatch.setattr(tuning.Bench, "columns", drawn_as)
    return drawn


def test_a_trial_draws_its_case_and_a_conflict_every_kind_of_reference_prompt(undrawn):
    bench = tuning.Bench(range(100, 102))
    seen = bench.tried("seal", {"top_k": 4})
    assert undrawn == [("pose", "none"), ("pose", ("seal", {"top_k": 4}, tuning.TOLD[0]))]
    assert seen["merit"] == 24 and seen["figures"]["identity"] == seen["none"]["identity"] == 20
    bench.tried("masactrl", {})
    assert undrawn[2:] == [("pose", ("masactrl", {}, tuning.TOLD[0]))]  # what stands without a reference is drawn once
    seen = bench.tried("seal_conflict", {"lam": 2.0})
    assert undrawn[3:] == [("conflict", "none"), *(("conflict", ("seal", {"lam": 2.0}, told)) for told in tuning.TOLD)]
    assert seen["figures"]["conflict_success"] == pytest.approx(0.5) and seen["merit"] == pytest.approx(70)


def test_knobs_are_settings_with_pairs_of_tau_and_delta():
    made = methods.spelled({"tau": (0.6, 0.5), "delta": (1.0, 2.0), "lam": 3.0})
    assert made == {"tau_early": 0.6, "tau_late": 0.5, "delta_early": 1.0, "delta_late": 2.0, "lam": 3.0, "clamp": False}
    assert methods.spelled({"delta": (0.5, 1.0)})["clamp"] is True and "clamp" not in methods.spelled({"lam": 1.0})


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--methods", "magic"], "unknown method 'magic'"),
        (["--trials", "0"], "--trials must be"),
        (["--seeds", "5:5"], "empty"),
        (["--again", "90000:90024"], "out of range"),
    ],
)
def test_wrong_usage_is_one_sentence(argv, said, capsys, tmp_path):
    assert run(tuning.main, [*argv, "--json", str(tmp_path / "tuning.json")]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture(scope="module")
def committed():
    return {name: [trial for trial in methods.read_trials() if trial["method"] == name] for name in tuning.SPACES}


def test_the_committed_trials_are_of_these_weights_and_as_many_for_every_method(committed):
    assert {trial["weights"] for trial in methods.read_trials()} == {weights_name()}
    assert len(methods.read_trials()) == sum(map(len, committed.values()))
    assert {name: len(trials) for name, trials in committed.items()} == dict.fromkeys(tuning.SPACES, tuning.TRIALS)
    assert {name: knobs_of(trials[0]) for name, trials in committed.items()} == {
        name: tuning.next_knobs(name, 0, tuning.TRIALS, []) for name in tuning.SPACES
    }


def test_the_best_committed_trials_were_seen_again_on_enough_other_seeds(committed):
    assert set(committed) == set(tuning.SPACES)
    for name, trials in committed.items():
        best = sorted(trials, key=lambda trial: -trial["merit"])[: tuning.FINALISTS]
        assert all("again" in trial for trial in best), name
        looks = {trial["seeds"] for trial in trials}, {trial["again"]["seeds"] for trial in best}
        (first,), (again,) = ([seed_range(text, final=False, tuning=True) for text in look] for look in looks)
        assert min(len(first), len(again)) >= ENOUGH and not set(first) & set(again), name


@pytest.mark.parametrize("name", ["seal", "seal_conflict"])
def test_the_product_s_defaults_are_what_the_committed_tuning_found(name):
    found = methods.spelled(methods.best_knobs(name))
    assert found and {knob: getattr(methods.TUNED, knob) for knob in found} == found
