"""Reads the joints of every body that an OpenPose-style colour map shows: of OpenPose, of DWPose, and of the editors that paint alike."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

NOSE, NECK, R_HIP, L_HIP, R_EYE, L_EYE, R_EAR, L_EAR = 0, 1, 8, 11, 14, 15, 16, 17
KNEES, ANKLES = (9, 12), (10, 13)
KNEES_AND_ANKLES = (9, 10, 12, 13)
HEAD, TORSO = (NOSE, R_EYE, L_EYE, R_EAR, L_EAR), (NECK, 2, 5, R_HIP, L_HIP)
MIRRORED = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)  # which joint each becomes in a mirror
# In the order in which OpenPose paints them: bone i has the hue of joint i at 60 % brightness.
BONES = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
         (1, 0), (0, 14), (14, 16), (0, 15), (15, 17))  # fmt: skip

HUE_STEP = 20.0  # degrees between the hues of two joints
BRIGHT = 0.8  # joints are painted at full brightness, bones at 60 %
INK = 50  # levels of 255 from which on a pixel is painted
PIXELS = 1 << 20  # larger maps are read at reduced size
SPOTS = 512  # a map with more spots of one hue is no skeleton; a hand alone has 21
SPECK = 0.3  # of a usual joint's area: smaller spots are where two other colours blend
ROUND = 0.3  # of its square a joint fills at least, even where another hides half of it; the lines of a hand fill less
HALF = 0.8  # of a usual joint's area: of smaller ones something is hidden
TOUCH = 3.5  # radii up to which two joints hide the bone between them
DARK = 0.3  # of the paint, where bones are darker than joints
PAINTED = 0.4  # of a bone must be seen
DOTS = 0.5  # of all that is painted, in a map that shows joints without bones
PAPER = 0.5  # of the map may be painted: more is no skeleton, whatever colours it has
FEWEST = 4  # joints that make a body
NEAR = 0.75  # of both parts' extent together: the widest gap between two parts of one body

Joint = tuple[int, int]  # which joint, and which spot of its hue


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Joints `(18, 2)` in OpenPose's order, x and y in pixels of an image; NaN where one is not seen."""

    points: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        return np.asarray(np.isfinite(self.points).all(1))

    @property
    def extent(self) -> float:
        """The longer side of the joints' box."""
        return float(np.ptp(self.points[self.seen], axis=0).max()) if self.seen.any() else 0.0

    def moved(self, scale: tuple[float, float], shift: tuple[float, float] = (0.0, 0.0)) -> Skeleton:
        return Skeleton(self.points * np.array(scale) + np.array(shift))

    def mirrored(self) -> Skeleton:
        """Left and right exchanged, each joint where it was: a body from behind, taken for one from the front."""
        return Skeleton(self.points[list(MIRRORED)])


def read_skeleton(image: np.ndarray) -> Skeleton | None:
    """The largest body that an RGB uint8 colour map shows; None when it shows none."""
    return next(iter(read_skeletons(image)), None)


