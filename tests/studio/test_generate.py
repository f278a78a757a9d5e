"""Drawing: with and without a reference, with and without a structure, and with the maps that explain it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from seal_ext.core.anchor_align import anchor_align
from seal_ext.core.cross_attention import asked, attention_on, places, subject_words
from seal_ext.core.mask import subject_of
from seal_ext.core.pixels import AlignError
from seal_ext.match_map import match_map
from seal_ext.reference import Reference
from seal_ext.settings import Settings
from seal_ext.studio import attention, generate
from seal_ext.studio.__main__ import main
from seal_ext.studio.cli import Cancelled, UserError, run
from seal_ext.studio.generate import Job
from seal_ext.studio.models import Studio

ON = Settings(enabled=True, tau_early=0.0, tau_late=0.0, show_match=True, show_disagreement=True)
JOB = Job("a red cat", size=(64, 64), steps=3, seeds=(0, 1))


@pytest.fixture
def reference(figure):
    return Reference(figure[0], subject=subject_of(figure[1], "drawn"))


def test_a_reference_changes_the_picture_and_what_is_left_is_plain(studio, reference):
    plain = generate.generate(studio, JOB, ON).images
    drawn = generate.generate(studio, JOB, ON, reference).images
    again = generate.generate(studio, JOB, ON).images
    assert all(image.shape == (64, 64, 3) and image.dtype == np.uint8 for image in drawn)
    assert all((a != b).any() for a, b in zip(plain, drawn, strict=True))
    assert all((a == b).all() for a, b in zip(plain, again, strict=True))


def test_no_picture_depends_on_the_batch(studio, reference):
    alone = generate.generate(studio, JOB, ON, reference).images
    together = generate.generate(studio, replace(JOB, batch=2), ON, reference).images
    assert all(np.abs(a.astype(int) - b.astype(int)).max() <= 1 for a, b in zip(alone, together, strict=True))


def test_maps_come_one_a_picture_and_only_on_request(studio, reference):
    job = replace(JOB, appearance_prompt="a blue dog", batch=2)
    shown = generate.generate(studio, job, ON, reference)
    assert [m.shape for m in shown.matches] == [(64, 64, 3)] * 2 == [m.shape for m in shown.disagreements]
    silent = generate.generate(studio, job, replace(ON, show_match=False, show_disagreement=False), reference)
    assert not silent.matches and not silent.disagreements
    assert all((a == b).all() for a, b in zip(shown.images, silent.images, strict=True))


def test_a_structure_steers(studio, reference):
    bars = np.zeros((64, 64, 3), np.uint8)
    bars[:, 20:40] = 255
    structure = anchor_align(None, bars, JOB.size, room=0.05, **ON.alignment())
    plain, steered = (generate.generate(studio, JOB, ON, reference, given).images[0] for given in (None, structure))
    assert (plain != steered).any()


def test_without_an_adapter_a_structure_is_refused(studio):
    with pytest.raises(UserError, match="--adapter"):
        generate.generate(
            Studio(studio.pipe),
            JOB,
            ON,
            structure=anchor_align(None, np.zeros((64, 64, 3), np.uint8), JOB.size, room=0.05, **ON.alignment()),
        )


def test_progress_rises_to_the_end_and_can_stop_the_run(studio, reference):
    shares = []
    generate.generate(studio, JOB, ON, reference, progress=lambda share, doing: shares.append(share))
    assert shares == sorted(shares) and shares[-1] == 1.0
    before = set(vars(studio.pipe)), set(vars(studio.pipe.unet))

    def stop(share, doing):
        if share > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        generate.generate(studio, JOB, ON, reference, progress=stop)
    assert (set(vars(studio.pipe)), set(vars(studio.pipe.unet))) == before


def test_the_match_map_shows_what_was_found():
    reference = torch.zeros(3, 32, 32)
    reference[0, :, 16:] = 1  # the right half is red
    mask = torch.zeros(32, 32)
    mask[:, 16:] = 1
    index = torch.arange(16) % 8  # of the eight tokens that the mask left
    amount = (torch.arange(16) < 8).float()
    shown = match_map(reference, mask, index, amount)
    assert (shown[:16] == (255, 0, 0)).all() and (shown[16:] == 96).all()


def test_the_command_writes_pictures_with_their_parameters_and_maps(studio, files, monkeypatch, capsys):
    monkeypatch.setattr(generate, "studio_of", lambda *given: studio)
    argv = ["generate", "--prompt", "a red cat", "--appearance-prompt", "a blue dog", "--steps", "3", "--size", "64", "--count", "2",
            "--maps", "--reference", str(files / "reference.png"), "--mask", str(files / "mask.png"),
            "--structure", str(files / "pose.png"),
            "--set", "tau_late=0.33", "--seed", "5", "--out", str(files / "out.png")]  # fmt: skip
    assert run(main, argv) == 0
    told = capsys.readouterr().out
    for name in ("1", "2", "1-match", "2-match", "1-disagreement", "mask", "aligned"):
        assert (files / f"out-{name}.png").exists() and f"out-{name}.png" in told
    with Image.open(files / "out-2.png") as image:
        assert "Seed: 6" in image.info["parameters"] and "SeAl tau late: 0.33" in image.info["parameters"]


@pytest.mark.parametrize(("option", "value"), [("--count", "0"), ("--steps", "0"), ("--cfg", "99"), ("--seed", "-1"), ("--size", "30")])
def test_numbers_out_of_range_are_said(studio, option, value, monkeypatch, capsys):
    monkeypatch.setattr(generate, "studio_of", lambda *given: studio)
    assert run(main, ["generate", "--prompt", "a red cat", option, value]) == 2
    assert option in capsys.readouterr().err


def test_words_of_the_subject():
    assert subject_words("a photo of a red cat, in the snow") == "a red cat"
    assert subject_words("a red cat, in the snow", "snow") == "snow"
    assert subject_words("masterpiece, best quality, 8k\nscore_9, raw photo, a knight in a forest, rain") == "a knight in a forest"
    for nothing in ("", "masterpiece, best quality", " ,\n"):
        with pytest.raises(AlignError, match="needs words"):
            subject_words(nothing)
    assert places([9, 1, 2, 3, 8], [2, 3]) == [2, 3]


def test_the_words_stand_in_the_prompt_or_are_shown_alone():
    """With the prompt's other words the model tells the subject from what else there is."""

    def tokens(text):
        return [900, *map(ord, text), *[901] * (20 - len(text))]

    assert asked("in red, a cat", "a cat", tokens) == ("in red, a cat", list(range(9, 14)))
    assert asked("a cat, in red", None, tokens) == ("a cat, in red", list(range(1, 6)))
    assert asked("a dog", "A cat", tokens) == ("A cat", list(range(1, 6)))
    assert asked("A cat", "a CAT", tokens) == ("a CAT", list(range(1, 6)))  # these tokens tell small letters from large ones
    assert asked("a cat, in red", None, lambda text: []) == ("a cat", [])


def test_attention_is_shared_among_positions():
    q, k = torch.randn(2, 2, 5, 8), torch.randn(2, 2, 4, 8)
    each = [attention_on(q, k, [i]) for i in range(4)]
    # The mean over positions and heads: all of them together are everything.
    assert torch.allclose(sum(each), torch.ones(5), atol=1e-6)
    assert torch.allclose(attention_on(q, k, [1, 2]), (each[1] + each[2]) / 2, atol=1e-6)
    assert torch.allclose(attention_on(q, k, []), sum(each[1:]) / 3, atol=1e-6)


def test_attention_gives_a_map_of_the_pictures_shape_and_leaves_no_hook(studio, figure):
    heat = attention.subject_heat(studio, figure[0][:, 20:100], "a red cat, running")
    assert heat.shape[0] / heat.shape[1] == pytest.approx(128 / 80, abs=0.1) and np.isfinite(heat).all()
    assert not any(m._forward_pre_hooks for m in studio.pipe.unet.modules())
    with pytest.raises(AlignError, match="not in the prompt"):
        places([9, 1, 2, 3, 8], [4])
