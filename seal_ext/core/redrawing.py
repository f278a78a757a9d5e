"""A pose map drawn anew at another size: sticks and dots of the thickness they had, where enlarging pixels would make gears of them.

Bodies are drawn from their joints. Of what remains (hands, faces, animals) single sticks and dots are drawn anew, too, and the rest is
resampled, so that nothing a detector saw is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np

from .mask import lines
from .skeleton import BONES, HUE_STEP, INK, Skeleton, colour_of, hue_gap, hues, painted, stroked

EXPLAINED = {True: 0.5, False: 0.9}  # of the paint, crisp or not, must be bodies, sticks and dots, or the map is something else
SHOWN = 0.3  # of a bone that must be seen where its joints are
TAPERED = 0.9  # of its middle's width a stick has at a fifth, if it is an ellipse
ROUND = 0.72  # of the circle around it is filled by a dot
DOTS = (0.6, 1.3)  # times the usual radius: what such a circle holds is a dot, even where others hide some of it
AROUND = 5  # radii from a dot: how far a stick reaches of which little shows
STRAIGHT, LONG = 1.8, 2.2  # a stick is nowhere so much wider than it is usually, and so many times as long as wide
SEAM = 1.5  # pixels around a shape that still count as it
CRUMB = 8  # pixels
MOST_PIECES = 1000  # six people with hands and faces have 900; each piece is compared with all dots, so that more take their time
RIM = 0.4  # pixels by which OpenCV draws polygons too large
SHIFT = 4  # bits of a pixel by which OpenCV places a shape


@dataclass(frozen=True)
class Shape:
    """A dot, or a stick from one end to the other, with its colour and half its thickness, in pixels."""

    start: tuple[float, float]
    end: tuple[float, float]
    radius: float
    colour: tuple[int, ...]
    tapered: bool = False

    @property
    def is_dot(self) -> bool:
        return self.start == self.end

    def moved(self, matrix: np.ndarray, thicker: float) -> Shape:
        start, end = (tuple((matrix @ (*place, 1)).tolist()) for place in (self.start, self.end))
        return Shape(start, end, max(0.5, self.radius * thicker), self.colour, self.tapered)


def redrawn(
    image: np.ndarray, bodies: Sequence[Skeleton], matrix: np.ndarray, size: tuple[int, int], thicker: float, crisp: bool
) -> np.ndarray | None:
    """The map (RGB bytes on black) on a canvas of this size; None where it is not made of bodies, sticks and dots.

    `matrix` counts from pixel corners; `thicker`: by how much strokes grow, whatever the figures do; `crisp`: whether each colour is pure.
    """
    ink = image.max(2) > INK
    if not ink.any():
        return None
    drawn, (x, y) = _cropped(ink, 4)
    ink, image = drawn > 0, np.ascontiguousarray(image[y : y + len(drawn), x : x + drawn.shape[1]])
    matrix, bodies = np.column_stack([matrix[:, :2], matrix @ (x, y, 1)]), [body.moved((1.0, 1.0), (-x, -y)) for body in bodies]
    hue, vivid, value = hues(image)
    strokes = stroked(vivid, value)
    shapes = [shape for body in bodies for shape in _of_body(image, ink, hue, strokes, body)]
    left = ink & ~_covered(shapes, ink.shape)
    if crisp:
        loose = _loose(image, ink, left, shapes)
        if loose is None:
            return None
        shapes += loose
        left = ink & ~_covered(shapes, ink.shape)
    left = _without_crumbs(left)
    if left.sum() > (1 - EXPLAINED[crisp]) * ink.sum():
        return None
    canvas, line = np.zeros((*size[::-1], 3), np.uint8), cv2.LINE_8 if crisp else cv2.LINE_AA
    rest = _resampled(image, left, matrix, size, crisp)
    for dots in (False, True):
        for shape in shapes:
            if shape.is_dot == dots:
                _draw(canvas, shape.moved(matrix, thicker), 0.0, shape.colour, line)
        canvas = canvas if dots else np.where(rest.any(2, keepdims=True), rest, canvas)
    return canvas


def _draw(canvas: np.ndarray, shape: Shape, wider: float, colour: tuple[int, ...], line: int) -> None:
    radius = shape.radius + wider
    # OpenCV counts from pixel centres, and its polygons reach beyond their corners.
    start, end = np.array(shape.start) - 0.5, np.array(shape.end) - 0.5
    if not shape.is_dot:
        along = end - start
        across = max(0.0, radius - RIM) * np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6)
        turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)[:, None]
        oval = (start + end) / 2 + 0.5 * along * np.cos(turn) + across * np.sin(turn)
        corners = oval if shape.tapered else np.array([start + across, end + across, end - across, start - across])
        cv2.fillConvexPoly(canvas, _fixed(corners), colour, line, SHIFT)
    for centre in () if shape.tapered and not shape.is_dot else (start, end)[: 1 if shape.is_dot else 2]:
        cv2.circle(canvas, _fixed(centre).tolist(), int(_fixed(np.array(radius))), colour, -1, line, SHIFT)


def _fixed(places: np.ndarray) -> np.ndarray:
    """In OpenCV's fractions of pixels; whatever lies far outside is cut off there."""
    return np.asarray(np.round(np.clip(places, -(1 << 14), 1 << 14) * (1 << SHIFT)).astype(np.int32))