def read_skeletons(image: np.ndarray) -> list[Skeleton]:
    """Every body that an RGB uint8 colour map shows, the largest first."""
    height, width = image.shape[:2]
    shrink = min(1.0, (PIXELS / (height * width)) ** 0.5)
    small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) if shrink < 1 else image
    back = (width / small.shape[1], height / small.shape[0])
    levels = small.max(2) > INK
    if levels.mean() > PAPER or not levels.any():
        return []
    rows, columns = np.flatnonzero(levels.any(1)), np.flatnonzero(levels.any(0))
    small = small[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    hue, vivid, value = hues(small)
    spots, usual, dots = _joint_spots(hue, vivid & (value > BRIGHT))
    if max(map(len, spots)) > SPOTS:
        return []
    parts = _parts(spots, TOUCH * usual, hue, stroked(vivid, value))
    # A lone spot is no joint: hands and faces have many. Only where nothing but joints is painted they need no bones.
    if not parts and max(map(len, spots)) == 1 and dots > DOTS * levels.sum():
        parts = [{joint: 0 for joint in range(18) if len(spots[joint])}]
    bodies = [_body(_with_face(part, spots), spots) for part in _joined(parts, spots) if len(part) >= FEWEST]
    found = (Skeleton(body).moved((1.0, 1.0), (columns[0], rows[0])).moved(back) for body in bodies)
    return sorted(found, key=lambda body: -body.extent)


def hues(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hues in degrees, where they are vivid, and how bright, of an RGB uint8 map."""
    hue, saturation, value = cv2.split(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV))
    return hue, np.asarray(saturation > 0.75), value


def stroked(vivid: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Where bones may be: they are darker than joints and than the lines of hands, unless all strokes have one brightness."""
    dark = vivid & (value < BRIGHT)
    return dark if dark.sum() > DARK * vivid.sum() else vivid


def colour_of(joint: int) -> tuple[int, ...]:
    """A joint's colour, as RGB bytes."""
    colour = cv2.cvtColor(np.array([[[HUE_STEP * joint, 1, 1]]], np.float32), cv2.COLOR_HSV2RGB)[0, 0]
    return tuple(int(level) for level in np.round(255 * colour))


def hue_gap(hue: np.ndarray, joint: int) -> np.ndarray:
    gap = np.abs(hue - HUE_STEP * joint)
    return np.asarray(np.minimum(gap, 360 - gap))


def _joint_spots(hue: np.ndarray, bright: np.ndarray) -> tuple[list[np.ndarray], float, float]:
    """For every joint the centres `(n, 2)` of the spots of its hue that may be round; their usual radius; how many pixels all have."""
    found = []
    for joint in range(18):
        mask = (bright & (hue_gap(hue, joint) < 0.4 * HUE_STEP)).astype(np.uint8)
        _, labels, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)
        area, side = stats[:, cv2.CC_STAT_AREA], stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(1)
        compact = 1 + np.flatnonzero(area[1:] >= ROUND * side[1:] ** 2)
        found.append((area[compact], centres[compact] + 0.5, stats[compact], compact, labels))
    usual = np.median([area.max() for area, *_ in found if len(area)] or [0])
    spots, painted_on = [], 0.0
    for area, centres, stats, numbers, labels in found:
        kept = area >= max(2, SPECK * usual)
        for n in np.flatnonzero(kept & (area < HALF * usual))[
            :SPOTS
        ]:  # something hides a part: its circle's middle is not that of what is left
            x, y, width, height, _ = stats[n]
            left = np.argwhere(labels[y : y + height, x : x + width] == numbers[n])[:, ::-1].astype(np.float32)
            middle = cv2.minEnclosingCircle(left)[0]
            centres[n] = middle[0] + x + 0.5, middle[1] + y + 0.5
        spots.append(centres[kept])
        painted_on += float(area[kept].sum())
    return spots, float(usual / np.pi) ** 0.5, painted_on


def _parts(spots: list[np.ndarray], near: float, hue: np.ndarray, vivid: np.ndarray) -> list[dict[int, int]]:
    """What bones hold together: for every joint of a part the number of its spot. Every spot has one bone of a kind, the best painted."""
    part_of: dict[Joint, dict[int, int]] = {}
    for number, (a, b) in enumerate(BONES):
        length = np.hypot(*(spots[a][:, None] - spots[b]).transpose(2, 0, 1))
        # A spot half-way along a bone is seen as well as the one at its end, so length counts. In a face joints touch and hide the bones.
        hidden = (length < near) & (b in HEAD)
        seen = np.maximum(painted(spots[a], spots[b], number, hue, vivid), np.where(hidden, 1.1 * PAINTED, 0))
        good = seen**4 * length
        taken: set[Joint] = set()
        for i, j in sorted(np.argwhere(seen > PAINTED).tolist(), key=lambda bone: -good[bone[0], bone[1]]):
            if not taken & {(a, i), (b, j)}:
                taken |= {(a, i), (b, j)}
                one, other = part_of.get((a, i), {a: i}), part_of.get((b, j), {b: j})
                one |= other
                part_of |= dict.fromkeys(one.items(), one)
    return list({id(part): part for part in part_of.values()}.values())


def _joined(parts: list[dict[int, int]], spots: list[np.ndarray]) -> list[dict[int, int]]:
    """A hidden or missing joint leaves a body in parts: a part joins the nearest body that lacks all of its joints."""
    bodies: list[dict[int, int]] = []
    for part in sorted(parts, key=lambda part: (-len(part), -_extent(_places(part, spots)))):
        gaps = [(_gap(_places(part, spots), _places(body, spots)), n) for n, body in enumerate(bodies) if not body.keys() & part.keys()]
        gap, nearest = min(gaps, default=(np.inf, -1))
        if gap < NEAR:
            bodies[nearest] = bodies[nearest] | part
        else:
            bodies.append(part)
    return bodies


def _with_face(part: dict[int, int], spots: list[np.ndarray]) -> dict[int, int]:
    """A head from its side: the ear hides the eye, and with it the bone that leads to the ear. It is near, if it is there."""
    if not {NOSE, NECK} <= part.keys():
        return part
    nose, neck = spots[NOSE][part[NOSE]], spots[NECK][part[NECK]]
    for joint in (R_EYE, L_EYE, R_EAR, L_EAR):
        away = np.hypot(*(spots[joint] - nose).T)
        if joint not in part and len(away) and away.min() < np.hypot(*(nose - neck)):
            part = part | {joint: int(away.argmin())}
    return part


def _places(part: dict[int, int], spots: list[np.ndarray]) -> np.ndarray:
    return np.array([spots[joint][spot] for joint, spot in part.items()])


def _extent(places: np.ndarray) -> float:
    return float(np.ptp(places, 0).max())


def _gap(one: np.ndarray, other: np.ndarray) -> float:
    """How far apart two parts are, as a share of their extent together."""
    apart = np.hypot(*(one[:, None] - other).transpose(2, 0, 1)).min()
    return float(apart / max(_extent(np.concatenate([one, other])), 1.0))


def _body(part: dict[int, int], spots: list[np.ndarray]) -> np.ndarray:
    body = np.full((18, 2), np.nan)
    for joint, spot in part.items():
        body[joint] = spots[joint][spot]
    if np.isnan(body[NOSE, 0]):  # the eyes, painted later, often cover it
        body[NOSE] = body[[R_EYE, L_EYE]].mean(0)
    return body


def painted(one: np.ndarray, other: np.ndarray, number: int, hue: np.ndarray, vivid: np.ndarray) -> np.ndarray:
    """How much of the lines from spots `(n, 2)` to others `(m, 2)` has a bone's colour. Generous in hue: tools differ by a step."""
    a, b = one[:, None, None], other[None, :, None]
    x, y = (a + (b - a) * np.linspace(0.15, 0.85, 15)[:, None]).astype(int).transpose(3, 0, 1, 2)
    return np.asarray((vivid[y, x] & (hue_gap(hue[y, x], number) < 1.1 * HUE_STEP)).mean(2))
