"""`studio calibrate`: which blocks, which feature and which τ suit a checkpoint, from warped copies of your own reference."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seal_ext.core.canvas import as_tensor, fit
from seal_ext.core.mask import Box, subject_of
from seal_ext.core.matching import FEATURES, feature_of, match, subject_tokens, token_grid
from seal_ext.core.noise import reference_input, reference_noise
from seal_ext.layers import AttentionCall, Layers, Site, find_sites
from seal_ext.settings import Settings
from seal_ext.studio.cli import Bar, Parser, UserError, add_model, add_reference, add_settings, read_settings
from seal_ext.studio.generate import Progress
from seal_ext.studio.mask import find_subject, read_reference, say
from seal_ext.studio.models import Studio, studio_of
from seal_ext.studio.warp import USUAL, Warp

EXAMPLES = """\
  python dev.py studio calibrate --reference anna.png --out anna.json
  python dev.py studio calibrate --checkpoint sdxl.safetensors --reference anna.png --prompt "a woman with red hair" --out sdxl.json
  python dev.py studio generate --checkpoint sdxl.safetensors --preset sdxl.json --reference anna.png --prompt "a woman running"
"""
AT = (900, 650, 400, 150)  # timesteps: two of the early half, two of the late
KEEP = 0.5  # of the score of a grid's best layer: what matches worse is left alone
LEAST = 0.1  # a grid whose best layer scores below this matches by chance
FINE = 8  # tokens a side: on a coarser grid almost any place is within one token
BLIND = 0.9  # … and where chance is this good, a layer cannot misplace much and stays
BINS = 400  # of the cosine's range −1 … 1
SEPARATES = 0.15  # subject above τ less background above τ; below this τ says nothing


@dataclass
class Tally:
    """One site, feature and timestep: how many subject tokens were matched within one token, and how alike tokens are."""

    grid: tuple[int, int]
    right: float = 0.0
    asked: float = 0.0
    lucky: float = 0.0  # right by blind choice
    subject: np.ndarray = field(default_factory=lambda: np.zeros(BINS))  # histogram of the best cosines
    background: np.ndarray = field(default_factory=lambda: np.zeros(BINS))

    @property
    def share(self) -> float:
        return self.right / max(self.asked, 1e-9)

    @property
    def chance(self) -> float:
        return self.lucky / max(self.asked, 1e-9)

    @property
    def score(self) -> float:
        """0 for blind choice, 1 for every token right: comparable between fine and coarse grids."""
        return (self.share - self.chance) / max(1 - self.chance, 1e-9)


Tallies = dict[tuple[Site, str, int], Tally]


@dataclass(frozen=True)
class Copy:
    """A warped copy and the truth about it."""

    picture: np.ndarray
    mask: np.ndarray
    warp: Warp
    box: Box

    def truth(self, grid: tuple[int, int], reference: Tensor) -> tuple[Tensor, Tensor]:
        """For every token the reference's token (row, column) it came from, and whether both show the subject."""
        (rows, columns), (height, width) = grid, self.mask.shape
        x, y = np.meshgrid((np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows)
        origin = self.warp.origin(np.stack([x, y], -1).reshape(-1, 2), self.box) * (columns / width, rows / height)
        place = torch.from_numpy(np.floor(origin).astype(np.int64)).flip(-1)  # (tokens, 2)
        inside = (place >= 0).all(1) & (place[:, 0] < rows) & (place[:, 1] < columns)
        index = (place[:, 0] * columns + place[:, 1]).clamp(0, rows * columns - 1)
        return place, inside & reference[index] & subject_tokens(torch.from_numpy(self.mask)[None].float(), grid)[0]


def copies_of(picture: np.ndarray, mask: np.ndarray, warps: Sequence[Warp] = USUAL) -> list[Copy]:
    box = subject_of(mask, "reference", every=True).box
    return [Copy(warp(picture, box), warp(mask.astype(np.uint8), box, smooth=False) > 0, warp, box) for warp in warps]


@torch.no_grad()
def measure(
    studio: Studio,
    picture: np.ndarray,
    mask: np.ndarray,
    prompt: str = "",
    size: int | None = None,
    noise: str = "clean",
    progress: Progress = lambda share, doing: None,
) -> Tallies:
    """Every self-attention layer of middle and decoder, every feature, every timestep; the picture's copies beside it in one batch."""
    size = size or studio.size
    canvas, _ = fit(as_tensor(picture), size, size)
    inside = fit(as_tensor(mask.astype(np.float32)), size, size)[0][0, 0] > 0.5
    shown = (canvas[0].permute(1, 2, 0) * 255).round().byte().numpy()
    copies = copies_of(shown, inside.numpy())
    latents = torch.cat([studio.encode(image, size, size)[0] for image in (shown, *(copy.picture for copy in copies))])
    told = studio.conditioning(prompt, len(latents), size, size)
    unet, alphas = studio.pipe.unet, studio.pipe.scheduler.alphas_cumprod
    random = reference_noise(range(len(latents)), latents.shape[1:]).to(latents)
    tallies: Tallies = {}
    for done, t in enumerate(AT):
        progress(done / len(AT), "measuring")
        alpha, sigma = float(alphas[t]) ** 0.5, (1 - float(alphas[t])) ** 0.5
        first = reference_input(latents[:1], None if noise == "clean" else random[:1], sigma, alpha)
        batch = torch.cat([first, alpha * latents[1:] + sigma * random[1:]])
        count = _counting(tallies, t, copies, inside, latents.shape[-2:])
        sites = {site: module for site, module in find_sites(unet).items() if site.part != "down"}
        with Layers(sites) as layers, layers.answering(count):
            unet(batch, torch.tensor(t, device=unet.device), **told)
    progress(1.0, "measuring")
    return tallies


def _counting(tallies: Tallies, t: int, copies: list[Copy], mask: Tensor, latent: Sequence[int]) -> Callable[[AttentionCall], Tensor]:
    """Row 0 is the reference, the others are its copies; nothing of a layer is kept but counts."""

    def count(call: AttentionCall) -> Tensor:
        hidden, grid = call.hidden, token_grid(call.hidden.shape[1], *latent)
        if grid is None:
            return call.own()
        subject = subject_tokens(mask[None].float(), grid)[0]
        q, k = call.q()[1:], call.kv()[0][:1]
        for kind in FEATURES:
            key = feature_of(kind, k, hidden[:1])[:, :, subject.to(k.device)]
            found = match(feature_of(kind, q, hidden[1:]), key)
            tally = tallies.setdefault((call.site, kind, t), Tally(grid))
            for row, copy in enumerate(copies):
                _add(tally, copy, found.index[row, ..., 0].cpu(), found.similarity[row].cpu(), subject)
        return call.own()

    return count


def _add(tally: Tally, copy: Copy, index: Tensor, similarity: Tensor, subject: Tensor) -> None:
    """One copy's matches: index and similarity (groups, tokens); index counts the reference's subject tokens."""
    columns, groups = tally.grid[1], len(index)
    place, known = copy.truth(tally.grid, subject)
    own = subject.nonzero()[:, 0]
    own_place = torch.stack([own // columns, own % columns], -1)
    near = (own_place[index] - place).abs().amax(-1) <= 1
    tally.right += float((near & known).sum()) / groups
    tally.asked += float(known.sum())
    around = ((own_place[None] - place[known][:, None]).abs().amax(-1) <= 1).float().mean(1)
    tally.lucky += float(around.sum())
    shows = subject_tokens(torch.from_numpy(copy.mask)[None].float(), tally.grid)[0]
    for histogram, where in ((tally.subject, shows), (tally.background, ~shows)):
        histogram += np.histogram(similarity[:, where].numpy(), BINS, (-1, 1))[0] / groups


def best_tau(tallies: Sequence[Tally]) -> tuple[float, float, float]:
    """The τ ≥ 0 above which most of the subject and least of the background lies; and both shares."""
    subject, background = (sum(getattr(t, name) for t in tallies) for name in ("subject", "background"))
    edges = np.linspace(-1, 1, BINS + 1)[:-1]
    above = [histogram[::-1].cumsum()[::-1] / max(histogram.sum(), 1e-9) for histogram in (subject, background)]
    gain = np.where(edges >= 0, above[0] - above[1], -1.0)
    best = int(gain.argmax())
    return float(edges[best]), float(above[0][best]), float(above[1][best])


@dataclass(frozen=True)
class Choice:
    """What the measurement says to set."""

    feature: str
    sites: tuple[Site, ...]
    early: tuple[float, float, float]  # τ, and the shares of subject and background above it
    late: tuple[float, float, float]

    def changes(self) -> dict[str, object]:
        return {
            "feature": self.feature, "blocks": as_blocks(self.sites), "threshold": "cosine",
            "tau_early": round(self.early[0], 3), "tau_late": round(self.late[0], 3),
        }  # fmt: skip


def choose(tallies: Tallies) -> Choice:
    """The feature that matches best on the grids fine enough to tell; of every grid the layers that match well with it; and their τ.

    Layers are compared with others of their own grid: within one token means more on a fine grid, and only fine ones carry markings.
    """
    sites = {site: tally.grid for (site, _, _), tally in tallies.items()}
    telling = {grid for grid in sites.values() if min(grid) >= FINE}
    if not telling:
        raise UserError(f"every layer has fewer than {FINE} tokens a side; measure at a larger size")

    def score(feature: str, site: Site) -> float:
        return float(np.mean([t.score for (s, f, _), t in tallies.items() if (f, s) == (feature, site)]))

    def best(feature: str, grid: tuple[int, int]) -> float:
        return max(score(feature, site) for site in sites if sites[site] == grid)

    def matches(site: Site) -> bool:
        tally = tallies[site, feature, times[0]]
        return tally.chance > BLIND or score(feature, site) >= KEEP * max(best(feature, tally.grid), LEAST)

    feature = max(FEATURES, key=lambda kind: sum(best(kind, grid) for grid in telling))
    times = sorted({t for _, _, t in tallies}, reverse=True)
    kept = tuple(site for site in sites if matches(site))
    if not any(sites[site] in telling for site in kept):
        raise UserError("no layer finds the subject of this reference in its own warped copies: check the mask")
    late, early = (
        best_tau([tallies[site, feature, t] for t in times if (t > 500) == noisy for site in kept if sites[site] in telling])
        for noisy in (False, True)
    )
    if early[1] - early[2] < SEPARATES:
        early = late  # in the noise nothing separates them, and a τ found there would be chance
    return Choice(feature, kept, early, late)


def as_blocks(sites: Sequence[Site]) -> str:
    """`mid up.0-3 up.5`: the sites as the setting `blocks` names them."""
    words = []
    for part in dict.fromkeys(site.part for site in sites):
        numbers = sorted(site.index for site in sites if site.part == part)
        runs = np.split(numbers, np.where(np.diff(numbers) > 1)[0] + 1)
        words += [f"{part}.{run[0]}" + (f"-{run[-1]}" if len(run) > 1 else "") for run in runs]
    return " ".join(words)


def table(tallies: Tallies, choice: Choice) -> list[str]:
    """A line a layer: its share of subject tokens matched within one token, for every feature and timestep, and by blind choice."""
    times = sorted({t for _, _, t in tallies}, reverse=True)
    lines = [f"{'':16}" + "".join(f"{kind:^{7 * len(times)}}" for kind in FEATURES) + f"{'chance':>8}"]
    lines.append(f"{'layer':8}{'grid':>7} " + "".join(f"t={t:<5}" for t in times) * len(FEATURES))
    for site in dict.fromkeys(s for s, _, _ in tallies):
        cells = [tallies[site, kind, t] for kind in FEATURES for t in times]
        mark = "*" if site in choice.sites else " "
        grid = f"{cells[0].grid[1]}×{cells[0].grid[0]}"
        shares = "".join(f"{cell.share:<7.2f}" for cell in cells)
        lines.append(f"{mark}{site.part}.{site.index:<{6 - len(site.part)}}{grid:>7} {shares}{cells[0].chance:8.2f}")
    for name, (tau, subject, background) in (("early", choice.early), ("late", choice.late)):
        lines.append(f"τ {name:6}{tau:.2f}: {subject:.0%} of the subject above it, {background:.0%} of the background")
    return lines


def write_preset(choice: Choice, settings: Settings, path: Path) -> dict[str, object]:
    preset = {"preset": settings.preset, **choice.changes()}
    Settings.parse(preset)  # what is written can be read
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(preset, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    return preset


def main(argv: list[str]) -> int:
    parser = Parser(prog="studio calibrate", description=__doc__, examples=EXAMPLES)
    add_reference(parser)
    add_model(parser)
    add_settings(parser)
    parser.add_argument("--prompt", default="", help="what the reference shows, as in your prompts")
    parser.add_argument("--out", type=Path, default=Path("preset.json"), help="the preset's file, for --preset")
    options = parser.parse_args(argv)
    if options.out.suffix != ".json":
        raise UserError(f"--out {options.out} must end in .json")
    settings = read_settings(options.preset, options.changes)
    given = read_reference(options.reference, options.mask)
    studio = studio_of(options)
    reference = find_subject(given, settings, lambda: studio, options.prompt, options.subject)
    say(reference.seen)
    with closing(Bar()) as bar:
        tallies = measure(studio, reference.rgb, reference.seen.mask, options.prompt, noise=settings.noise, progress=bar)
    choice = choose(tallies)
    print("\n".join(table(tallies, choice)))
    preset = write_preset(choice, settings, options.out)
    print(f"* used: {preset['blocks']}, matched on {preset['feature']}\n{options.out}")
    return 0
