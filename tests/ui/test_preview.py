"""What the page shows before anything is drawn."""

import base64
import io
import json
from dataclasses import replace
from html import escape
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from seal_ext.core.anchor_align import OFF, UNKNOWN, UNREAD, anchor_align
from seal_ext.core.canvas import FILL, STRETCH
from seal_ext.core.mask import CHECK, subject_of
from seal_ext.core.pixels import AlignError
from seal_ext.core.skeleton import Skeleton, colour_of
from seal_ext.core.subject import AUTO
from seal_ext.finds import FOUND
from seal_ext.request import NAMES
from seal_ext.settings import BY_NAME
from seal_ext.ui.preview import FADED, NO_UNIT, look
from seal_ext.units import NO_CONTROLNET


def person(left, top, right, bottom, back=(200, 210, 220), colour=(200, 30, 40), size=64):
    image = Image.new("RGB", (size, size), back)
    ImageDraw.Draw(image).rectangle([left, top, right - 1, bottom - 1], fill=colour)
    return image


REFERENCE, MAP = person(24, 12, 40, 52), np.asarray(person(4, 10, 12, 30, "black", "white"))


def values(reference=REFERENCE, **more):
    given = {name: BY_NAME[name].default if name in BY_NAME else None for name in NAMES}
    return [(given | {"enabled": True, "reference": reference, "margin": 0.0} | more)[name] for name in NAMES]


class Host:
    """Finds a structure as the ControlNet adapter does, in units that are only a picture."""

    def __init__(self):
        self.reports = []

    def structures(self, units):
        return list(enumerate(units))

    def strange(self, units):
        return ""

    def there(self):
        return self

    def find(self, unit, reference, settings, canvas, detail, now):
        self.now = now
        if unit.image is None:
            raise AlignError("it has no picture.")
        subject = reference.standing if settings.align else None
        return anchor_align(subject, unit.image, canvas, STRETCH, FILL, None, detail, room=0.0, **settings.alignment())

    def segmenting(self, reference):
        return {"controlnet": lambda rgb: subject_of(rgb[..., 0] > 190, "controlnet")}

    def has_picture(self, unit):
        return unit.image is not None

    def waits(self, units):
        return None

    def refused(self, units, settings):
        return ""

    def report(self, what):
        self.reports.append(what)


def unit(image=MAP, module="none", model="some_t2ia [0123]"):
    return SimpleNamespace(image=image, module=module, model=model)


def opened(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))))


def test_the_subject_is_opaque_and_the_rest_faded():
    seen = look(values(), (64, 64), [], Host())
    base = opened(json.loads(seen.picture)["base"])
    told = "SeAl told your character from the even background. SeAl is 100% sure of this outline."
    assert base.shape == (512, 512, 4) and seen.told == (told, NO_UNIT)
    assert not seen.warned and json.loads(seen.picture)["lies"] == [0, 0, 64, 64]
    assert base[256, 256, 3] == 255 and abs(int(base[20, 20, 3]) - FADED) <= 1
    assert np.abs(base[256, 256, :3].astype(int) - (200, 30, 40)).max() < 4


def test_the_whole_reference_is_seen_where_all_of_it_counts():
    base = opened(json.loads(look(values(mask_source="whole"), (64, 64), [], Host()).picture)["base"])
    assert base[..., 3].min() == 255


