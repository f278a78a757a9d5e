"""Conditions are one change each, and a destroyed picture is told from a good one."""

import json

import pytest
import torch

from bench.cli import UserError, run
from bench.drawing import GUIDANCE, STEPS, Sampling, open_model
from bench.identity import conditions
from bench.identity.conditions import CONDITIONS, Condition, destroyed, usual_size
from bench.judge.reading import WEIGHTS, Judge
from bench.world.truth import correspondence
from seal_ext.studio.checkpoint import EMBEDDED


def test_every_condition_changes_one_thing():
    usual = CONDITIONS["default"]
    assert usual.how == Sampling(STEPS, GUIDANCE, "ddim")
    for condition in CONDITIONS.values():
        changed = [
            *(name for name in ("steps", "guidance", "sampler") if getattr(condition.how, name) != getattr(usual.how, name)),
            *(name for name in ("size", "batch", "settings") if getattr(condition, name) != getattr(usual, name)),
        ]
        assert len(changed) <= 1 or condition.name == "CFG 12, 4 steps"
        assert condition.usual == (not condition.settings)
    names = set(CONDITIONS)
    assert {"CFG 1", "CFG 12", "euler a", "unipc", "dpm++ 2m karras", "4 steps", "40 steps", "192 × 128 px", "256 × 256 px"} <= names
    assert {"batch of 4", "preset paper", "preset strong", "blend kv"} <= names


@pytest.mark.parametrize(
    ("lost", "sharp", "bad"), [(0.01, 1.0, False), (0.061, 1.0, True), (-0.3, 1.0, False), (0.0, 0.59, True), (0.0, 1.51, True)]
)
def test_what_destroys_a_picture(lost, sharp, bad):
    assert destroyed({"structure_loss": lost, "sharpness": sharp}) is bad


def test_a_task_of_another_size_is_the_same_task():
    task = next(CONDITIONS["default"].tasks(range(4)))
    for name, shape in (("192 × 192 px", (192, 192)), ("192 × 128 px", (128, 192))):
        other = next(CONDITIONS[name].tasks(range(4)))
        assert other.structure().shape[-2:] == other.reference.picture.image.shape[-2:] == shape
        assert [p.text for p in other.prompts] == [p.text for p in task.prompts]
        image = usual_size(other.reference.picture.image)
        assert image.shape[-2:] == (128, 128) and (image - task.reference.picture.image).abs().mean() < 0.02
        assert correspondence(other.reference.parts, task.reference.parts, 16, 16).visible.any()


def test_a_batch_is_one_case_with_other_noise():
    (task,) = CONDITIONS["batch of 4"].tasks(range(5, 6))
    assert len(task) == 4 and task.noises.tolist() == [5, 6, 7, 8] and task.seeds.tolist() == [5] * 4
    assert all(torch.equal(hint, task.structure()[0]) for hint in task.structure())
    assert all(torch.equal(image, task.truth().image[0]) for image in task.truth().image)


@pytest.fixture(scope="module")
def model():
    return open_model()


@pytest.mark.skipif(not ((EMBEDDED / "manifest.json").exists() and WEIGHTS.exists()), reason="the weights are not in this tree")
@pytest.mark.parametrize(("size", "batch", "count"), [((128, 128), 1, 2), ((64, 96), 2, 1)])
def test_a_condition_is_measured_beside_the_same_without_a_reference(monkeypatch, model, size, batch, count):
    seen, columns = [], conditions._columns

    def watched(*args):
        seen.append(columns(*args))
        return seen[-1]

    monkeypatch.setattr(conditions, "_columns", watched)
    before, condition = model.pipe.scheduler, Condition("tiny", Sampling(steps=2), size, batch)
    found, worst = conditions.measure(model, Judge.load(), condition, range(count))
    assert model.pipe.scheduler is before and model.how is None
    plain, own = (torch.tensor(part["structure"]) for part in seen)  # all pictures without a reference, then all with it
    lost = plain - own
    assert len(lost) == 2 and worst == pytest.approx(float(lost.max())) and worst > float(lost.mean())
    assert found["structure_loss"]["value"] == pytest.approx(float(lost.mean()))
    assert set(found) == {"identity", "structure_loss", "sharpness"} and found["identity"]["value"] != 0
    assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in found.values()) and found["sharpness"]["value"] > 0


@pytest.mark.skipif(not ((EMBEDDED / "manifest.json").exists() and WEIGHTS.exists()), reason="the weights are not in this tree")
def test_guidance_makes_the_prompt_stronger_and_not_the_reference(model):
    """From no guidance to more than anybody uses the figure keeps its place and nothing blurs or glares; up to much the character stays."""
    judge, identity = Judge.load(), {}
    for scale in (1.0, 4.0, 9.0, 15.0):
        found, _ = conditions.measure(model, judge, Condition(f"CFG {scale}", Sampling(5, scale)), range(300, 304))
        assert not destroyed({name: figure["value"] for name, figure in found.items()}), (scale, found)
        identity[scale] = found["identity"]["value"]
    # At 15 hardly anything of the character is left in some pictures, and the mean of so few says nothing.
    assert identity[1.0] > 20 and identity[4.0] > 20 and identity[9.0] > 5, identity


def test_the_report_names_what_is_destroyed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(conditions, "open_model", lambda: None)
    monkeypatch.setattr(conditions.Judge, "load", lambda: None)

    def measured(model, judge, condition, seeds):
        sharp = 0.2 if condition.name == "preset paper" else 1.0
        figures = (("identity", 30.0), ("structure_loss", 0.0), ("sharpness", sharp))
        return {key: {"value": v, "low": v, "high": v} for key, v in figures}, 0.4

    monkeypatch.setattr(conditions, "measure", measured)
    path = tmp_path / "made.json"
    assert conditions.main(["--only", "default,preset paper", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["conditions"]
    assert [(row["name"], row["destroyed"], row["usual"]) for row in rows] == [("default", False, True), ("preset paper", True, False)]
    # A single bad picture is told, and the mean decides.
    assert all((row["identity"], row["structure_loss"], row["worst"]) == (30.0, 0.0, 0.4) for row in rows)
    assert all(set(row["intervals"]) == {"identity", "structure_loss", "sharpness"} for row in rows)
    said = capsys.readouterr().out
    assert "DESTROYED" in said and "worst 0.400" in said


def test_wrong_usage_is_one_sentence(capsys):
    for argv in (["--seeds", "0:8"], ["--only", "CFG 99"], ["--seeds", "920000:920032"]):
        with pytest.raises(UserError):
            conditions.main(argv)
        assert run(conditions.main, argv) == 2 and capsys.readouterr().err.count("\n") == 1
