"""The floors of the house: imports go downward only, and what stands side by side does not know each other."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for top in ("seal_ext", "bench")
    for path in (ROOT / top).rglob("*.py")
    if "small" not in path.parts  # an extension of its own, which is only installed from here
}
CORE_NEEDS = {"torch", "numpy", "cv2", "einops", *sys.stdlib_module_names}
REPORTS = ("bench.align_report", "bench.model_report", "bench.subjects_report", "bench.world_sheet", "bench.demo", "bench.learn.report",
           *(f"bench.identity.{name}" for name in ("report", "sweeps", "tuning", "page")))  # fmt: skip

# The floors from below; what stands on one line does not know each other.
FLOORS = [
    {"core"},
    {"units", "strokes", "latest", "given"},
    {"decoding"},
    {"settings", "finds"},
    {"reference"},
    {"segmenters"},
    {"detectors"},
    {"request"},
    {"folders", "tensor_file"},
    {"store", "shelf"},
    {"layers"},
    {"run"},
    {"match_map", "asking", "learning"},
    {"hosts"},
    {"api", "ui", "studio"},
    {"install"},
]
RANK = {name: number for number, names in enumerate(FLOORS) for name in names}
# Beside the floors: whose imports may not reach whom. A package stands for all that is in it.
FORBIDDEN = [
    ("seal_ext", "bench"),
    ("seal_ext.hosts.diffusers", "seal_ext.hosts.webui"),
    ("seal_ext.hosts.webui", "seal_ext.hosts.diffusers"),
    ("seal_ext.hosts.webui.a1111", "seal_ext.hosts.webui.forge"),
    ("seal_ext.hosts.webui.forge", "seal_ext.hosts.webui.a1111"),
    ("seal_ext.hosts.webui.controlnet.builtin", "seal_ext.hosts.webui.controlnet.extension"),
    ("seal_ext.hosts.webui.controlnet.extension", "seal_ext.hosts.webui.controlnet.builtin"),
    *((one, other) for one in REPORTS for other in REPORTS if one != other),
]


def imported(name: str, source: str, package: bool) -> set[str]:
    """The full names of all that a module imports, at its top or later; of `from x import y` both x and x.y, as y may be a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: len(name.split(".")) - node.level + package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


# What runs inside a WebUI, and what it may take of learning: the file, and how a word takes part. The rest needs diffusers.
INSIDE = ("seal_ext.hosts.webui", "seal_ext.api", "seal_ext.ui")
OF_LEARNING = ("seal_ext.learning.character", "seal_ext.learning.tokens")


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


IMPORTS = {name: imported(name, path.read_text(encoding="utf-8"), path.name == "__init__.py") for name, path in MODULES.items()}


def test_every_part_has_its_floor_and_imports_go_downward_only():
    parts = {name.split(".")[1] for name in MODULES if name.startswith("seal_ext.")}
    assert parts == set(RANK)
    wrong = []
    for name, reached in IMPORTS.items():
        own = name.split(".")[1] if name.startswith("seal_ext.") else None
        others = {x.split(".")[1] for x in reached if x.startswith("seal_ext.") and x.split(".")[1] in RANK}
        wrong += [(name, other) for other in others if own is not None and own != other and RANK[other] >= RANK[own]]
    assert not wrong


@pytest.mark.parametrize(("floor", "above"), FORBIDDEN, ids=lambda name: name.replace("seal_ext.", ""))
def test_a_floor_does_not_import_what_stands_above_or_beside_it(floor, above):
    wrong = {name: reached for name in IMPORTS if within(name, floor) and (reached := {x for x in IMPORTS[name] if within(x, above)})}
    assert not wrong


def test_nothing_inside_a_webui_learns():
    """Neither by itself nor through what it imports."""
    sources = {name: path for name, path in MODULES.items() if any(within(name, part) for part in (*INSIDE, *OF_LEARNING))}
    assert set(OF_LEARNING) <= set(sources)
    wrong = {
        name: strange
        for name in sources
        if (strange := {x for x in IMPORTS[name] if x in MODULES and within(x, "seal_ext.learning.")
                        and x not in OF_LEARNING})
    }  # fmt: skip
    assert not wrong
    script = imported("scripts.seal", (ROOT / "scripts" / "seal.py").read_text(encoding="utf-8"), package=False)
    assert not {x for x in script if within(x, "seal_ext.learning")}


def test_core_needs_few_packages_and_nothing_of_ours_but_itself():
    wrong = {
        name: strange
        for name in IMPORTS
        if within(name, "seal_ext.core")
        and (strange := {x for x in IMPORTS[name] if x.split(".")[0] not in CORE_NEEDS and not within(x, "seal_ext.core")})
    }
    assert not wrong


def test_the_rule_reads_every_form_of_import():
    source = "import os.path\ndef late():\n    from ..hosts import diffusers\n    from . import run\n    from .core.cache import nearest"
    assert imported("seal_ext.studio.page", source, package=False) == {
        "os.path", "seal_ext.hosts", "seal_ext.hosts.diffusers", "seal_ext.studio", "seal_ext.studio.run", "seal_ext.studio.core.cache",
        "seal_ext.studio.core.cache.nearest",
    }  # fmt: skip
    assert imported("seal_ext.run", "from . import step", package=True) == {"seal_ext.run", "seal_ext.run.step"}


def test_the_floors_are_there():
    assert {"seal_ext.core", "seal_ext.run", "seal_ext.hosts.diffusers", "seal_ext.hosts.webui.forge"} <= set(MODULES)
    assert set(REPORTS) <= set(MODULES)
