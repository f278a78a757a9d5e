"""Reads the joints of a body from an OpenPose-style colour map, and measures bodies by what they share: their limbs."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

NAMES = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist", "right hip",
    "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye", "left eye", "right ear", "left ear",
)  # fmt: skip
NOSE, NECK, HIPS, ANKLES = 0, 1, (8, 11), (10, 13)
# In the order in which OpenPose paints them: bone i has the hue of joint i at 60 % brightness.
BONES = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
         (1, 0), (0, 14), (14, 16), (0, 15), (15, 17))  # fmt: skip
# What two bodies are compared by: left and right of a limb together. Widths are left out because turning halves them.
LIMBS = {
    "torso": ((1, 8), (1, 11)),
    "upper arm": ((2, 3), (5, 6)),
    "forearm": ((3, 4), (6, 7)),
    "thigh": ((8, 9), (11, 12)),
    "shin": ((9, 10), (12, 13)),
    "head": ((0, 1),),
}
WEIGHT = {"torso": 3.0, "upper arm": 1.0, "forearm": 1.0, "thigh": 2.0, "shin": 2.0, "head": 1.0}
HUE_STEP = 20.0  # degrees between the hues of two joints
BRIGHT = 0.8  # joints are painted at full brightness, bones at 60 %
PIXELS = 1 << 20  # larger maps are read at reduced size
BLOBS = 64  # a map with more spots of one hue than this is no skeleton


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Joints in pixels of an image, `(18, 2)` in OpenPose's order; NaN where one is not seen."""

    points: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        return np.isfinite(self.points).all(1)

    def length(self, bone: tuple[int, int]) -> float:
        return float(np.hypot(*(self.points[bone[0]] - self.points[bone[1]])))


def read_skeleton(image: np.ndarray) -> Skeleton | None:
    """The largest body that an RGB uint8 colour map shows, or None when fewer than four joints can be told."""
    height, width = image.shape[:2]
    shrink = min(1.0, (PIXELS / (height * width)) ** 0.5)
    small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) if shrink < 1 else image
    hue, saturation, value = np.moveaxis(cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2HSV), 2, 0)
    vivid = saturation > 0.75
    spots = [_spots(vivid & (value > BRIGHT) & (_hue_gap(hue, joint) < HUE_STEP * 0.4)) for joint in range(18)]
    if max(map(len, spots)) > BLOBS:
        return None
    bodies = [_grow(spots, start, hue, vivid) for start in _starts(spots)]
    bodies = [body for body in bodies if np.isfinite(body[:, 0]).sum() >= 4]
    if not bodies:
        return None
    ratio = np.array([width / small.shape[1], height / small.shape[0]])
    return Skeleton(max(bodies, key=_extent) * ratio)


def _hue_gap(hue: np.ndarray, joint: int) -> np.ndarray:
    gap = np.abs(hue - HUE_STEP * joint)
    return np.minimum(gap, 360 - gap)


def _spots(mask: np.ndarray) -> np.ndarray:
    """Centres (n, 2) of the spots of one hue. Specks are what blending leaves between two other colours."""
    count, _, stats, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    area = stats[1:, cv2.CC_STAT_AREA]
    keep = area >= max(2, 0.25 * area.max(initial=0))
    return (centres[1:][keep] + 0.5) if count > 1 else np.empty((0, 2))


def _starts(spots: list[np.ndarray]) -> list[tuple[int, np.ndarray]]:
    """From which joints to follow the bones: every neck, else every nose, else the hips."""
    for joint in (NECK, NOSE, *HIPS):
        if len(spots[joint]):
            return [(joint, spot) for spot in spots[joint]]
    return []


def _grow(spots: list[np.ndarray], start: tuple[int, np.ndarray], hue: np.ndarray, vivid: np.ndarray) -> np.ndarray:
    """One body: each bone leads to the spot to which its colour runs; a spot that has no rival needs no proof."""
    body = np.full((18, 2), np.nan)
    body[start[0]] = start[1]
    single = all(len(spots[joint]) <= 1 for joint in (NECK, NOSE))
    for _ in range(2):  # the second round reaches what lies behind a joint that only its rivals' absence proves
        for number, bone in enumerate(BONES):
            for a, b in (bone, bone[::-1]):
                if np.isnan(body[a, 0]) or not np.isnan(body[b, 0]) or not len(spots[b]):
                    continue
                proof = [_painted(body[a], spot, number, hue, vivid) for spot in spots[b]]
                if max(proof) > 0.4:
                    body[b] = spots[b][int(np.argmax(proof))]
        for joint in range(18):
            if single and np.isnan(body[joint, 0]) and len(spots[joint]) == 1:
                body[joint] = spots[joint][0]
    return body


def _painted(a: np.ndarray, b: np.ndarray, number: int, hue: np.ndarray, vivid: np.ndarray) -> float:
    """How much of the line between two spots has the colour of a bone. Generous in hue: drawing tools differ by a step."""
    x, y = (a + (b - a) * np.linspace(0.15, 0.85, 15)[:, None]).astype(int).T
    return float((vivid[y, x] & (_hue_gap(hue[y, x], number) < 1.1 * HUE_STEP)).mean())


def _extent(points: np.ndarray) -> float:
    return float(np.nanmax(points, 0).sum() - np.nanmin(points, 0).sum())


def limb_lengths(body: Skeleton) -> dict[str, float]:
    """The longer of left and right for every limb that is seen: foreshortening only shortens."""
    found = {name: [body.length(bone) for bone in bones if body.seen[list(bone)].all()] for name, bones in LIMBS.items()}
    return {name: max(lengths) for name, lengths in found.items() if lengths and max(lengths) > 0}
