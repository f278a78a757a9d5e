"""What the WebUI reads at the extension's root: flags, the look at packages, the name."""

import argparse
import configparser
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import seal_ext
from seal_ext.settings.infotext import numbers

ROOT = Path(__file__).resolve().parents[1]


def loaded(name):
    """As the WebUI loads it: by its path, with nothing of the extension on the way."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parser():
    made = argparse.ArgumentParser(exit_on_error=False)
    loaded("preload").preload(made)
    return made


def test_flags():
    nothing = parser().parse_args([])
    assert nothing.seal_cache_mb is None and nothing.seal_store is None
    given = parser().parse_args(["--seal-cache-mb", "0", "--seal-store", "somewhere"])
    assert given.seal_cache_mb == 0 and given.seal_store == "somewhere"


@pytest.mark.parametrize("text", ["-1", "much", "1.5", "65537", "9" * 5000, "", "١"])
def test_flags_that_cannot_be(text):
    with pytest.raises(argparse.ArgumentError, match="whole number of megabytes"):
        parser().parse_args([f"--seal-cache-mb={text}"])


def install(environment):
    return subprocess.run([sys.executable, "-I", *environment], capture_output=True, text=True, check=False, cwd=ROOT)


def test_nothing_is_installed_and_nothing_is_said_where_nothing_is_missing():
    done = install([str(ROOT / "install.py")])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not re.search(r"\bpip\b|subprocess|launch", (ROOT / "install.py").read_text())


def test_what_is_missing_is_said_plainly():
    # -S: without the packages of this environment
    done = install(["-S", str(ROOT / "install.py")])
    assert done.returncode == 0 and done.stdout.startswith("SeAl needs ") and "opencv-python" in done.stdout and done.stderr == ""


def test_what_is_looked_for_is_what_is_imported():
    inside = "\n".join(path.read_text() for path in (ROOT / "seal_ext" / "core").glob("*.py"))
    imported = set(re.findall(r"^(?:import|from) (\w+)", inside, re.MULTILINE)) - set(sys.stdlib_module_names)
    assert imported <= set(loaded("install").NEEDED)


def test_the_name_and_the_version():
    config = configparser.ConfigParser()
    config.read(ROOT / "metadata.ini", encoding="utf-8")
    assert config.get("Extension", "Name") == "sd-webui-seal" and config.sections() == ["Extension"]
    project = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project and 'version = { attr = "seal_ext.__version__" }' in project
    releases = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    unreleased = "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert releases[0] == seal_ext.__version__ or (unreleased and numbers(releases[0]) < numbers(seal_ext.__version__))
