"""What is left out in some WebUI is a test that there is, and is told by its whole name."""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from seal_ext.install.webui import FORGES
from tests.hosts.live import RELATIVES

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("left_out", HERE / "left_out.py")
left_out = importlib.util.module_from_spec(spec)
spec.loader.exec_module(left_out)

# What WebUIs are known by.
MARKS = {"a1111": (), **FORGES, **{name: (*FORGES[like], mark) for name, (like, mark) in RELATIVES.items()}}


@pytest.mark.parametrize("name", left_out.LEFT_OUT)
def test_every_line_leaves_something_out(tmp_path, name):
    for mark in MARKS[name]:
        (tmp_path / "webui" / mark).mkdir(parents=True)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-m", "live", "tests/hosts", "--json", str(tmp_path / "report.json")]
    told = os.environ | {"SEAL_WEBUI": str(tmp_path / "webui")}
    ran = subprocess.run(command, cwd=HERE.parents[1], env=told, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:]
    tests = [row["test"] for row in json.loads((tmp_path / "report.json").read_text())["left_out"]]
    lines = Counter(left_out.line(name, test) for test in tests)
    assert set(lines) == set(left_out.LEFT_OUT[name]) and all(why.endswith(".") for why in left_out.LEFT_OUT[name].values())


def test_only_where_it_says_so():
    test = "tests/hosts/test_a1111_live.py::test_reference_units_beside_seal[reference_adain]"
    assert left_out.reason("reforge", test)
    assert left_out.reason("forge", test) is left_out.reason("reforge", test.replace("adain", "only")) is None
    # A case may hold anything, a path as well.
    assert left_out.reason("reforge", "tests/hosts/test_routes_live.py::test_pictures_that_are_none[/etc/adain]") is None
