"""Learned characters, measured: what is asked of them, every method through to its figures, and parts that are kept."""

import json

import pytest
import torch

from bench import drawing
from bench.identity import measurement
from bench.judge.network import Network
from bench.judge.reading import Judge
from bench.learn import report, trained
from bench.learn.tasks import beside, kind_of, saying, task_of
from bench.seeds import FINAL

FIGURES = {"identity", "pattern", "text", "leak", "drift", "minutes", "memory_mb"}


def test_every_picture_shows_the_character_of_the_reference_in_another_pose_and_place():
    task = task_of(3, 6)
    reference = task.reference
    assert len(task) == 6 and len(set(task.seeds.tolist())) == 6
    assert (task.poses.family != reference.poses.family).all() and (task.settings.background != reference.settings.background).all()
    for name in ("kind", "hair", "top", "top_colour", "coat_colour"):
        assert len(set(getattr(task.identities, name).tolist())) == 1
    assert torch.equal(reference.picture.image[0], reference.picture.image[5])
    assert task.structure().shape == (6, 3, 128, 128)
    assert torch.equal(task_of(3, 2).truth().image, task.truth().image[:2])  # more pictures change none


def test_the_character_is_called_by_its_word_and_all_else_is_said_as_before():
    task = task_of(3, 2)
    named = saying(task, "anna")
    for before, after in zip(task.prompts, named.prompts, strict=True):
        assert after.text == before.text.replace(kind_of(task), "anna") != before.text and after.facts == before.facts
    assert len(beside(task).split(", ")) == 3 and kind_of(task) not in beside(task)


@pytest.fixture
def small(model, monkeypatch, tmp_path):
    torch.manual_seed(0)
    judge = Judge(Network())
    monkeypatch.setattr(drawing, "STEPS", 2)
    monkeypatch.setattr(report, "open_model", lambda: model)
    monkeypatch.setattr(report.Judge, "load", lambda: judge)
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_method_gets_through_to_its_figures(small):
    seeds = range(2, 3)
    found = report.measure(list(report.METHODS), seeds, pictures=1, steps=1)
    assert set(found["methods"]) == set(report.METHODS) == {
        "none", "inversion", "inversion_loss", "stages", "stages_loss", "lora", "lora_anchored", "lora_anchored_tuned", "infusion",
        "stages_infusion", "lora_infusion",
    }  # fmt: skip
    for name, figures in found["methods"].items():
        assert set(figures) == FIGURES and all(set(figure) == {"value", "low", "high"} for figure in figures.values())
        assert (figures["minutes"]["value"] > 0) == bool(report.METHODS[name].training)
    assert found["methods"]["none"]["identity"]["value"] == 0
    assert all(found["methods"][name]["drift"]["value"] == 0 for name in ("stages", "stages_loss", "inversion", "infusion"))
    assert found["methods"]["lora"]["drift"]["value"] > 0
    assert len(found["paired"]) == len(report.COMPARED) and len(list(small.rglob("*.png"))) == len(report.METHODS)


def test_what_was_measured_is_read_again(small, monkeypatch):
    first = report.measure(["inversion"], range(2, 3), pictures=2, steps=1)
    monkeypatch.setattr(report, "open_model", None)  # nothing is drawn any more
    assert report.measure(["inversion"], range(2, 3), pictures=2, steps=1) == first


def test_a_training_that_was_done_is_not_done_again(small, model, monkeypatch):
    task, path = task_of(2, 1), small / "character.safetensors"
    how = trained.replace(trained.TRAININGS["stages_loss"], steps=2)
    first = trained.learned(model, task, "stages_loss", how, path)
    monkeypatch.setattr(trained, "Training", None)
    again = trained.learned(model, task, "stages_loss", how, path)
    assert torch.equal(first.character.pairs[0], again.character.pairs[0]) and first.memory == again.memory > 0
    assert len(json.loads(path.with_suffix(".json").read_text())["log"]) == 2


def test_a_training_that_was_broken_off_goes_on(small, model, monkeypatch):
    task, how = task_of(2, 1), trained.replace(trained.TRAININGS["stages_loss"], steps=3)
    whole = trained.learned(model, task, "stages_loss", how, small / "whole" / "character.safetensors")
    monkeypatch.setattr(trained, "PART", 1)
    parts, step = small / "parts" / "character.safetensors", trained.Training._step

    def broken(self, number):
        if number == 2 and not kept:
            kept.append(number)
            raise KeyboardInterrupt
        return step(self, number)

    kept = []
    monkeypatch.setattr(trained.Training, "_step", broken)
    with pytest.raises(KeyboardInterrupt):
        trained.learned(model, task, "stages_loss", how, parts)
    assert (parts.parent / "state.safetensors").exists() and not parts.exists()
    found = trained.learned(model, task, "stages_loss", how, parts)
    assert torch.equal(found.character.pairs[0], whole.character.pairs[0]) and not (parts.parent / "state.safetensors").exists()


def test_a_draw_of_test_seeds_is_counted_first(small, monkeypatch):
    monkeypatch.setattr(measurement, "DRAWS", small / "final.json")
    monkeypatch.setattr(report, "Bench", None)
    with pytest.raises(TypeError):
        report.measure(["none"], FINAL[:1])
    assert json.loads(measurement.DRAWS.read_text())[0]["seeds"] == [FINAL.start, FINAL.start + 1]
