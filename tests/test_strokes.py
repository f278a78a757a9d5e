"""What the page's brush paints, as Python reads it."""

import json

import numpy as np
import pytest

from seal_ext import strokes
from seal_ext.core.control_map import WORK_PIXELS
from seal_ext.core.pixels import AlignError
from seal_ext.strokes import strokes_on

SIZE = (40, 80)
LINE = {"away": False, "radius": 0.05, "points": [[0.25, 0.5], [0.75, 0.5]]}


def test_a_stroke_is_as_wide_as_its_brush_and_lies_where_it_was_painted():
    painted = strokes_on(SIZE, json.dumps([LINE]))
    rows, columns = np.nonzero(painted.add)
    assert abs(rows.min() - 16) <= 1 and abs(rows.max() - 23) <= 1 and abs(columns.min() - 16) <= 1 and abs(columns.max() - 63) <= 1
    assert painted.add.shape == SIZE and not painted.away.any()


def test_of_two_strokes_over_one_place_the_later_one_counts():
    away = LINE | {"away": True, "points": [[0.5, 0.0], [0.5, 1.0]]}
    first, last = strokes_on(SIZE, json.dumps([away, LINE])), strokes_on(SIZE, json.dumps([LINE, away]))
    assert first.add[20, 40] and not first.away[20, 40] and last.away[20, 40] and not last.add[20, 40]
    assert first.away[2, 40] and last.add[20, 20]


def test_a_click_is_a_spot_and_nothing_is_nothing():
    assert strokes_on(SIZE, json.dumps([LINE | {"points": [[0.5, 0.5]]}])).add[19:21, 39:41].all()
    assert strokes_on(SIZE, "") is None and strokes_on(SIZE, None) is None and strokes_on(SIZE, "[]") is None


def test_on_a_large_picture_they_are_painted_small():
    large = strokes_on((4000, 8000), json.dumps([LINE]))
    assert large.add.size <= 1.01 * WORK_PIXELS and large.add.shape == large.away.shape
    small = strokes_on(SIZE, json.dumps([LINE])).add
    assert large.add.mean() == pytest.approx(small.mean(), rel=0.1)


@pytest.mark.parametrize("given", [
    7, ["a"], "{", "7", "[7]", "[[]]", "[{}]", json.dumps([LINE | {"points": []}]), json.dumps([LINE | {"points": [[0.5]]}]),
    json.dumps([LINE | {"points": [[0.5, "0"]]}]), json.dumps([LINE | {"points": [[0.5, True]]}]), json.dumps([LINE | {"radius": -1}]),
    json.dumps([LINE | {"radius": 9}]), '[{"radius": NaN, "points": [[0.5, 0.5]]}]', '[{"radius": 0.1, "points": [[Infinity, 0.5]]}]',
    "[" * 100_000, " " * (strokes.MOST_TEXT + 1), json.dumps([LINE] * (strokes.MOST_STROKES + 1)),
    json.dumps([LINE | {"points": [[0.5, 0.5]] * (strokes.MOST_POINTS + 1)}]),
])  # fmt: skip
def test_anything_else_is_refused(given):
    with pytest.raises(AlignError):
        strokes_on(SIZE, given)
