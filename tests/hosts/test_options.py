"""Settings, flags and what a run asks for: which of them holds, and that nonsense in a settings file counts as nothing."""

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from seal_ext.core.fingerprint import AppearanceKey
from seal_ext.hosts.webui import process_state


class Option(SimpleNamespace):
    def info(self, told):
        self.told = told
        return self


@pytest.fixture
def options(monkeypatch, tmp_path):
    packages = {name: ModuleType(name) for name in ("modules", "modules.shared", "modules.paths_internal", "gradio")}
    shared = packages["modules"].shared = packages["modules.shared"]
    shared.opts, shared.cmd_opts = SimpleNamespace(added={}), SimpleNamespace(api=False, api_auth=None)
    shared.opts.add_option = lambda name, option: shared.opts.added.update({name: option})
    shared.OptionInfo = lambda default, label, component, sizes, **more: Option(default=default, label=label, sizes=sizes, **more)
    packages["modules"].paths_internal = packages["modules.paths_internal"]
    packages["modules.paths_internal"].data_path, packages["gradio"].Slider = str(tmp_path), None
    for name, module in packages.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "seal_ext.hosts.webui.options", raising=False)
    monkeypatch.setattr(process_state, "store", None)
    monkeypatch.setattr(process_state, "shelf", None)
    yield importlib.import_module("seal_ext.hosts.webui.options")
    sys.modules.pop("seal_ext.hosts.webui.options", None)
    process_state.cache.resize(1024 * process_state.MEGABYTE)


def test_the_first_that_says_something_holds(options):
    flags, chosen = options.shared.cmd_opts, options.shared.opts
    assert (options.cache_mb(1024, 1024), options.cache_mb(1024, 2048), options.cache_mb(64, 64)) == (1024, 2048, 64)
    flags.seal_cache_mb = 300
    assert (options.cache_mb(1024, 2048), options.cache_mb(64, 64)) == (300, 64)
    chosen.seal_cache_mb = 500
    assert (options.cache_mb(1024, 2048), options.cache_mb(0, 0)) == (500, 0)
    chosen.seal_cache_mb, flags.seal_cache_mb = 0, 0
    assert options.cache_mb(1024, 2048) == 0


@pytest.mark.parametrize("nonsense", ["512", None, -1, 1e99, float("nan"), True, [512]])
def test_nonsense_counts_as_nothing(options, nonsense):
    options.shared.opts.seal_cache_mb = options.shared.opts.seal_store_mb = options.shared.opts.seal_readings_mb = nonsense
    assert options.cache_mb(1024, 2048) == 2048 and options.store_bytes() == 256 * process_state.MEGABYTE
    assert options.readings_bytes() == 1024 * process_state.MEGABYTE


def test_where_the_store_is(options, tmp_path):
    options.settle()
    assert process_state.store.folder == tmp_path / "seal" / "references" and process_state.store.budget() == 256 << 20
    assert process_state.shelf.folder == process_state.store.folder and process_state.shelf.budget() == 1024 << 20
    options.shared.cmd_opts.seal_store = "elsewhere"
    options.shared.cmd_opts.seal_cache_mb = 100
    options.settle()
    assert process_state.store.folder == Path("elsewhere").absolute() and process_state.cache.budget == 100 << 20
    assert not Path("elsewhere").exists()  # made when the first reference is kept


def test_the_section(options):
    options.settle()
    options.add_section()
    added = options.shared.opts.added
    assert set(added) == {"seal_cache_mb", "seal_store_mb", "seal_readings_mb"} and all(
        option.section == ("seal", "SeAl") for option in added.values()
    )
    assert str(process_state.store.folder) in added["seal_store_mb"].told
    options.shared.opts.seal_cache_mb = 128
    added["seal_cache_mb"].onchange()
    added["seal_store_mb"].onchange()
    reading = process_state.shelf.folder / f"seal-{'0' * 32}.safetensors"
    reading.parent.mkdir(parents=True)
    reading.touch()
    added["seal_readings_mb"].onchange()
    assert reading.exists() and process_state.shelf.budget() == 1024 << 20
    options.shared.opts.seal_readings_mb = 0
    assert process_state.shelf.of(AppearanceKey("", "", (), "", "", "", (8, 8), (1.0,), (), "")) is None
    reading.write_bytes(b"something")
    added["seal_readings_mb"].onchange()
    assert not reading.exists()
    assert process_state.cache.budget == 128 << 20


def test_the_hosts_own_guard_is_taken_and_without_it_there_is_none(options):
    app = SimpleNamespace(routes=[SimpleNamespace(path="/other", dependencies=[1]), SimpleNamespace()])
    assert options.guards(app) == [] and not options.has_api()
    options.shared.cmd_opts.api_auth, options.shared.cmd_opts.api = "a:b", True
    with pytest.raises(RuntimeError, match="api-auth"):
        options.guards(app)
    app.routes.append(SimpleNamespace(path="/sdapi/v1/txt2img", dependencies=["guard"]))
    assert options.guards(app) == ["guard"] and options.has_api()
