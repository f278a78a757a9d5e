"""The X/Y/Z plot's axes beside a stand-in of the plot: every setting that has one, its values parsed by the table, and no shared state."""

import copy
import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from seal_ext.reference import Reference
from seal_ext.request import Request
from seal_ext.settings import BY_NAME, TABLE, Settings, SettingsError


class AxisOption:
    """As the plot has it; other options inherit from it."""

    def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None):
        self.label, self.type, self.apply, self.format_value, self.confirm = label, type, apply, format_value, confirm
        self.cost, self.choices, self.prepare = cost, choices, prepare


@pytest.fixture
def plot():
    return SimpleNamespace(AxisOption=AxisOption, axis_options=[AxisOption("Seed", int, None)])


@pytest.fixture
def xyz(plot, monkeypatch):
    """The module under test, imported as in the host."""
    scripts = ModuleType("modules.scripts")
    scripts.scripts_data = [
        SimpleNamespace(module=SimpleNamespace(), script_class=SimpleNamespace(__module__="prompt_matrix.py")),
        SimpleNamespace(module=plot, script_class=SimpleNamespace(__module__="xyz_grid.py")),
    ]
    package = ModuleType("modules")
    package.scripts = scripts
    monkeypatch.setitem(sys.modules, "modules", package)
    monkeypatch.setitem(sys.modules, "modules.scripts", scripts)
    monkeypatch.delitem(sys.modules, "seal_ext.hosts.webui.xyz", raising=False)
    yield importlib.import_module("seal_ext.hosts.webui.xyz")
    sys.modules.pop("seal_ext.hosts.webui.xyz", None)


def values(option, given):
    """What the plot makes of a line of text, or of what was chosen in a list."""
    listed = given if isinstance(given, list) else option.prepare(given) if option.prepare else [part.strip() for part in given.split(",")]
    return [option.type(value) for value in listed]


def axis(xyz, name):
    return next(o for o in xyz.axes(AxisOption) if o.label == "[SeAl] " + BY_NAME[name].label)


def request(**settings):
    return Request(Settings.parse({"enabled": True} | settings), (Reference(np.zeros((16, 16, 3), np.uint8)),))


def test_every_setting_with_an_axis_is_one_and_once(xyz, plot):
    for _ in range(2):  # the page may be reloaded
        xyz.register()
        own = [option.label for option in plot.axis_options if option.label.startswith("[SeAl] ")]
        assert own[: len(own)] == [o.label for o in xyz.axes(AxisOption)] and len(set(own)) == len(own)
    assert {f"[SeAl] {s.label}" for s in TABLE if s.axis} <= set(own)
    for name in ("strength", "preset", "align", "bridge", "blocks", "top_k", "filter"):
        assert f"[SeAl] {BY_NAME[name].label}" in own


@pytest.mark.parametrize(("name", "given", "wanted"), [
    ("strength", "0.5, 1", [0.5, 1.0]), ("strength", "0-1 (+0.25)", [0, 0.25, 0.5, 0.75, 1]), ("strength", "0-1 [3]", [0, 0.5, 1]),
    ("tau_early", "0.7-1 (+0.1)", [0.7, 0.8, 0.9, 1.0]), ("top_k", "1-3", [1, 2, 3]), ("top_k", "0, 4-8(+2)", [0, 4, 6, 8]),
    ("strength", " 1 ,, ", [1.0]), ("bridge", ["on", "off"], [True, False]), ("filter", ["average"], ["average"]),
    ("blocks", "mid, up.0-3:0.5", ["mid", "up.0-3:0.5"]),
])  # fmt: skip
def test_values_as_the_plot_gives_them(xyz, name, given, wanted):
    found = values(axis(xyz, name), given)
    assert found == wanted and all(type(value) is BY_NAME[name].kind for value in found)


@pytest.mark.parametrize(("name", "given"), [
    ("strength", "much"), ("strength", "9"), ("strength", "-1"), ("strength", "nan"), ("strength", ""), ("strength", "1-9"),
    ("strength", "2-1"), ("strength", "0-1 (+0)"), ("strength", "0-1 [0]"), ("strength", "0-1 [99999]"), ("top_k", "1.5"),
    ("top_k", "0-4096"), ("bridge", ["maybe"]), ("filter", ["coffee"]), ("blocks", "cellar"),
])  # fmt: skip
def test_a_wrong_value_is_one_sentence_that_names_the_setting(xyz, name, given):
    with pytest.raises(SettingsError, match=BY_NAME[name].label) as refused:
        values(axis(xyz, name), given)
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")