def _without_crumbs(left: np.ndarray) -> np.ndarray:
    """What is left beside shapes that were not drawn quite as ours are is nothing."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(left.astype(np.uint8), connectivity=8)
    return np.asarray(left & (stats[:, cv2.CC_STAT_AREA] >= CRUMB)[labels])


def _covered(shapes: Sequence[Shape], size: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    for shape in shapes:
        _draw(mask, shape, SEAM, (1,), cv2.LINE_8)
    return mask > 0


def _of_body(image: np.ndarray, ink: np.ndarray, hue: np.ndarray, strokes: np.ndarray, body: Skeleton) -> list[Shape]:
    """Its bones and joints, as far as the map shows them, in the colours and the thickness it has them."""
    height, width = ink.shape
    inner = cv2.distanceTransform(np.pad(ink.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]

    def at(place: np.ndarray) -> tuple[int, int]:
        return min(max(int(place[1]), 0), height - 1), min(max(int(place[0]), 0), width - 1)

    points, seen, sticks, dots = body.points, body.seen, [], []
    for number, (a, b) in enumerate(BONES):
        if seen[a] and seen[b] and painted(points[[a]], points[[b]], number, hue, strokes)[0, 0] > SHOWN:
            on_line = [at(points[a] + (points[b] - points[a]) * t) for t in np.linspace(0.15, 0.85, 15)]
            own = [image[place] for place in on_line if strokes[place] and hue_gap(hue[place], number) < 1.1 * HUE_STEP]
            wide = [float(inner[at(points[a] + (points[b] - points[a]) * t)]) for t in (0.5, 0.2, 0.8)]
            sticks.append((a, b, np.median(own, 0), wide))
    if not sticks:
        return []
    thick = float(np.median([wide[0] for *_, wide in sticks])) - 0.5
    tapered = float(np.median([min(wide[1:]) for *_, wide in sticks])) - 0.5 < TAPERED * thick
    dot = float(np.median([inner[at(points[j])] for j in np.flatnonzero(seen)])) - 0.5
    for j in np.flatnonzero(seen).tolist():
        shown = hue_gap(hue[at(points[j])], j) < 0.6 * HUE_STEP  # or another joint hides its middle
        dots.append(Shape(_place(points[j]), _place(points[j]), dot, _colour(image[at(points[j])]) if shown else colour_of(j)))
    return [Shape(_place(points[a]), _place(points[b]), thick, _colour(own), tapered) for a, b, own, _ in sticks] + dots


def _place(point: np.ndarray) -> tuple[float, float]:
    return float(point[0]), float(point[1])


def _colour(levels: np.ndarray) -> tuple[int, ...]:
    return tuple(int(level) for level in np.round(levels))


def _loose(image: np.ndarray, ink: np.ndarray, left: np.ndarray, shapes: Sequence[Shape]) -> list[Shape] | None:
    """The dots and sticks among what no body explains: of hands, faces and animals. None where that is nothing but crumbs."""
    pieces = _pieces(image, left)
    if pieces is None:
        return None
    circles = [(piece, *_circle(piece)) for piece in pieces]
    whole = [(piece, centre, radius) for piece, centre, radius in circles if len(piece) > ROUND * np.pi * radius**2]
    known = [radius for *_, radius in whole] or [shape.radius for shape in shapes if shape.is_dot] or [0.0]
    usual = float(np.percentile(known, 75))
    dots, rest = [], left.copy()
    for piece, centre, radius in whole:
        if radius >= DOTS[0] * usual:
            dots.append(Shape(centre, centre, radius, _colour_of(piece, image)))
            rest[piece[:, 1], piece[:, 0]] = False
    ends = [*dots, *(shape for shape in shapes if shape.is_dot)]
    # Where one stick crosses another, the lower one is in two pieces.
    bridged = _pieces(image, rest, bridge=round(3 * usual), over=ink) or ()  # these are fewer than before
    sticks = [_stick(piece, image, ink, ends, usual) for piece in bridged]
    found = [stick for stick in sticks if stick] + dots
    rest &= ~_covered(found, left.shape)
    hidden = [(piece, centre) for piece, centre, radius in circles
              if rest[piece[:, 1], piece[:, 0]].mean() > 0.5 and DOTS[0] * usual <= radius <= DOTS[1] * usual]  # fmt: skip
    return found + [Shape(centre, centre, usual, _colour_of(piece, image)) for piece, centre in hidden]


def _colour_of(piece: np.ndarray, image: np.ndarray) -> tuple[int, ...]:
    return _colour(image[piece[0, 1], piece[0, 0]])


def _circle(piece: np.ndarray) -> tuple[tuple[float, float], float]:
    (x, y), radius = cv2.minEnclosingCircle(piece.astype(np.float32))
    return (x + 0.5, y + 0.5), max(radius, 0.5)


def _pieces(image: np.ndarray, left: np.ndarray, bridge: int = 0, over: np.ndarray | None = None) -> list[np.ndarray] | None:
    """The pixels `(n, 2)` of every connected piece of one colour; None where these are too many.

    `bridge`: the widest gap, over other paint, that does not part a piece.
    """
    pieces: list[np.ndarray] = []
    codes = np.where(left, image.astype(np.int32) @ np.array([65536, 256, 1], np.int32), -1)
    for code in np.unique(codes)[1:].tolist():
        own, (x0, y0) = _cropped(codes == code, bridge)
        joined = own
        if over is not None:
            near = cv2.morphologyEx(own, cv2.MORPH_CLOSE, np.ones((bridge + 1, bridge + 1), np.uint8))
            joined = near * over[y0 : y0 + own.shape[0], x0 : x0 + own.shape[1]]
        count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
        if len(pieces) + count > MOST_PIECES:
            return None
        for number, (x, y, width, height, _) in enumerate(stats[1:], 1):
            inside = (labels[y : y + height, x : x + width] == number) & (own[y : y + height, x : x + width] > 0)
            pieces.append(np.argwhere(inside)[:, ::-1] + (x0 + x, y0 + y))
    return [piece for piece in pieces if len(piece)]


def _cropped(mask: np.ndarray, room: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The part of a mask that holds something, as bytes, and where it begins."""
    rows, columns = lines(mask)
    x, y = max(0, int(columns[0]) - room), max(0, int(rows[0]) - room)
    return mask[y : rows[-1] + room + 1, x : columns[-1] + room + 1].astype(np.uint8), (x, y)


