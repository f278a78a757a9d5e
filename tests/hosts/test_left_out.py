"""What is left out in some WebUI is a test that there is, and is told by its whole name."""

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("left_out", HERE / "left_out.py")
left_out = importlib.util.module_from_spec(spec)
spec.loader.exec_module(left_out)

PATTERNS = [(kind, pattern) for kind, patterns in left_out.LEFT_OUT.items() for pattern in patterns]


@pytest.mark.parametrize(("kind", "pattern"), PATTERNS)
def test_each_is_a_test_and_has_its_reason(kind, pattern):
    file, test = pattern.split("::")
    assert test.startswith("*") or f"def {test.split('*')[0]}" in (HERE / file).read_text(encoding="utf-8")
    assert left_out.LEFT_OUT[kind][pattern].endswith(".") and file.endswith("_live.py")


def test_only_where_it_says_so():
    test = "tests/hosts/test_a1111_live.py::test_reference_units_beside_seal[reference_adain]"
    assert left_out.reason("reforge", test)
    assert left_out.reason("forge", test) is left_out.reason("reforge", test.replace("adain", "only")) is None
    # A case may hold anything, a path as well.
    assert left_out.reason("reforge", "tests/hosts/test_routes_live.py::test_pictures_that_are_none[/etc/adain]") is None
