"""The body: skeletons posed in three dimensions, and the round-ended tapering parts that are hung on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .batch import Batch
from .identity import Identities
from .pose import Poses
from .words import COAT, HAIR, HEADGEAR, KIND

REGION = ["background", "skin", "hair", "headgear", "top", "bottom", "shoes", "body", "head", "legs", "tail", "collar"]
MATERIAL = ["skin", "hair", "headgear", "top", "bottom", "shoes", "coat", "coat second", "collar", "dark"]
FEATURE = ["none", "chest", "face", "muzzle", "barrel", "snout", "sleeve"]
KEYPOINTS = 18
SLOTS = 25
NEVER = 9.0  # a cut or clip further along than any part is long

_R = {name: i for i, name in enumerate(REGION)}
_M = {name: i for i, name in enumerate(MATERIAL)}
_F = {name: i for i, name in enumerate(FEATURE)}

# Body lengths, standing height = 1: shoulder and hip half-widths, torso, leg, arm, head radius, torso radii.
_PERSON = {
    "shoulder": (0.24, 0.215, 0.215),
    "hip": (0.1, 0.102, 0.095),
    "torso": (0.37, 0.36, 0.34),
    "leg": (0.115, 0.12, 0.1),
    "arm": (0.14, 0.135, 0.12),
    "head": (0.135, 0.135, 0.148),
    "chest": (0.206, 0.186, 0.186),
    "waist": (0.192, 0.192, 0.188),
    "limb": (0.092, 0.086, 0.084),
}
# cat, dog, fox, horse, bear, rabbit
_ANIMAL = {
    "spine": (0.38, 0.4, 0.38, 0.42, 0.38, 0.32),
    "barrel": (0.2, 0.205, 0.195, 0.205, 0.235, 0.215),
    "neck": (0.13, 0.14, 0.13, 0.21, 0.13, 0.12),
    "leg": (0.115, 0.125, 0.125, 0.17, 0.11, 0.1),
    "limb": (0.086, 0.088, 0.085, 0.086, 0.094, 0.088),
    "head": (0.15, 0.145, 0.14, 0.135, 0.155, 0.15),
    "snout": (0.06, 0.1, 0.12, 0.13, 0.08, 0.05),
    "muzzle": (0.066, 0.075, 0.052, 0.08, 0.084, 0.066),
    "ear": (0.13, 0.15, 0.16, 0.11, 0.08, 0.24),
    "ear_base": (0.092, 0.076, 0.094, 0.066, 0.084, 0.076),
    "ear_tip": (0.016, 0.08, 0.018, 0.03, 0.08, 0.068),
    "ear_tilt": (0.25, 2.1, 0.3, 0.1, 0.55, -0.15),
    "tail": (0.15, 0.13, 0.15, 0.14, 0.05, 0.05),
    "tail_base": (0.042, 0.046, 0.055, 0.042, 0.06, 0.07),
    "tail_tip": (0.076, 0.07, 0.1, 0.086, 0.07, 0.08),
}


@dataclass(frozen=True)
class Parts(Batch):
    """Painted back to front. `a`, `b`: ends in the frame (height = 1); lengths with 3 in their name are unforeshortened body lengths."""

    a: torch.Tensor  # (batch, slot, 2)
    b: torch.Tensor
    ra: torch.Tensor
    rb: torch.Tensor
    length3: torch.Tensor
    radius3: torch.Tensor
    clip0: torch.Tensor  # drawn only where clip0 < v < clip1, v in body lengths from `a`
    clip1: torch.Tensor
    turn: torch.Tensor  # longitude that faces the camera
    flip: torch.Tensor  # +1, or -1 where left and right of the texture are exchanged
    depth: torch.Tensor
    name: torch.Tensor  # which part of the body, whatever the painting order
    near: torch.Tensor  # material and region from `a` up to `cut`, the far ones beyond
    far: torch.Tensor
    near_region: torch.Tensor
    far_region: torch.Tensor
    cut: torch.Tensor
    feature: torch.Tensor
    cloth: torch.Tensor  # (batch, slot, 2): where on its cloth or fur the part begins; both run on from part to part
    keypoints: torch.Tensor  # (batch, 18, 2); NaN where a family has fewer
    unit: torch.Tensor  # frame heights in one body length


def _direction(side: float, bone: torch.Tensor) -> torch.Tensor:
    """Unit vector of a limb's bone: x to the picture's right, y down, z to the viewer of a subject that faces us."""
    away, swing = bone.unbind(-1)
    return torch.stack([side * away.sin(), away.cos() * swing.cos(), away.cos() * swing.sin()], -1)


class _Body:
    """Collects parts as three-dimensional ends, then turns and projects them all at once."""

    def __init__(self, poses: Poses):
        self.poses, self.parts, self.count = poses, [], len(poses)
        self.zero = torch.zeros(self.count, dtype=torch.float64, device=poses.yaw.device)

    def scalar(self, value) -> torch.Tensor:
        return value.to(torch.float64) if isinstance(value, torch.Tensor) else self.zero + value

    def add(self, a, b, ra, rb, near, region, *, far=None, far_region=None, cut=NEVER, clip=(-NEVER, NEVER), turn=0.0, feature="none",
            lift=0.0, flip=1.0, cloth=(0.0, 0.0)):  # fmt: skip
        def index(table, value):
            return self.scalar(table[value] if isinstance(value, str) else value).long()

        near, region = index(_M, near), index(_R, region)
        self.parts.append(
            {
                "a": a, "b": b, "ra": self.scalar(ra), "rb": self.scalar(rb), "near": near, "near_region": region,
                "far": near if far is None else index(_M, far), "far_region": region if far_region is None else index(_R, far_region),
                "cut": self.scalar(cut), "clip0": self.scalar(clip[0]), "clip1": self.scalar(clip[1]), "turn": self.scalar(turn),
                "feature": index(_F, feature), "lift": self.scalar(lift), "flip": self.scalar(flip),
                "cloth": torch.stack([self.scalar(side) for side in cloth], -1),
            }
        )  # fmt: skip

    def finish(self, keypoints: torch.Tensor, margin: float = 0.012) -> Parts:
        while len(self.parts) < SLOTS:
            nowhere = torch.full((self.count, 3), 0.0, dtype=torch.float64, device=self.zero.device)
            self.add(nowhere, nowhere, -1.0, -1.0, "dark", "background", lift=-9.0)
        stack = {k: torch.stack([part[k] for part in self.parts], 1) for k in self.parts[0]}
        cos, sin = self.poses.yaw.cos()[:, None], self.poses.yaw.sin()[:, None]

        def turned(point):
            x, y, z = point.unbind(-1)
            return torch.stack([x * cos + z * sin, y, z * cos - x * sin], -1)

        a3, b3, joints = turned(stack["a"]), turned(stack["b"]), turned(keypoints)
        exists = stack["ra"] > 0
        reach = torch.maximum(stack["ra"], stack["rb"])[..., None]
        far = torch.full_like(a3[..., :2], 1e3)
        low = torch.where(exists[..., None], torch.minimum(a3, b3)[..., :2] - reach, far).amin(1)
        high = torch.where(exists[..., None], torch.maximum(a3, b3)[..., :2] + reach, -far).amax(1)
        # The figure keeps its size unless it would leave the frame; its place is anywhere that still shows all of it.
        extent = high - low
        room = 1 - 2 * margin
        unit = torch.minimum(self.poses.scale, (room / extent).amin(-1))
        slack = room - extent * unit[:, None]
        place = torch.stack([self.poses.x, self.poses.y], -1)
        origin = margin + slack * place - low * unit[:, None]

        def framed(point):
            return point[..., :2] * unit[:, None, None] + origin[:, None]

        depth = (a3[..., 2] + b3[..., 2]) / 2 + stack["lift"]
        order = depth.argsort(dim=1, stable=True)

        def sort(value):
            return value.gather(1, order.reshape(order.shape + (1,) * (value.dim() - 2)).expand_as(value))

        length3 = (stack["b"] - stack["a"]).norm(dim=-1)
        result = {
            "a": framed(a3), "b": framed(b3), "ra": stack["ra"] * unit[:, None], "rb": stack["rb"] * unit[:, None], "length3": length3,
            "radius3": (stack["ra"] + stack["rb"]) / 2, "clip0": stack["clip0"], "clip1": stack["clip1"], "turn": stack["turn"],
            "flip": stack["flip"], "depth": depth, "near": stack["near"], "far": stack["far"], "near_region": stack["near_region"],
            "far_region": stack["far_region"], "cut": stack["cut"], "feature": stack["feature"], "cloth": stack["cloth"],
            "name": torch.arange(SLOTS, device=order.device).expand_as(order),
        }  # fmt: skip
        return Parts(**{k: sort(v) for k, v in result.items()}, keypoints=framed(joints), unit=unit)


def _ball(body: _Body, centre, down, radius, *args, **kwargs):
    """A round part: a very short capsule whose axis still says which way is down."""
    body.add(centre, centre + down * 1e-3, radius, radius, *args, **kwargs)


def _person(who: Identities, poses: Poses) -> Parts:
    body = _Body(poses)

    def size(name):
        return torch.tensor(_PERSON[name], dtype=torch.float64, device=who.kind.device)[who.kind][:, None]

    lean, spine = poses.lean, poses.spine
    up = torch.stack([lean.sin(), -lean.cos() * spine.cos(), -spine.sin() * lean.cos()], -1)
    down = -up
    across = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64, device=lean.device).expand_as(up)
    tilt = lean * 0.5 + poses.head
    head_up = torch.stack([tilt.sin(), -tilt.cos(), torch.zeros_like(tilt)], -1)
    front = torch.stack([torch.zeros_like(lean), torch.zeros_like(lean), torch.ones_like(lean)], -1)

    pelvis = torch.zeros_like(up)
    neck = pelvis + up * size("torso")
    radius = size("head")
    head = neck + head_up * (radius * 0.98)
    bones = poses.bones
    limb = size("limb")[:, 0]
    top, bottom = who.top, who.bottom
    dress, skirt = top == 4, (bottom == 2) & (top != 4)
    bare_arm = top == 2
    short_sleeve = (top == 0) | dress
    bare_leg = (bottom == 2) | dress
    leg_material = torch.where(bare_leg, _M["skin"], _M["bottom"])
    leg_region = torch.where(bare_leg, _R["skin"], _R["bottom"])
    shorts = (bottom == 1) & ~dress
    shin_material = torch.where(bare_leg | shorts, _M["skin"], _M["bottom"])
    shin_region = torch.where(bare_leg | shorts, _R["skin"], _R["bottom"])
    points = {1: neck, 0: head + front * radius * 0.9}

    for side, first, keys in ((1.0, 4, (11, 12, 13)), (-1.0, 6, (8, 9, 10))):
        hip, hips, length = pelvis + across * side * size("hip"), size("hip")[:, 0] * 1.3, size("leg")[:, 0]
        knee = hip + _direction(side, bones[:, first]) * size("leg")
        ankle = knee + _direction(side, bones[:, first + 1]) * size("leg")
        shin = _direction(side, bones[:, first + 1])
        # A foot points forwards, or along the shin where the shin lies on the ground.
        toe = ankle + (front * 0.8 + shin * 0.2 + across * side * 0.25) * limb[:, None] * 0.9
        body.add(hip, knee, limb * 1.25, limb * 1.02, leg_material, leg_region, far="skin", far_region="skin",
                 cut=torch.where(shorts, 0.11, NEVER), lift=-0.03, cloth=(side * hips, 0.0))  # fmt: skip
        body.add(knee, ankle, limb * 1.02, limb * 0.86, shin_material, shin_region, lift=-0.035, cloth=(side * hips, length))
        body.add(ankle, toe, limb * 0.98, limb * 0.92, "shoes", "shoes", lift=-0.01)
        points.update({keys[0]: hip, keys[1]: knee, keys[2]: ankle})

    chest, waist = size("chest")[:, 0], size("waist")[:, 0]
    body.add(
        neck + down * chest[:, None] * 0.8, pelvis + up * waist[:, None] * 0.35, chest, waist, "top", "top", turn=poses.yaw, feature="chest"
    )
    hem = torch.where(dress | skirt, waist * 1.55, -1.0)
    body.add(pelvis + up * 0.02, pelvis + down * torch.where(dress, 0.17, 0.13)[:, None], torch.where(dress | skirt, waist, -1.0), hem,
             torch.where(dress, _M["top"], _M["bottom"]), torch.where(dress, _R["top"], _R["bottom"]), turn=poses.yaw,
             clip=(-0.05, torch.where(dress, 0.23, 0.18)), lift=0.05, cloth=(0.0, size("torso")[:, 0] - 0.8 * chest))  # fmt: skip

    sleeve = torch.where(bare_arm, _M["skin"], _M["top"])
    sleeve_region = torch.where(bare_arm, _R["skin"], _R["top"])
    forearm = torch.where(bare_arm | short_sleeve, _M["skin"], _M["top"])
    forearm_region = torch.where(bare_arm | short_sleeve, _R["skin"], _R["top"])
    for side, first, keys in ((1.0, 0, (5, 6, 7)), (-1.0, 2, (2, 3, 4))):
        shoulder = neck + across * side * size("shoulder") + down * 0.055
        elbow = shoulder + _direction(side, bones[:, first]) * size("arm")
        wrist = elbow + _direction(side, bones[:, first + 1]) * size("arm")
        body.add(shoulder, elbow, limb * 0.98, limb * 0.82, sleeve, sleeve_region, far="skin", far_region="skin",
                 cut=torch.where(short_sleeve, 0.1, NEVER), lift=0.09, feature="sleeve")  # fmt: skip
        body.add(elbow, wrist, limb * 0.82, limb * 0.7, forearm, forearm_region, lift=0.1, feature="sleeve")
        _ball(body, wrist + _direction(side, bones[:, first + 1]) * 0.02, down, limb * 0.85, "skin", "skin", lift=0.12)
        points.update({keys[0]: shoulder, keys[1]: elbow, keys[2]: wrist})

    body.add(neck + down * 0.02, neck + head_up * 0.05, 0.045, 0.045, "skin", "skin", lift=0.13)
    r = radius[:, 0]
    head_down = -head_up
    head_turn = {"turn": poses.yaw}
    _ball(body, head, head_down, r, "skin", "skin", feature="face", lift=0.16, **head_turn)
    style = who.hair
    bulk = torch.where(style == HAIR.index("curly"), 1.34, torch.where(style == HAIR.index("long"), 1.16, 1.1))
    _ball(body, head + head_up * (r * 0.1)[:, None], head_down, r * bulk, "hair", "hair", lift=0.12, **head_turn)
    long, bun, spiky = (style == HAIR.index(name) for name in ("long", "bun", "spiky"))
    hat = (who.headgear == HEADGEAR.index("cap")) | (who.headgear == HEADGEAR.index("beanie"))
    spiky_shown, bun_shown = spiky & ~hat, bun & ~hat
    for side in (-1.0, 0.0, 1.0):
        root = head + across * (side * 0.55 * r)[:, None] + head_up * (r * (0.55 if side else 0.75))[:, None]
        lock_end = head + across * (side * 0.98 * r)[:, None] + head_down * (r * 1.45)[:, None]
        spike_end = head + across * (side * 1.0 * r)[:, None] + head_up * (r * (1.25 if side else 1.6))[:, None]
        bun_at = head + head_up * (r * 1.22)[:, None]
        use_bun = bun_shown if side == 0 else torch.zeros_like(bun)
        use_lock = long if side else torch.zeros_like(long)
        lock_start = head + across * (side * 0.98 * r)[:, None]
        a = torch.where(use_lock[:, None], lock_start, torch.where(use_bun[:, None], bun_at, root))
        b = torch.where(use_lock[:, None], lock_end, torch.where(use_bun[:, None], bun_at + head_down * 1e-3, spike_end))
        ra = torch.where(use_lock, r * 0.34, torch.where(use_bun, r * 0.5, torch.where(spiky_shown, r * 0.42, -1.0)))
        rb = torch.where(use_lock, r * 0.26, torch.where(use_bun, r * 0.5, torch.where(spiky_shown, r * 0.05, -1.0)))
        body.add(a, b, ra, rb, "hair", "hair", lift=torch.where(use_lock, 0.15, 0.11))
    band = who.headgear == HEADGEAR.index("headband")
    dome = torch.where(hat, r * 1.14, torch.where(band, r * 1.06, -1.0))
    clip1 = torch.where(band, -r * 0.28, -r * 0.3)
    clip0 = torch.where(band, -r * 0.62, -NEVER)
    _ball(body, head, head_down, dome, "headgear", "headgear", clip=(clip0, clip1), lift=0.2, **head_turn)
    cap = who.headgear == HEADGEAR.index("cap")
    brim = head + head_up * (r * 0.34)[:, None] + front * (r * 1.5)[:, None]
    pompom = head + head_up * (r * 1.22)[:, None]
    a = torch.where(cap[:, None], head + head_up * (r * 0.34)[:, None] + front * (r * 0.4)[:, None], pompom)
    b = torch.where(cap[:, None], brim, pompom + head_down * 1e-3)
    rim = torch.where(cap, r * 0.3, torch.where(hat, r * 0.34, -1.0))
    body.add(a, b, rim, torch.where(cap, r * 0.22, rim), "headgear", "headgear", lift=0.1)
    eye, ear = across * (0.38 * r)[:, None], across * (0.95 * r)[:, None]
    ahead = head + front * (0.8 * r)[:, None]
    points.update({14: ahead - eye, 15: ahead + eye, 16: head - ear, 17: head + ear})
    return body.finish(torch.stack([points[i] for i in range(KEYPOINTS)], 1))


def _animal(who: Identities, poses: Poses) -> Parts:
    body = _Body(poses)
    species = who.kind - KIND.index("cat")

    def size(name):
        return torch.tensor(_ANIMAL[name], dtype=torch.float64, device=who.kind.device)[species][:, None]

    pitch = poses.spine
    zero = torch.zeros_like(pitch)
    forward = torch.stack([zero, -pitch.sin(), pitch.cos()], -1)
    across = torch.stack([zero + 1, zero, zero], -1)
    down = torch.stack([zero, zero + 1, zero], -1)
    # Textures of a flank read from the spine downwards whichever side is shown.
    flank = torch.where(poses.yaw > 0, 1.0, -1.0)
    rump = torch.zeros_like(forward)
    withers = rump + forward * size("spine")
    barrel, limb = size("barrel")[:, 0], size("limb")[:, 0]
    points = {}
    socks = torch.where(who.socks, _M["coat second"], _M["coat"])
    legs = (("hind", rump, 4, {8: 1.0, 11: -1.0}), ("fore", withers, 0, {2: 1.0, 5: -1.0}))
    for _, root, first, sides in legs:
        for key, side in sides.items():
            start = first if side > 0 else first + 2
            top = root + across * side * (barrel * 0.62)[:, None] + down * (barrel * 0.7)[:, None]
            joint = top + _direction(side, poses.bones[:, start]) * size("leg")
            foot = joint + _direction(side, poses.bones[:, start + 1]) * size("leg") * 0.9
            toe = foot + torch.stack([zero, zero + 0.15, zero + 1.0], -1) * (limb * 0.75)[:, None]
            thick = 1.25 if first == 4 else 1.05
            body.add(top, joint, limb * thick, limb, "coat", "legs", lift=side * 0.0)
            body.add(joint, foot, limb, limb * 0.85, "coat", "legs", far=socks, far_region="legs", cut=size("leg")[:, 0] * 0.3)
            body.add(foot, toe, limb * 0.95, limb * 0.9, socks, "legs", lift=0.005)
            points.update({key: top, key + 1: joint, key + 2: foot})
    body.add(rump, withers, barrel * 0.95, barrel, "coat", "body", turn=zero, feature="barrel", flip=flank, lift=0.02)
    rise = 0.85 - 0.35 * pitch
    neck_up = torch.stack([zero, -rise.sin(), rise.cos()], -1)
    neck_base = withers + torch.stack([zero, zero - 0.25, zero + 0.2], -1) * barrel[:, None]
    head = neck_base + neck_up * size("neck")
    r = size("head")[:, 0]
    body.add(neck_base, head, barrel * 0.66, r * 0.68, "coat", "body", flip=flank, lift=0.03)
    gaze = poses.head * 0.8 + 0.12
    nose = torch.stack([zero, gaze.sin(), gaze.cos()], -1)
    crown = torch.stack([zero, -gaze.cos(), gaze.sin()], -1)
    _ball(body, head, -crown, r, "coat", "head", feature="muzzle", turn=poses.yaw, lift=0.06, flip=1.0)
    tip = head + nose * (r * 0.55)[:, None] + nose * size("snout") - crown * (r * 0.25)[:, None]
    muzzle = size("muzzle")[:, 0]
    snout = torch.where(who.coat == COAT.index("masked"), _M["coat second"], _M["coat"])
    body.add(head - crown * (r * 0.18)[:, None], tip, muzzle * 1.35, muzzle, snout, "head", feature="snout", lift=0.03)
    _ball(body, tip + nose * (muzzle * 0.6)[:, None] + crown * (muzzle * 0.35)[:, None], -crown, 0.026, "dark", "head", lift=0.05)
    for side in (1.0, -1.0):
        tilt = size("ear_tilt")
        lean = crown * tilt.cos() + across * side * tilt.sin() * 0.7 - nose * tilt.sin() * 0.45
        base = head + crown * (r * 0.75)[:, None] + across * side * (r * 0.5)[:, None]
        body.add(
            base,
            base + lean * size("ear"),
            size("ear_base")[:, 0],
            size("ear_tip")[:, 0],
            "coat second",
            "head",
            lift=0.07 if side > 0 else -0.02,
        )
    swing = poses.tail
    back = torch.stack([zero, -(swing * 0.6).sin(), -(swing * 0.6).cos()], -1)
    tail_root = rump - forward * (barrel * 0.75)[:, None] - down * (barrel * 0.35)[:, None]
    tail_mid = tail_root + back * size("tail")
    curl = torch.stack([zero, -(swing * 1.3).sin(), -(swing * 1.3).cos()], -1)
    middle = (size("tail_base") + size("tail_tip"))[:, 0] / 2
    body.add(tail_root, tail_mid, size("tail_base")[:, 0], middle, "coat", "tail", lift=0.0, flip=flank)
    tail_end = tail_mid + curl * size("tail") * 0.8
    body.add(
        tail_mid,
        tail_end,
        middle,
        size("tail_tip")[:, 0],
        torch.where(who.tail_tip, _M["coat second"], _M["coat"]),
        "tail",
        lift=0.0,
        flip=flank,
    )
    worn = who.collar > 0
    scarf = who.collar == 2
    wide = torch.where(worn, torch.maximum(barrel * 0.7, r * 0.74), -1.0)
    centre = neck_base + neck_up * size("neck") * 0.42
    half = torch.where(scarf, 0.05, 0.03)
    body.add(
        centre - neck_up * 0.02, centre + neck_up * 0.02, wide, wide * 0.97, "collar", "collar", clip=(0.02 - half, 0.02 + half), lift=0.045
    )
    hang = torch.where(scarf, 0.042, -1.0)
    knot = centre + down * (wide * 0.7)[:, None] + nose * 0.02
    body.add(knot, knot + down * 0.14 - nose * 0.02, hang, hang, "collar", "collar", lift=0.16)
    eye = across * r[:, None] * 0.5
    points.update({1: neck_base, 0: tip, 14: head + eye, 15: head - eye, 16: head + crown * r[:, None], 17: tail_root})
    return body.finish(torch.stack([points[i] for i in range(KEYPOINTS)], 1))


def assemble(identities: Identities, poses: Poses) -> Parts:
    """Parts of every subject of a batch, people and animals mixed."""
    person = identities.person
    indices = [person.nonzero()[:, 0], (~person).nonzero()[:, 0]]
    built = [build(identities[i], poses[i]) for build, i in zip((_person, _animal), indices, strict=True) if len(i)]
    order = torch.cat([i for i in indices if len(i)]).argsort()
    return Parts.join(built)[order]
