"""The demo: its scenes are consistent without weights; with them it writes a whole page."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench import demo
from bench.cli import run
from bench.judge.reading import WEIGHTS
from bench.world.anatomy import REGION
from bench.world.sheet import to_bytes
from bench.world.words import COLOUR
from seal_ext.core.mask import subject_of
from seal_ext.reference import Reference
from seal_ext.studio.checkpoint import EMBEDDED
from seal_ext.studio.generate import Result


@pytest.fixture(scope="module")
def scenes():
    who, shot = demo.reference_shot(demo.CHARACTER)
    picture = to_bytes(shot.picture.image[0]).numpy()
    subject = subject_of((shot.picture.region[0] > 0).numpy(), "truth", every=True)
    return demo.scenes_of(demo.CHARACTER, who, Reference(picture, subject=subject))


def test_three_poses_and_two_prompts(scenes):
    assert len(scenes) == 6 and len({scene.pose for scene in scenes}) == 3
    for agrees, contradicts in zip(scenes[::2], scenes[1::2], strict=True):
        assert agrees.reference_prompt is None and contradicts.reference_prompt == agrees.prompt.text
        differing = set(contradicts.prompt.text.split()) ^ set(agrees.prompt.text.split())
        assert differing <= set(COLOUR) and len(differing) == 2


def test_the_truth_moves_with_the_structure(scenes):
    """The aligned skeleton lies on the figure of the truth that was moved, not on that of the truth as given."""
    for scene in scenes:
        joints = scene.aligned.map.max(2) > 200
        on, off = ((scene.truth(moved).region[0] > 0).numpy()[joints].mean() for moved in (True, False))
        assert on > 0.75 > off


def test_the_contradicting_truth_differs_only_where_the_prompt_does(scenes):
    agrees, contradicts = (scene.truth(True) for scene in scenes[:2])
    differs = (agrees.image != contradicts.image).any(1)[0]
    top = agrees.region[0] == REGION.index("top")
    # A quarter of a pixel of it may show two pixels from the next whole one.
    assert differs.any() and not (differs & ~torch.nn.functional.max_pool2d(top[None].float(), 5, 1, 2)[0].bool()).any()


def test_mistakes_cost_one_line(capsys, tmp_path):
    for argv in (["--character", "-1"], ["--steps", "1"], ["--model", str(tmp_path)], ["--character", "0", "--out", str(tmp_path)]):
        assert run(demo.main, argv) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def whole(folder, poses: int) -> bool:
    """Whether the page shows every picture of two prompts a pose, all of them are there, and no figure is missing."""
    html = (folder / "index.html").read_text(encoding="utf-8")
    named = re.findall(r'src="([^"]+)"', html)
    assert len(named) == 1 + poses * (2 * 8 + 1) and all((folder / name).exists() for name in named)
    return "http" not in html and not re.search(r">-?(nan|inf)<", html)


def test_the_demo_gets_from_the_character_to_the_page(monkeypatch, tmp_path):
    """All that the command does but the model's work: grey pictures, and an autoencoder that changes a little."""
    jobs = []

    def generate(studio, job, settings, reference, structure, progress, cache):
        jobs.append(job)
        progress(1.0, "drawn")
        grey = np.full((demo.SIZE, demo.SIZE, 3), 128, np.uint8)
        return Result([grey], [grey] if reference else [], [grey] if job.appearance_prompt and reference else [])

    monkeypatch.setattr(demo, "SCENES", demo.SCENES[:1])
    monkeypatch.setattr(demo, "generate", generate)
    monkeypatch.setattr(demo, "through_vae", lambda studio, image: (image + 0.01).clamp(0, 1))
    seen = []
    target = demo.make(demo.CHARACTER, 3, SimpleNamespace(guidance=4.0), None, tmp_path, lambda share, label: seen.append(share))
    assert target == tmp_path / "index.html" and whole(tmp_path, poses=1)
    assert len(jobs) == 2 * len(demo.METHODS) - 1 and all(job.prompt and job.steps == 3 for job in jobs)  # one needs no drawing
    assert seen == sorted(seen) and seen[-1] == 1


@pytest.mark.slow
@pytest.mark.skipif(not ((EMBEDDED / "manifest.json").exists() and WEIGHTS.exists()), reason="the weights are not in this tree")
def test_the_page_has_every_picture(tmp_path, capsys):
    assert run(demo.main, ["--steps", "3", "--out", str(tmp_path)]) == 0
    assert whole(tmp_path, poses=3) and "index.html" in capsys.readouterr().out
