"""Masks beside the truth: any folder, and what a hurried hand draws."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from bench.__main__ import main
from bench.cli import run
from bench.subjects_report import compared, posed_beside, rough_stroke
from seal_ext import detectors
from seal_ext.core.mask import subject_of
from seal_ext.core.pixels import AlignError
from seal_ext.core.skeleton import Skeleton


@pytest.fixture
def folder(tmp_path):
    """One figure before white, one whose truth has half the picture's size, and a mask without a picture."""
    for name, kind, shrink in (("anna", "jpg", 1), ("ben", "png", 2)):
        truth = cv2.ellipse(np.zeros((160, 120), np.uint8), (60, 80), (25, 60), 0, 0, 360, 255, -1)
        picture = np.where(truth[..., None] > 0, (30, 90, 160), (250, 250, 250)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{name}.{kind}", quality=95)
        Image.fromarray(truth).resize((120 // shrink, 160 // shrink)).save(tmp_path / f"{name}.mask.png")
    Image.new("L", (20, 20)).save(tmp_path / "nobody.mask.png")
    return tmp_path


def test_a_folder_of_pictures_is_measured(folder, capsys):
    out = folder / "figures.json"
    assert run(main, ["subjects", str(folder), "--alone", "--json", str(out)]) == 0
    told, printed = json.loads(out.read_text())["auto"], capsys.readouterr().out
    assert told["pictures"] == 2 and set(told["of"]) == {"anna", "ben"} and "mean IoU" in printed
    assert (
        told["iou"] > 0.95 and told["guesses"] == 0 and told["others_good"] == 1 and 0 < told["seconds"]["mean"] <= told["seconds"]["most"]
    )
    assert told["of"]["anna"]["source"] == "background" and told["of"]["anna"]["iou"] > 0.95


def test_joints_are_measured_where_they_are_known(folder, capsys, monkeypatch):
    """One picture's joints are found a little off, the other's are refused."""
    truth = [[0.5, 0.2 + 0.03 * joint] for joint in range(17)] + [None]
    (folder / "joints.json").write_text(json.dumps({"anna": truth, "ben": truth, "nobody": truth}))

    def find(rgb, subject):
        if rgb[0, 0, 0] == 250:
            return Skeleton(np.array([(place or (np.nan, np.nan)) for place in truth]) * (120, 160) + (0, 4.8))
        raise AlignError("It saw somebody else.")

    monkeypatch.setattr(detectors, "ways", lambda: {"planted": find})
    picture = np.asarray(Image.open(folder / "ben.png")).copy()
    picture[0] = 240
    Image.fromarray(picture).save(folder / "ben.png")
    out = folder / "figures.json"
    assert run(main, ["subjects", str(folder), "--alone", "--json", str(out)]) == 0
    told, printed = json.loads(out.read_text())["joints"], capsys.readouterr().out
    assert told["pictures"] == 2 and told["accepted"] == 1 and set(told["of"]) == {"anna", "ben"} and "joints of 1 of 2" in printed
    assert told["error"] == told["worst"] == pytest.approx(4.8 / (0.48 * 160), abs=1e-6) and "somebody else" in told["of"]["ben"]["why"]
    nothing = Skeleton(np.full((18, 2), np.nan))
    assert posed_beside(nothing, nothing, "").error is None


@pytest.mark.parametrize("given", ["nowhere", "."])
def test_a_folder_without_pictures_is_one_line(given, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(main, ["subjects", given]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_stroke_is_rough_and_mends_a_wrong_guess():
    tiles = np.array([(60, 90, 120), (110, 100, 80)], np.uint8)[np.indices((9, 7)).sum(0) % 2]
    picture = cv2.resize(tiles, (126, 162), interpolation=cv2.INTER_NEAREST)
    truth = cv2.ellipse(np.zeros((162, 126), np.uint8), (80, 80), (22, 60), 10, 0, 360, 1, -1) > 0
    picture[truth] = (230, 200, 60)
    stroke = rough_stroke(truth)
    assert 0.02 < stroke.sum() / truth.sum() < 0.25 and (stroke & truth).sum() > 0.95 * stroke.sum()
    wrong = np.zeros_like(truth)
    wrong[20:70, 10:60] = True
    found = compared(picture, truth, {"rembg": lambda rgb: subject_of(wrong, "rembg")}, {"rembg": lambda rgb: subject_of(wrong, "rembg")})
    assert found["auto"].iou < 0.3 and found["stroke"].iou > 0.9 and found["stroke"].source == "drawn"