def test_a_cell_changes_what_was_asked_for_and_no_other_cell(xyz):
    p, asked = SimpleNamespace(), request(strength=0.3)
    strength, bridge = axis(xyz, "strength"), axis(xyz, "bridge")
    cells = []
    for value, on in ((1.0, True), (2.0, False)):
        cell = copy.copy(p)
        strength.apply(cell, value, [])
        bridge.apply(cell, on, [])
        cells.append(cell)
    seen = [xyz.changed(cell, asked).settings for cell in (*cells, p)]
    assert [(s.strength, s.bridge) for s in seen] == [(1.0, True), (2.0, False), (0.3, True)]
    # A plot within a copy of another cell: the first keeps what it has.
    inner = copy.copy(cells[0])
    strength.apply(inner, 0.0, [])
    assert xyz.changed(cells[0], asked).settings.strength == 1.0
    assert xyz.changed(inner, asked).references is asked.references


def test_a_preset_moves_what_nobody_changed(xyz):
    p = SimpleNamespace()
    axis(xyz, "preset").apply(p, "free", [])
    axis(xyz, "delta_late").apply(p, 0.35, [])
    made = xyz.changed(p, request(tau_early=0.93)).settings
    assert made == Settings.parse({"enabled": True, "preset": "free", "delta_late": 0.35, "tau_early": 0.93})


@pytest.fixture
def store(xyz, tmp_path, monkeypatch):
    """A store with one reference, and files beside it that are none."""
    from seal_ext.hosts.webui import process_state
    from seal_ext.store import Store

    monkeypatch.setattr(process_state, "store", Store(tmp_path / "kept", lambda: 1 << 20))
    asked = Reference(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))
    process_state.remember(asked)
    (tmp_path / "kept" / "mine.png").write_bytes((tmp_path / "kept" / f"{asked.hash}.png").read_bytes())
    (tmp_path / "outside.png").write_bytes((tmp_path / "kept" / f"{asked.hash}.png").read_bytes())
    return asked


def test_a_reference_of_the_store_by_its_hash_or_file_name(xyz, store):
    option, p = xyz.axes(AxisOption)[-1], SimpleNamespace()
    assert option.label == "[SeAl] Reference" and option.choices() == [store.hash]
    for given in (store.hash, f" {store.hash}.png"):
        (name,) = values(option, [given])
        option.apply(p, name, [])
        (used,) = xyz.changed(p, request()).references
        assert np.array_equal(used.rgb, store.rgb)


@pytest.mark.parametrize("given", ["mine", "../outside", "../outside.png", "/etc/passwd", "", "0" * 16, "*"])
def test_nothing_but_the_store_can_be_named(xyz, store, given):
    with pytest.raises(SettingsError, match=r"Reference.*store.*\.$"):
        values(xyz.axes(AxisOption)[-1], [given])


def test_a_reference_that_is_gone_by_then_is_refused(xyz, store, tmp_path):
    p = SimpleNamespace()
    xyz.axes(AxisOption)[-1].apply(p, store.hash, [])
    (tmp_path / "kept" / f"{store.hash}.png").unlink()
    with pytest.raises(SettingsError, match="no longer"):
        xyz.changed(p, request())


def test_values_that_cannot_be_together_are_refused(xyz):
    p = SimpleNamespace()
    axis(xyz, "start").apply(p, 0.9, [])
    with pytest.raises(SettingsError, match="Start must come before End"):
        xyz.changed(p, request(end=0.2))


def test_an_axis_of_seal_needs_seal(xyz):
    p = SimpleNamespace()
    assert not xyz.changed(p, Request(Settings())).settings.enabled
    axis(xyz, "strength").apply(p, 0.9, [])
    with pytest.raises(SettingsError, match="SeAl is off"):
        xyz.changed(p, Request(Settings()))


def test_a_value_is_shown_as_infotext_writes_it(xyz):
    option = axis(xyz, "bridge")
    assert option.format_value(None, option, False) == "[SeAl] Delta-Bridge: off"