def _stick(piece: np.ndarray, image: np.ndarray, ink: np.ndarray, dots: Sequence[Shape], usual: float) -> Shape | None:
    """A straight piece as a stick. Its ends lie in the dots it runs into, or under whatever else hides them."""
    centre = piece.mean(0) + 0.5
    way = np.linalg.svd(piece + 0.5 - centre, full_matrices=False)[2][0] if len(piece) > 1 else np.array([1.0, 0.0])
    side = np.array([-way[1], way[0]])
    along, across = (piece + 0.5 - centre) @ way, (piece + 0.5 - centre) @ side
    low, high = float(along.min()) - 0.5, float(along.max()) + 0.5
    radius = min(len(piece) / (2 * (high - low)), float(np.abs(across).max()) + 0.5)
    if np.abs(across).max() > STRAIGHT * radius + 0.5:
        return None
    at_dots = [float((np.array(dot.start) - centre) @ way) for dot in dots
               if abs(float((np.array(dot.start) - centre) @ side)) < dot.radius + 0.5 * radius
               and -dot.radius < _beyond(float((np.array(dot.start) - centre) @ way), low, high) < dot.radius + 2 * SEAM]  # fmt: skip
    ends = []
    for end, outwards in ((low, -1), (high, 1)):
        dot = [at for at in at_dots if outwards * (at - (low + high) / 2) > 0]
        x, y = (centre + way * (end + outwards * 2)).astype(int)
        hidden = 0 <= y < ink.shape[0] and 0 <= x < ink.shape[1] and ink[y, x]
        ends.append(outwards * max(outwards * at for at in dot) if dot else end + outwards * (usual if hidden else -radius))
    if high - low < max(LONG * 2 * radius, 2.5 * usual):  # too short to show a way of its own
        return _between(piece, image, dots, usual)
    return Shape(_place(centre + way * ends[0]), _place(centre + way * ends[1]), radius, _colour_of(piece, image))


