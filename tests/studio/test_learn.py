"""Learning on the command line: from a picture to a character that is drawn by its word; stopped, resumed, and refused."""

import json
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from seal_ext.learning import character as files
from seal_ext.studio import generate, learn
from seal_ext.studio.__main__ import main
from seal_ext.studio.cli import UserError, run
from seal_ext.studio.drawing import curves

QUICK = ["--set", "steps=4", "--set", "batch=2", "--samples", "2"]


@pytest.fixture
def here(studio, files, monkeypatch):
    checkpoint = files / "tiny.safetensors"
    checkpoint.write_bytes(b"weights")
    studio.checkpoint = checkpoint
    for module in (learn, generate):
        monkeypatch.setattr(module, "studio_of", lambda *given: studio)
    return files


def command(folder, *more, word="anna", kind="cat"):
    return ["learn", "--reference", str(folder / "reference.png"), "--mask", str(folder / "mask.png"), "--word", word, "--class", kind,
            "--out", str(folder / f"{word}.safetensors"), *QUICK, *more]  # fmt: skip


def test_a_picture_becomes_a_character_that_is_drawn_by_its_word(here, capsys):
    assert run(main, command(here, "--describe", "in the snow", "--licence", "mine", "--embedding")) == 0
    told = capsys.readouterr().out
    learned = files.read(here / "anna.safetensors")
    assert (learned.word, learned.kind, learned.licence, learned.base_name, learned.stages) == ("anna", "cat", "mine", "tiny", 5)
    assert learned.base == files.hash_of(here / "tiny.safetensors") and learned.settings["steps"] == 4
    log = [json.loads(line) for line in (here / "anna-log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3, 4] and all(line["loss"] > 0 for line in log)
    for name in ("anna-step-2.png", "anna-step-4.png", "anna-log.png", "anna-embedding.safetensors"):
        assert (here / name).exists() and (name.endswith("log.png") or name in told)
    assert not (here / "anna-state.safetensors").exists()
    drawn = {}
    for name, more in (("with", []), ("weak", ["=0"]), ("without", None)):
        given = [] if more is None else ["--character", str(here / "anna.safetensors") + "".join(more)]
        argv = ["generate", "--prompt", "a anna, running", "--steps", "3", "--size", "64", "--out", str(here / f"{name}.png"), *given]
        assert run(main, argv) == 0
        drawn[name] = np.array(Image.open(here / f"{name}.png"))
    assert (drawn["with"] != drawn["without"]).any() and (drawn["weak"] != drawn["with"]).any()


def test_it_is_stopped_and_goes_on_to_the_same_result(here, monkeypatch, capsys):
    assert run(main, command(here, word="whole")) == 0

    def stopped(*given):
        signal.raise_signal(signal.SIGINT)
        return step(*given)

    step = learn.Training._step
    with monkeypatch.context() as patch:
        patch.setattr(learn.Training, "_step", stopped)
        assert run(main, [*command(here, word="whole", kind="cat"), "--out", str(here / "parts.safetensors")]) == 130
    assert "stopped at step 1" in capsys.readouterr().out
    assert (here / "parts-state.safetensors").exists() and not (here / "parts.safetensors").exists()
    assert run(main, [*command(here, word="whole"), "--out", str(here / "parts.safetensors")]) == 0
    assert "going on from step 1" in capsys.readouterr().out
    whole, parts = (files.read(here / f"{name}.safetensors") for name in ("whole", "parts"))
    assert torch.equal(whole.pairs[0], parts.pairs[0])
    assert (here / "whole-log.jsonl").read_text() == (here / "parts-log.jsonl").read_text()


def test_a_lora_with_an_anchor_logs_its_distance(here):
    assert run(main, command(here, "--kind", "lora", "--set", "anchor=tuned", "--samples", "0")) == 0
    learned = files.read(here / "anna.safetensors")
    assert learned.lora and not learned.pairs
    log = [json.loads(line) for line in (here / "anna-log.jsonl").read_text().splitlines()]
    assert all(line["distance"] > 0 for line in log) and not list(here.glob("anna-step*"))


def test_what_the_user_should_know_is_said(here, studio, capsys):
    assert run(main, command(here, "--samples", "0")) == 0
    studio.checkpoint.write_bytes(b"other weights")
    argv = ["generate", "--prompt", "a cat", "--steps", "2", "--size", "64", "--character", str(here / "anna.safetensors"),
            "--out", str(here / "out.png")]  # fmt: skip
    assert run(main, argv) == 0
    told = capsys.readouterr().out
    assert "another checkpoint" in told and "does not say “anna”" in told


def test_half_precision_gives_way_to_one_with_room_for_gradients(here, studio, networks):
    before = networks[3].dtype
    for network in (*networks[:2], *networks[3:]):
        network.half()
    try:
        assert run(main, command(here, "--samples", "0")) == 0
        assert studio.pipe.unet.dtype == studio.adapter.dtype == torch.bfloat16
    finally:
        for network in (*networks[:2], *networks[3:]):
            network.to(before)
    assert torch.isfinite(files.read(here / "anna.safetensors").pairs[0]).all()


@pytest.mark.parametrize(("more", "says"), [
    (["--word", "a b"], "without a space"), (["--out", "x.pt"], ".safetensors"), (["--set", "steps=0"], "steps"),
    (["--set", "colour=red"], "colour"), (["--set", "steps"], "name=value"), (["--class", "x" * 100], "--class"),
    (["--reference-pose", "a.png", "b.png"], "one picture for each"), (["--set", "anchor=tuned"], "tuned anchor"),
])  # fmt: skip
def test_a_mistake_costs_one_line(here, capsys, more, says):
    assert run(main, command(here, *more)) == 2
    assert says in capsys.readouterr().err and not (here / "anna.safetensors").exists()


@pytest.mark.parametrize(("given", "says"), [
    (["x.safetensors"], "cannot be read"), (["x.pt"], ".safetensors"), (["x.safetensors=9"], "between 0 and 2"),
])  # fmt: skip
def test_a_character_that_cannot_be_used_is_refused(given, says):
    with pytest.raises(UserError, match=says):
        generate.read_characters(given)


def test_curves_show_every_figure():
    one = curves({"loss": [3.0, 2.0, 1.0]})
    two = curves({"loss": [3.0, 2.0, 1.0], "distance": [1.0] * 3})
    assert two.shape[0] == 2 * one.shape[0] and (two[: one.shape[0]] == one).all()
    assert one.std() > 0
