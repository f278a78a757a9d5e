"""Which units are aligned, as text and as ticks."""

import pytest

from seal_ext.settings import Settings, SettingsError
from seal_ext.units import Units


@pytest.mark.parametrize(("text", "wanted"), [("all", {0, 1, 2, 3}), ("all but 1", {0, 2, 3}), ("0, 2", {0, 2}), ("3", {3})])
def test_the_grammar(text, wanted):
    units = Units.parse(text)
    assert {number for number in range(4) if units.wants(number)} == wanted and Units.parse(str(units)) == units


@pytest.mark.parametrize("text", ["", "every", "-1", "1.5", "all 1", "all but", "but 1", "99", "²", "0 x"])
def test_anything_else_is_refused_by_name(text):
    with pytest.raises(SettingsError, match="ControlNet units") as refused:
        Settings.parse({"units": text})
    assert refused.value.name == "units"


def test_ticks_say_nothing_of_units_that_are_not_shown():
    assert str(Units().ticked([0, 1], [0, 1])) == "all" and str(Units().ticked([0, 1], [0])) == "all but 1"
    assert str(Units.parse("all but 2").ticked([0, 1], [1])) == "all but 0 2"
    assert str(Units.parse("all but 1").ticked([0, 1], [0, 1])) == "all"
    assert Units().ticked([0, 1], [0]).wants(2)
    assert str(Units.parse("0").ticked([0, 1], [0, 1])) == "all"
