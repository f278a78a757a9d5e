"""The page's buttons, without a browser; the page itself where gradio is installed."""

from importlib.util import find_spec

import pytest

from seal_ext.settings import PRESETS, SettingsError
from seal_ext.studio import page as module
from seal_ext.studio.__main__ import main
from seal_ext.studio.cli import Cancelled, UserError, run
from seal_ext.studio.page import JOB, PICTURES, Page, build, shown_settings


@pytest.fixture
def page(studio):
    return Page(studio)


@pytest.fixture
def values(files):
    pictures = {name: str(files / f"{'pose' if name == 'structure' else name}.png") for name in PICTURES}
    job = dict(prompt="a red cat", negative="", kind="silhouette", size="64x64", steps=2, guidance=4.0, seed=0, count=1)
    assert set(job) == set(JOB)
    return {**pictures, **job, **{setting.name: setting.default for setting in shown_settings()}}


def test_the_preview_shows_mask_and_alignment_without_drawing(page, values):
    shown = page.preview(values)
    assert shown.mask is not None and shown.alignment is not None and not shown.pictures
    assert any(line.startswith("Aligned: 2.0") for line in shown.told)
    with pytest.raises(UserError, match="reference"):
        page.preview({**values, "reference": None})


def test_drawing_gives_pictures_with_their_maps_and_reads_the_reference_once(page, values):
    ready = []
    shown = page.draw({**values, "tau_early": 0.0, "tau_late": 0.0, "count": 2}, lambda share, doing: ready.append(share))
    assert len(shown.pictures) == len(shown.matches) == 2 and ready[-1] == 1.0
    passes = page.cache.counts.passes
    page.draw({**values, "tau_early": 0.0, "tau_late": 0.0, "seed": 7}, lambda share, doing: None)
    assert page.cache.counts.passes == passes


def test_cancel_stops_the_run_and_the_next_one_runs(page, values):
    with pytest.raises(Cancelled):
        page.draw(values, lambda share, doing: page.stop.set())
    assert page.draw(values, lambda share, doing: None).pictures


def test_without_a_reference_it_is_the_plain_model(page, values):
    shown = page.draw({**values, "reference": None, "mask": None, "structure": None}, lambda share, doing: None)
    assert len(shown.pictures) == 1 and not shown.matches


def test_another_preset_moves_what_nobody_changed(page, values):
    names = [setting.name for setting in shown_settings()]
    moved = dict(zip(names, page.preset({**values, "preset": "free", "tau_late": 0.33}, "balanced"), strict=True))
    assert (moved["preset"], moved["start"], moved["tau_late"]) == ("free", PRESETS["free"]["start"], 0.33)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"count": 99}, {"steps": 0}, {"size": "x"}, {"reference": "nowhere.png"}])
def test_what_cannot_be_drawn_is_said(page, values, wrong):
    with pytest.raises(UserError):
        page.draw({**values, **wrong}, lambda share, doing: None)


def test_what_a_setting_cannot_be_is_said(page, values):
    with pytest.raises(SettingsError, match=r"^Blocks cannot be read"):
        page.preview({**values, "blocks": "nowhere"})


def test_gradio_is_asked_for_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert run(main, ["page"]) == 2
    assert "pip install gradio" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")
def test_the_page_has_a_control_for_every_setting(page):
    import gradio

    labels = {getattr(block, "label", None) for block in build(gradio, page).blocks.values()}
    assert {setting.label for setting in shown_settings()} <= labels
