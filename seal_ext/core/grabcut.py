"""GrabCut: a subject's outline from a coarse idea of where it is, from a rough stroke, or from nothing but its place in the frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .background import not_reached
from .control_map import reduced
from .mask import DOUBT, Subject, as_guess, as_rough, filled, main_body, overlap, subject_of
from .pixels import AlignError, Mask, Pixels, as_rgb, checked_image

PIXELS, ROUGH = 1 << 16, 1 << 15  # GrabCut's time grows with every pixel, and the box hardly changes
INNER, OUTER = 0.03, 0.05  # of the picture's longer side: how far from the true outline a coarse one may run, inside and outside
ALONE = 0.4  # what the model sees is outvoted by colours if they agree with it less
SAID = 0.5  # how much the contrast of a map counts beside the agreement of guesses
BESIDE, BEYOND = 0.15, 1.0  # of a stroke's length: within the first the rest of the body is likely, beyond the second it ends
SURE = 0.8  # a chance from which on a pixel is the subject's, and below 1 - SURE the background's
Labels = NDArray[np.uint8]
Chances = NDArray[Any]  # (height, width), from 0 to 1


def from_probability(image: object, heat: object) -> Subject:
    """A photo's subject by a coarse map of where it is (cross-attention on its words), which has a say beside the colours."""
    rgb = as_rgb(checked_image(image, "the photo"))
    seen = np.asarray(heat)
    if seen.ndim != 2 or seen.size == 0 or seen.dtype.kind not in "fiub" or not np.isfinite(seen).all():
        raise AlignError("The map of where the subject is must be rows and columns of finite numbers.")
    small, grow = reduced(rgb, ROUGH)
    hot: Chances = cv2.resize(seen.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    if float(hot.std()) < 1e-6 * max(1.0, abs(float(hot.mean()))):
        raise AlignError("Attention finds no clear place for the subject.")
    hot = (hot - hot.min()) / np.ptp(hot)
    likely: Mask = cv2.threshold((255 * hot).astype(np.uint8), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1] > 0
    first: Mask = cv2.medianBlur(cut(small, _about(likely)).astype(np.uint8), 5) > 0
    told: tuple[str, ...] = ()
    if not 0.5 < first.sum() / max(1, likely.sum()) < 2:
        first, told = likely, ("SeAl cannot tell the subject's outline from the background, so it uses a rough one.",)
    guesses, body = _guesses(small), True
    try:
        first = main_body(first)
    except AlignError:
        body = not guesses
    best, agreed = first, _agreed([first, *guesses])[0]
    if not body or agreed < ALONE:
        told, others = (), [first, *guesses][not body :]
        best, agreed = _most_agreed(others, lambda guess: float(hot[guess].mean() - hot[~guess].mean()))
    found = as_rough(subject_of(grow(best), "attention", reasons=told))
    return replace(found, sure=agreed) if agreed > DOUBT else as_guess(found, agreed)


def _about(likely: Mask) -> Labels:
    """Labels for a coarse outline: colours say where the true one runs nearby, and nowhere else."""
    within, off = (cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, 5) for side in (likely, ~likely))
    labels = np.where(likely, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[within > min(INNER * max(likely.shape), 0.5 * within.max())] = cv2.GC_FGD
    labels[off > OUTER * max(likely.shape)] = cv2.GC_BGD
    return labels


def sharpened(image: Pixels, chances: Chances) -> Mask:
    """The outline that colours and edges give, where a segmenter is sure of the inside and of the outside only."""
    small, grow = reduced(image, PIXELS)
    chances = cv2.resize(chances, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    labels = np.where(chances > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[chances > SURE], labels[chances < 1 - SURE] = cv2.GC_FGD, cv2.GC_BGD
    return grow(cut(small, labels))


def from_stroke(image: object, stroke: Mask, away: Mask | None = None, start: Subject | None = None) -> Subject:
    """The character by rough strokes over it. `away`: strokes over what it is not; `start`: the subject that the strokes correct."""
    rgb = as_rgb(checked_image(image, "the reference"))
    small, grow = reduced(rgb, PIXELS)
    given, off = _reduced(stroke, small), np.zeros(small.shape[:2], bool) if away is None else _reduced(away, small)
    off &= ~given
    before = None if start is None or not start.known else _reduced(start.mask, small)
    if given.any():
        known = given
    elif before is not None and off.any():
        known = before
    else:
        raise AlignError("Nothing was painted: paint over the character.")
    _, _, wide, tall = cv2.boundingRect(known.astype(np.uint8))
    far = cv2.distanceTransform((~known).astype(np.uint8), cv2.DIST_L2, 5) / float(np.hypot(wide, tall))
    inside = far < BESIDE
    if before is not None and _corrects(given, before, start is not None and start.guess):
        inside, far = before | (inside & given.any()), np.where(before, 0, far)
        if not given.any() or before[given].mean() <= 0.5:
            known = given | before  # what was painted beside the outline belongs to it
    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[far > BEYOND] = cv2.GC_BGD
    labels[off], labels[given] = cv2.GC_BGD, cv2.GC_FGD
    found = cut(small, labels) & ~off
    parts = cv2.connectedComponents(found.astype(np.uint8))[1]
    return subject_of(grow(filled(found & np.isin(parts, parts[known & found])) & ~off), "drawn")


def _corrects(stroke: Mask, before: Mask, guess: bool) -> bool:
    """Whether strokes correct an outline. One that was guessed, and mostly lies beside them, was wrong, and so was one that they miss."""
    inside = before[stroke].mean() if stroke.any() else 1.0
    return bool(inside > 0.5 or (not guess and inside > 0))


def _reduced(mask: Mask, small: Pixels) -> Mask:
    """As wide as before where it is thin."""
    thin: Mask = cv2.resize(mask.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_AREA) > 0.3
    return thin


def guessed(image: object) -> Subject:
    """The subject from its colours and its place in the frame alone."""
    small, grow = reduced(as_rgb(checked_image(image, "the reference")), ROUGH)
    guesses = _guesses(small)
    if not guesses:
        raise AlignError("Nothing stands out from the rest of the picture.")
    best, agreed = _most_agreed(guesses, lambda guess: 0.0)
    return as_guess(as_rough(subject_of(grow(best), "grabcut")), 0.5 * agreed)


def _guesses(small: Pixels) -> list[Mask]:
    """What GrabCut finds from what stands out, and in a whole and a half figure's box; without those that are no body."""
    height, width = small.shape[:2]
    found = []
    for labels in (_outstanding(small), _boxed(height, width, 0.05, 0.05), _boxed(height, width, 0.1, 0.0)):
        with suppress(AlignError):
            found.append(main_body(cut(small, labels)))
    return found


def _most_agreed(guesses: Sequence[Mask], said: Callable[[Mask], float]) -> tuple[Mask, float]:
    """The guess that the others and half of what else is said for it are most for, and how far all of them agree with it."""
    agreed = _agreed(guesses)
    best = int(np.argmax([mean + SAID * said(guess) for mean, guess in zip(agreed, guesses, strict=True)]))
    return guesses[best], agreed[best]


def _agreed(guesses: Sequence[Mask]) -> list[float]:
    """How far all of them agree with each."""
    return [float(np.mean([overlap(one, other) for other in guesses])) for one in guesses]


def _boxed(height: int, width: int, margin: float, below: float) -> Labels:
    """Somewhere in a box inside the frame; a half figure's box has no room below."""
    y, x, last = round(margin * height), round(margin * width), round((1 - below) * height)
    labels = np.full((height, width), cv2.GC_BGD, np.uint8)
    labels[y:last, x : width - x] = cv2.GC_PR_FGD
    return labels


def _outstanding(image: Pixels) -> Labels:
    """Where the colours are unlike those along the frame's sides, an edge lies between, and the middle is near."""
    height, width = image.shape[:2]
    colours = cv2.GaussianBlur(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), (0, 0), 1)
    thick = max(2, round(0.04 * max(height, width)))
    sides = (colours[:thick], colours[-thick:], colours[:, :thick], colours[:, -thick:])
    unlike = np.mean([_spread(_unlike(colours, side.reshape(-1, 3))) for side in sides], 0)
    behind_edge = cv2.resize(not_reached(image).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    heat = _spread((unlike + behind_edge) * np.exp(-(x * x + y * y) / 0.87))
    likely = heat > heat.mean() + 0.4 * heat.std()
    labels = np.where(likely, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[heat < 0.08] = labels[:2] = labels[:, :1] = labels[:, -1:] = cv2.GC_BGD
    labels[-2:][~likely[-2:]] = cv2.GC_BGD
    return labels


def _unlike(colours: Pixels, side: Pixels) -> NDArray[np.float64]:
    """How far colours are from those of one side, measured by how much that side's own differ."""
    off = colours - side.mean(0)
    found: NDArray[np.float64] = np.sqrt(np.einsum("yxi,ij,yxj->yx", off, np.linalg.inv(np.cov(side.T, bias=True) + 9 * np.eye(3)), off))
    return found


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.percentile(values, (1, 99))
    spread: NDArray[np.float64] = ((values - low) / max(1e-6, high - low)).clip(0, 1)
    return spread


def cut(rgb: Pixels, labels: Labels) -> Mask:
    """GrabCut from labels; where these are all of one kind, there is nothing to cut."""
    cv2.setRNGSeed(0)  # its k-means draws from cv2's generator: the same photo must give the same mask
    inside = labels & 1
    if inside.any() and not inside.all():
        labels = labels.copy()
        cv2.grabCut(np.ascontiguousarray(rgb), labels, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
    mask: Mask = (labels & 1) > 0
    return mask
