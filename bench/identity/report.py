"""`bench identity`: SeAl and its peers side by side, in one run."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import cv2
import torch

from bench.cases import SIZE
from bench.cli import Parser, UserError, seed_range
from bench.metrics.bootstrap import interval, mean, ratio, recovered
from bench.model_report import open_model, write_text
from bench.seeds import DEVELOPMENT, FINAL
from bench.world.sheet import grid, save_png
from seal_ext.studio.checkpoint import EMBEDDED, expand, load_diffusers

from .goals import goals, in_context
from .methods import Studio, table
from .scores import score
from .tasks import POOLED, TASKS

BATCH = 8
MAIN, FEW = 32, 8  # cases of `pose`, and of every other case
ALWAYS = ("none", "reference_only", "seal")
ALSO = {  # beside those, the methods that matter to a case
    "misaligned": ("seal_no_align",),
    "conflict": ("seal_no_delta", "seal_no_gate", "seal_no_delta_no_gate", "seal_no_infusion"),
}
CACHE = Path("out/identity")


def open_studio() -> Studio:
    files = expand(EMBEDDED, EMBEDDED / "expanded")
    model, _, _ = open_model()
    pipe = load_diffusers(files.checkpoint, files.adapter).pipeline()
    pipe.set_progress_bar_config(disable=True)
    return Studio(pipe, model)


def weights_name() -> str:
    """Tells the weights by which something was measured."""
    return hashlib.sha256((EMBEDDED / "manifest.json").read_bytes()).hexdigest()[:16]


def fingerprint() -> str:
    """Changes with the weights and with any code that could change a result."""
    digest = hashlib.sha256((EMBEDDED / "manifest.json").read_bytes())
    root = Path(__file__).resolve().parents[2]
    own = [
        (root / "seal_ext").rglob(name) for name in ("core/*.py", "run/*.py", "hosts/*.py", "studio/*.py", "settings.py", "reference.py")
    ]
    code = [*(root / "bench").rglob("*.py"), *(path for paths in own for path in paths)]
    for path in sorted([*code, root / "bench" / "tuning.json"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Measurement:
    """Columns of every case and method, batch by batch; what an interrupted run had done is read again."""

    def __init__(self, folder: Path = CACHE):
        self.folder = folder / fingerprint()
        self.studio: Studio | None = None
        self.judge = None

    def columns(self, case: str, name: str, method, seeds: range) -> dict[str, torch.Tensor]:
        parts = [self._batch(case, name, method, range(s, min(s + BATCH, seeds.stop))) for s in range(seeds.start, seeds.stop, BATCH)]
        return {key: torch.tensor([v for part in parts for v in part[key]]) for key in parts[0]}

    def picture(self, case: str, name: str, seeds: range) -> torch.Tensor | None:
        """What was drawn for the first batch of a case, (images, 3, height, width), if it was measured."""
        path = self._path(case, name, range(seeds.start, min(seeds.start + BATCH, seeds.stop))).with_suffix(".png")
        strip = cv2.imread(str(path)) if path.exists() else None
        if strip is None:
            return None
        pictures = torch.from_numpy(strip[..., ::-1].copy()).permute(2, 0, 1).float() / 255
        return pictures.unflatten(2, (-1, SIZE)).permute(2, 0, 1, 3)

    def _path(self, case: str, name: str, seeds: range) -> Path:
        return self.folder / f"{case}-{name}-{seeds.start}-{seeds.stop}.json"

    def _batch(self, case: str, name: str, method, seeds: range) -> dict[str, list[float]]:
        path = self._path(case, name, seeds)
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        if self.studio is None:
            self.studio, self.judge = open_studio(), open_model()[1]
        print(f"{case}: {name}, seeds {seeds.start}:{seeds.stop}", file=sys.stderr, flush=True)
        task = TASKS[case](torch.arange(seeds.start, seeds.stop))
        drawn = method(self.studio, task)
        result = score(self.studio, self.judge, task, drawn)
        save_png(grid([self.studio.model.decode(drawn.latents)]), path.with_suffix(".png"))
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(result), encoding="utf-8")
        unfinished.replace(path)
        return result


def figures(method: dict[str, torch.Tensor], none: dict[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """The figures of one method on one case, or on several cases joined."""
    result = {
        "identity": recovered(none["identity"], method["identity"], none["identity_vae"]),
        "pattern": recovered(none["pattern"], method["pattern"], none["pattern_vae"]),
        "structure": mean(method["structure"]),
        "text": ratio(method["found"], method["asked"]),
        "leak": ratio(method["leaked"], method["could_leak"]),
        "background_distance": mean(method["background_distance"]),
        "seconds": mean(method["seconds"]),
        "unet_rows": mean(method["unet_rows"]),
    }
    if "sharpness" in method:
        result["sharpness"] = ratio(method["sharpness"], method["sharpness_truth"])
    if "matched" in method:
        result["match"] = ratio(method["matched"], method["matchable"])
    if "others" in method:
        result["conflict_success"] = mean(method["conflict_success"])
        result["others_identity"] = recovered(none["others"], method["others"], none["others_vae"])
    return result


def paired(seal: dict[str, torch.Tensor], peer: dict[str, torch.Tensor], none: dict[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """How much more of identity and pattern SeAl recovers than a peer, on the same cases."""

    def more(key: str) -> dict[str, float]:
        return interval(lambda n, s, p, v: 100 * (p - s).sum(-1) / (n - v).sum(-1), none[key], seal[key], peer[key], none[key + "_vae"])

    return {key: more(key) for key in ("identity", "pattern")}


def _joined(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    names = set.intersection(*(set(p) for p in parts))
    return {name: torch.cat([p[name] for p in parts]) for name in names}


def _chosen(text: str | None, known: list[str], what: str) -> list[str] | None:
    if text is None:
        return None
    names = [n for n in text.split(",") if n]
    if unknown := [n for n in names if n not in known]:
        raise UserError(f"unknown {what} {unknown[0]!r}; one of {', '.join(known)}")
    if not names:
        raise UserError(f"no {what} is named; one of {', '.join(known)}")
    return names


def main(argv: list[str]) -> int:
    methods = table()
    parser = Parser(prog="bench identity", description=__doc__)
    parser.add_argument("--seeds", metavar="A:B", help="cases of `pose`; other cases take the first of them")
    parser.add_argument("--methods", help=f"comma-separated, of {', '.join(methods)}")
    parser.add_argument("--cases", help=f"comma-separated, of {', '.join(TASKS)}")
    parser.add_argument("--final", action="store_true", help="use test seeds, which nothing is tuned on")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(argv)
    split = FINAL if options.final else DEVELOPMENT
    seeds = seed_range(options.seeds or f"{split.start}:{split.start + MAIN}", options.final)
    asked = _chosen(options.methods, list(methods), "method")
    cases = _chosen(options.cases, list(TASKS), "case") or list(TASKS)
    measurement = Measurement()
    columns: dict[str, dict[str, dict[str, torch.Tensor]]] = {}
    for case in cases:
        some = seeds if case == "pose" or options.cases else range(seeds.start, min(seeds.stop, seeds.start + FEW))
        names = asked or (list(methods) if case == "pose" else [*ALWAYS, *ALSO.get(case, ())])
        columns[case] = {name: measurement.columns(case, name, methods[name], some) for name in dict.fromkeys(["none", *names])}
    report = {"methods": {}, "cases": {}, "seeds": [seeds.start, seeds.stop], "split": "final" if options.final else "development"}
    for case, by_method in columns.items():
        report["cases"][case] = {name: figures(c, by_method["none"]) for name, c in by_method.items()}
    report["paired"] = {}
    for name in methods:
        parts = [(columns[case][name], columns[case]["none"]) for case in POOLED if name in columns.get(case, {})]
        if parts:
            own, none_there = _joined([p[0] for p in parts]), _joined([p[1] for p in parts])
            report["methods"][name] = figures(own, none_there)
            seals = [columns[case].get("seal") for case in POOLED if name in columns.get(case, {})]
            if not name.startswith("seal") and name != "none" and all(s is not None for s in seals):
                report["paired"][name] = paired(_joined(seals), own, none_there)
    for name, row in report["methods"].items():
        shown = "  ".join(f"{key} {row[key]['value']:.3g}" for key in ("identity", "pattern", "structure", "text", "leak", "unet_rows"))
        print(f"{name:24} {shown}")
    for row in goals(report, in_context()):
        print(f"{'met ' if row.met else 'open'}  {row.what}: {row.reached}, asked {row.asked}")
    if options.json:
        write_text(options.json, json.dumps(report, indent=1) + "\n")
    return 0
