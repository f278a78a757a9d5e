"""What the tests inside a real WebUI share: one WebUI for all of them, what it must look like after each, and the report.

These tests carry the mark `live`. Without SEAL_WEBUI they are skipped; with it, one that is skipped has failed.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from seal_ext import layers
from tests.hosts import webui as stand_in


def beside(name: str, file: str):
    """A module of this folder, by a name, so that every test file has the same one."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(file))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


live, left_out = beside("live_webui", "live.py"), beside("live_left_out", "left_out.py")
ABSENT = "no WebUI to test in: set SEAL_WEBUI=PATH to its folder"
results = pytest.StashKey[dict]()


def pytest_addoption(parser):
    parser.addoption("--json", dest="seal_json", metavar="FILE", type=Path, help="of the tests in a WebUI: write what came out there")


def pytest_configure(config):
    config.addinivalue_line("markers", "live: runs inside the WebUI that SEAL_WEBUI names")
    config.stash[results] = {"passed": 0, "failed": 0, "skipped": 0, "ratios": {}, "identity": {}, "left_out": []}


def pytest_collection_modifyitems(config, items):
    lives = [item for item in items if item.get_closest_marker("live")]
    if not os.environ.get("SEAL_WEBUI"):
        for item in lives:
            item.add_marker(pytest.mark.skip(reason=ABSENT))
        return
    name = live.name_of(Path(os.environ["SEAL_WEBUI"]).resolve())
    reasons = {item: left_out.reason(name, item.nodeid) for item in lives}
    absent = {item: reason for item, reason in reasons.items() if reason}
    config.stash[results]["left_out"] = [{"test": item.nodeid, "reason": reason} for item, reason in absent.items()]
    config.hook.pytest_deselected(items=list(absent))
    items[:] = [item for item in items if item not in absent]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if not item.get_closest_marker("live"):
        return
    if report.skipped and os.environ.get("SEAL_WEBUI"):
        report.outcome, report.longrepr = "failed", f"skipped although SEAL_WEBUI is set: {report.longrepr[2]}"
    counts = item.config.stash[results]
    if report.skipped or report.failed:
        counts["skipped" if report.skipped else "failed"] += 1
    elif report.when == "call":
        counts["passed"] += 1


def pytest_sessionfinish(session):
    file = session.config.getoption("seal_json", None)
    if file is not None:
        file.write_text(json.dumps(session.config.stash[results], indent=1) + "\n", encoding="utf-8")


def pytest_terminal_summary(terminalreporter, config):
    found = config.stash[results]
    if found["skipped"] and not os.environ.get("SEAL_WEBUI"):
        terminalreporter.write_line(f"{found['skipped']} tests were skipped: {ABSENT}")
    for reason in sorted({one["reason"] for one in found["left_out"]}):
        tests = [one["test"] for one in found["left_out"] if one["reason"] == reason]
        terminalreporter.write_line(f"left out, {len(tests)}: {reason}")
    for name in ("ratios", "identity"):
        if found[name]:
            terminalreporter.write_line(f"{name}: {json.dumps(found[name])}")


@pytest.fixture(autouse=True)
def a_package_that_is_known(monkeypatch):
    """The stand-in's attention is an attention layer of its own package, as the real ones are."""
    monkeypatch.setattr(layers, "PLAIN", layers.PLAIN | {"tests.hosts.webui"})


@pytest.fixture
def named(model):
    """A stand-in of a WebUI's modules around a test's model."""
    return stand_in.modules(model)


@pytest.fixture
def app(named):
    """SeAl's adapter, loaded inside them."""
    return stand_in.load(named)


@pytest.fixture(scope="session")
def webui(tmp_path_factory):
    host = live.WebUI(Path(os.environ["SEAL_WEBUI"]).resolve(), tmp_path_factory.mktemp("webui"))
    host.start()
    yield host
    host.stop()


@pytest.fixture(scope="session")
def report(request):
    """What the report says beside the counts."""
    return request.config.stash[results]


@pytest.fixture(scope="session")
def first(webui):
    """What stood in the host before SeAl ever ran, and with every checkpoint the plain picture."""
    pictures, inside = {webui.checkpoint: webui.draw(**live.SMALL)[0]}, webui.inside()
    for checkpoint in webui.tiny:
        with webui.using(checkpoint):
            pictures[checkpoint] = webui.draw(**live.SMALL)[0]
    return pictures, inside


@pytest.fixture
def nothing_stays(webui, first):
    """After the test: what it did left no trace, neither in a plain picture nor in the host."""
    yield
    pictures, before = first
    assert np.array_equal(webui.draw(**live.SMALL)[0], pictures[webui.current])
    now = webui.inside()
    assert [now["hooked"], now["callbacks"]] == [before["hooked"], before["callbacks"]]
    assert not [name for name in now["patched"] if "attn1" in name]


@pytest.fixture(scope="module")
def tiny(webui, first):
    """Drawing with a random SD1 model, for what does not depend on what is on the picture."""
    with webui.using("tiny-sd1"):
        yield