def _between(piece: np.ndarray, image: np.ndarray, dots: Sequence[Shape], usual: float) -> Shape | None:
    """What shows of a stick between two dots: the nearest two that have it between them."""
    centre = piece.mean(0) + 0.5
    near = [np.array(dot.start) for dot in dots if np.hypot(*(np.array(dot.start) - centre)) < AROUND * usual]
    found: list[tuple[float, np.ndarray, np.ndarray]] = []
    for one, other in combinations(near, 2):
        length = max(float(np.hypot(*(other - one))), 1e-6)
        way = (other - one) / length
        along, across = (piece + 0.5 - one) @ way, np.abs((piece + 0.5 - one) @ np.array([-way[1], way[0]]))
        if along.min() > 0 and along.max() < length and across.max() < 0.75 * usual:
            found.append((length, one, other))
    if not found:
        return None
    length, one, other = min(found, key=lambda pair: pair[0])
    return Shape(_place(one), _place(other), min(0.4 * usual, max(0.5, len(piece) ** 0.5 / 2)), _colour_of(piece, image))


def _beyond(at: float, low: float, high: float) -> float:
    return max(low - at, at - high)


def _resampled(image: np.ndarray, left: np.ndarray, matrix: np.ndarray, size: tuple[int, int], crisp: bool) -> np.ndarray:
    """What is neither body nor stick nor dot, at its new place; pure colours stay pure, and their outlines smooth."""
    centred = matrix.copy()
    centred[:, 2] += 0.5 * (matrix[:, 0] + matrix[:, 1] - 1)  # OpenCV counts from pixel centres
    rest = np.where(left[..., None], image, 0)
    if not crisp:
        return np.asarray(cv2.warpAffine(rest, centred, size, flags=cv2.INTER_LINEAR))
    cover = cv2.warpAffine(left.astype(np.float32), centred, size, flags=cv2.INTER_LINEAR) > 0.5 * min(1.0, matrix[0, 0], matrix[1, 1])
    spread = np.where(left[..., None], image, cv2.dilate(rest, np.ones((3, 3), np.uint8)))
    return np.where(cover[..., None], cv2.warpAffine(spread, centred, size, flags=cv2.INTER_NEAREST), 0).astype(np.uint8)