def test_a_reference_of_another_shape_has_bars_that_are_not_seen():
    base = opened(json.loads(look(values(mask_source="whole"), (128, 64), [], Host()).picture)["base"])
    assert base.shape[1] == min(768, 2 * base.shape[0]) and base[200, 10, 3] == 0 and base[200, base.shape[1] // 2, 3] == 255


def test_boxes_and_map_are_in_the_canvas_without_the_hand():
    plain, by_hand = (json.loads(look(values(hand_x=x), (64, 64), [unit()], Host()).picture)["units"][0] for x in (0.0, 0.4))
    assert plain == by_hand
    assert np.allclose(plain["reference"], (24, 12, 40, 52)) and np.allclose(plain["before"], (4, 10, 12, 30))
    assert np.abs(np.subtract(plain["after"], (24, 12, 40, 52))).max() <= 1 and np.allclose(plain["anchor"], (32, 52), atol=1)
    drawn = opened(plain["map"])
    rows, columns = np.nonzero(drawn[..., 3])
    assert np.abs(np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 8 - (24, 12, 40, 52)).max() <= 1


@pytest.mark.parametrize(("given", "units", "said"), [
    (dict(reference=None), [], "missing"), (dict(lam="much"), [], "λ must be a number"),
    (dict(mask_source="drawn"), [], "Mask: No mask was drawn"),
    ({}, [unit(None)], "stays where it is: it has no picture"), ({}, [unit(module="openpose")], "press Update preview"),
    (dict(strokes="[[]]"), [], "Strokes is no list of strokes."),
])  # fmt: skip
def test_what_is_not_seen_is_said(given, units, said):
    seen = look(values(**given), (64, 64), units, Host())
    assert said in " ".join((*(one.said for one in seen.warned), *seen.told)) and escape(said.split("(")[0]) in seen.html
    assert not json.loads(seen.picture).get("units") and [number for number, _ in seen.units] == json.loads(seen.picture)["shown"]


@pytest.mark.parametrize(("given", "said"), [(dict(align=False), OFF), (dict(mask_source="whole"), UNKNOWN)])
def test_a_unit_that_stays_is_seen_where_it_is(given, said):
    seen = look(values(**given), (64, 64), [unit()], Host())
    (stays,) = json.loads(seen.picture)["units"]
    rows, columns = np.nonzero(opened(stays["map"])[..., 3])
    assert stays["stays"] and "after" not in stays and " ".join(seen.told).count(said) == 1
    assert np.abs(np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 8 - (4, 10, 12, 30)).max() <= 1


def test_what_has_to_be_looked_at_is_a_warning():
    busy = Image.fromarray(np.random.default_rng(0).integers(0, 160, (8, 8, 3), np.uint8)).resize((64, 64), Image.Resampling.NEAREST)
    ImageDraw.Draw(busy).rectangle([24, 12, 39, 51], fill=(220, 30, 40))
    seen = look(values(busy, mask_source="grabcut"), (64, 64), [], Host())
    (notice,) = seen.warned
    assert CHECK in notice.said and seen.html.startswith('<p class="seal-said">') and 'data-cure="paint">Outline the' in seen.html
    chosen = look(values(busy, mask_source="whole"), (64, 64), [], Host())
    assert not chosen.warned and "You chose the whole picture" in chosen.told[0]


def test_strokes_correct_the_outline():
    stroke = [{"away": False, "radius": 0.03, "points": [[0.5, 0.3], [0.5, 0.7]]}]
    seen = look(values(strokes=json.dumps(stroke)), (64, 64), [], Host())
    assert seen.told[0] == FOUND["drawn"] and opened(json.loads(seen.picture)["base"])[20, 20, 3] <= FADED + 1


def test_every_way_has_its_sentence():
    assert set(AUTO) - {"asked"} | {"drawn", "whole"} == set(FOUND)


def test_a_thorough_look_runs_preprocessors():
    host = Host()
    assert json.loads(look(values(), (64, 64), [unit(module="openpose")], host, thorough=True).picture)["units"] and host.now
    assert json.loads(look(values(), (64, 64), [unit()], host).picture)["units"] and not host.now  # nor detectors that take seconds
    for thorough, there in ((False, False), (True, True)):  # nor ControlNet's segmenters
        seen = look(values(mask_source="controlnet"), (64, 64), [], Host(), thorough)
        assert any("no files of a segmentation" in notice.said for notice in seen.warned) != there


def test_the_reference_s_joints_are_drawn(monkeypatch):
    """Thin, on what else the preview shows, whether they were given or found."""
    plain = opened(json.loads(look(values(), (64, 64), [unit()], Host()).picture)["base"])
    places = np.full((18, 2), np.nan)
    places[1], places[8] = (32, 20), (32, 40)  # neck and hip
    host, find = Host(), Host.find
    monkeypatch.setattr(Host, "find", lambda self, unit, reference, *more, **now: find(
        self, unit, replace(reference, pose=Skeleton(places)), *more, **now))  # fmt: skip
    base = opened(json.loads(look(values(), (64, 64), [unit()], host).picture)["base"])
    differs = (base != plain).any(2)
    rows, columns = np.nonzero(differs)
    assert (
        0 < differs.mean() < 0.02
        and abs(columns.mean() / 8 - 32) < 0.5
        and np.abs(np.array([rows.min(), rows.max()]) / 8 - (20, 40)).max() < 1
    )
    assert tuple(base[240, 256]) == (*colour_of(6), 255)


def test_units_without_a_tick_are_named_and_not_drawn():
    seen = look(values(units="all but 0"), (64, 64), [unit(), unit()], Host())
    assert [one["number"] for one in json.loads(seen.picture)["units"]] == [1]
    assert seen.units == ((0, "0: some_t2ia"), (1, "1: some_t2ia"))


def test_a_unit_that_follows_img2img_is_said_to():
    assert "follows the picture of img2img" in look(values(), (64, 64), [unit(None)], Host(), img2img=True).told[1]


def test_an_error_is_reported_and_said():
    host = Host()
    host.find = lambda *given, **more: 1 / 0
    assert "ZeroDivisionError" in look(values(), (64, 64), [unit()], host).warned[0].said and host.reports


def test_units_of_an_unknown_controlnet_are_said():
    host = Host()
    host.there, host.strange = lambda: None, lambda units: "Nobody knows these."
    assert look(values(), (64, 64), [unit()], host).told[1:] == ("Nobody knows these.",)


def noticed(units, host=None, **given):
    return look(values(**given), (64, 64), units, host or Host()).warned


def test_without_a_controlnet_nobody_is_asked_to_enable_a_unit():
    host = Host()
    host.there = lambda: None
    seen = look(values(), (64, 64), [], host)
    assert seen.told[1:] == (NO_CONTROLNET,) and "nable" not in seen.html and not seen.warned


def test_a_unit_that_only_has_to_be_enabled_is_named_with_the_button_that_does_it():
    host = Host()
    host.structures, host.waits = (lambda units: []), (lambda units: 1)
    (notice,) = noticed([unit(), unit()], host)
    assert "unit 1 has a picture and is not enabled" in notice.said
    assert '<button type="button" data-cure="enable" data-unit="1">Enable unit 1</button>' in notice.html


def test_what_would_have_no_effect_is_a_notice_before_anything_is_drawn():
    (notice,) = noticed([unit(model="None")])
    assert notice.said.startswith("ControlNet unit 0 has no model") and (notice.cure, notice.unit) == ("unit", 0)
    (notice,) = noticed([unit(np.zeros((64, 64, 3), np.uint8))])  # nobody is on it
    assert "unit 0 stays where it is" in notice.said and notice.cure == "unit"
    host = Host()
    host.refused = lambda units, settings: "Delta-Bridge is off."
    assert [one.said for one in noticed([unit()], host)] == ["Delta-Bridge is off."]


def test_a_pose_on_which_no_body_is_seen_is_a_notice():
    host, blob = Host(), np.asarray(person(4, 10, 12, 30, "black", "white"))
    body = Skeleton(np.where(np.arange(18)[:, None] < 3, [[32.0, 20.0]], np.nan))

    def find(given, reference, settings, canvas, detail, now):
        standing = replace(reference.standing, skeleton=body)
        return anchor_align(standing, blob, canvas, STRETCH, FILL, "skeleton", detail, room=0.0, **settings.alignment())

    host.find = find
    (notice,) = noticed([unit()], host)
    assert UNREAD in notice.said and notice.label == "Show unit 0"


@pytest.mark.parametrize(("source", "outlined"), [("auto", True), ("whole", False)])
def test_only_an_outline_that_is_there_has_a_legend(source, outlined):
    assert json.loads(look(values(mask_source=source), (64, 64), [], Host()).picture)["outlined"] is outlined


def test_switched_off_it_looks_at_nothing():
    seen = look(values("no picture", enabled=False), (64, 64), [unit()], Host())
    assert not seen.told and not seen.warned and "base" not in json.loads(seen.picture)


def test_what_is_said_is_text():
    assert "<b>" not in look(values(blocks="<b>"), (64, 64), [], Host()).html


@pytest.mark.parametrize("canvas", [(8, 4096), (None, 64), (10**9, 10**9), (-5, 3)])
def test_no_canvas_is_too_much(canvas):
    seen = opened(json.loads(look(values(), canvas, [], Host()).picture)["base"])
    assert max(seen.shape[:2]) <= 768
