"""The reference: a picture of the character with all that came along with it, the same in every host."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .core.canvas import as_tensor, fit, known_on
from .core.control_map import body_of
from .core.fingerprint import fingerprint
from .core.guide import Known
from .core.mask import Subject
from .core.pixels import AlignError, Mask, Pixels, as_bytes, checked_image, on_white
from .core.skeleton import Skeleton, read_skeleton
from .core.subject import Way, find_subject

POSE_TEXT = "SeAl pose"  # within a picture of the page's gallery
MOST_ASKEW = 1.05  # how much two pictures' shapes may differ: sizes of latents are whole, and pictures are cropped to them


@dataclass(frozen=True, eq=False)
class Reference:
    """A picture of the character as it was given; what was drawn on it, its pose, and its subject once somebody looked."""

    pixels: Pixels  # RGB or RGBA; bytes, or floats from 0 to 1
    drawn: Mask | None = None  # where somebody painted
    pose: Pixels | Skeleton | None = None  # its OpenPose skeleton, RGB bytes of any size in its shape; or its joints in its pixels
    weight: float = 1.0
    subject: Subject | None = None

    @classmethod
    def of(cls, picture: object, **more: Any) -> Reference:
        """From a picture in any of the usual forms: PIL, an array (height, width, channels), or a tensor (channels, height, width)."""
        if isinstance(picture, Reference):
            return picture
        if isinstance(picture, Image.Image):
            picture = picture.convert("RGBA" if "A" in picture.getbands() or "transparency" in picture.info else "RGB")
        if isinstance(picture, Tensor):
            picture = picture.detach().float().cpu().movedim(0, -1).numpy() if picture.ndim == 3 else picture.detach().float().cpu().numpy()
        pixels = checked_image(np.asarray(picture), "the reference")
        return cls(np.ascontiguousarray(np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels), **more)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def alpha(self) -> Pixels | None:
        return self.pixels[..., 3] if self.pixels.shape[2] == 4 else None

    @cached_property
    def rgb(self) -> Pixels:
        """What every network sees: the picture on white paper."""
        return on_white(self.pixels)

    @property
    def hash(self) -> str:
        """Tells pictures apart, not files: the same for the same content."""
        parts = (self.alpha, self.drawn, self.pose.points if isinstance(self.pose, Skeleton) else self.pose)
        return fingerprint(self.pixels[..., :3], *(part for part in parts if part is not None))[:16]

    @cached_property
    def skeleton(self) -> Skeleton | None:
        """Its joints in its own pixels, where its pose was given."""
        if self.pose is None or isinstance(self.pose, Skeleton):
            return self.pose
        found, (height, width) = read_skeleton(self.pose), self.size
        return found and found.moved((width / self.pose.shape[1], height / self.pose.shape[0]))

    # ---- the subject

    def found(self, source: str = "auto", ways: Mapping[str, Way] | None = None) -> Reference:
        """The same with its subject found; AlignError where what was given or chosen finds nothing."""
        return replace(self, subject=find_subject(self.rgb, self.alpha, self.drawn, source, ways))

    @property
    def seen(self) -> Subject:
        """Its subject, of a reference that somebody looked at."""
        if self.subject is None:
            raise ValueError("nobody has looked for the reference's subject")
        return self.subject

    @property
    def standing(self) -> Subject:
        """Where the character stands, for AnchorAlign: its subject with the joints that are known, else the body of its pose."""
        if self.skeleton is None:
            return self.seen
        return replace(self.seen, skeleton=self.skeleton) if self.seen.known else body_of(self.skeleton, *self.size)

    def on_canvas(self, height: int, width: int) -> tuple[Tensor, Tensor | None, Known]:
        """As the U-Net sees it: the whole picture (1, 3, height, width), its subject if that is not all of it, and how it stands."""
        image, inside = fit(as_tensor(self.rgb), height, width)
        if self.subject is not None and self.subject.known:
            inside = inside & (fit(as_tensor(self.subject.mask), height, width)[0][0, 0] > 0.5)
        return image, None if inside.all() else inside, known_on(self.subject, self.skeleton, self.size, height, width)

    # ---- as pictures

    def picture(self) -> Image.Image:
        return Image.fromarray(as_bytes(self.pixels))

    def drawing(self) -> Image.Image | None:
        """What was drawn on it, white on black."""
        return None if self.drawn is None else Image.fromarray(self.drawn.astype(np.uint8) * 255)

    def posture(self) -> Image.Image | None:
        """Its pose as it was given, where that was a map."""
        return Image.fromarray(self.pose) if isinstance(self.pose, np.ndarray) else None

    def aside(self) -> Image.Image:
        """All of it in one picture, as the page's gallery keeps it: what was drawn as transparency, so that it shows; the pose within."""
        drawing, posture = self.drawing(), self.posture()
        picture = self.picture()
        if drawing is not None:
            picture = picture.convert("RGB")
            picture.putalpha(drawing)
        if posture is not None:
            picture.info[POSE_TEXT] = base64.b64encode(png(posture)).decode()
        return picture


def png(picture: Image.Image, **how: Any) -> bytes:
    """A picture as a file, without loss."""
    file = io.BytesIO()
    picture.save(file, "PNG", **how)
    return file.getvalue()


def drawn_on(size: tuple[int, int], mask: Pixels) -> Mask:
    """Where a mask is bright and not transparent, on a picture of this size (height, width)."""
    _same_shape(size, mask, "mask")
    bright = mask[..., :3].max(2) > 127
    if mask.shape[2] == 4:
        bright &= mask[..., 3] > 127
    resized = Image.fromarray(bright.astype(np.uint8) * 255).resize(size[::-1], Image.Resampling.NEAREST)
    inside: Mask = np.asarray(resized) > 127
    return inside


def pose_of(size: tuple[int, int], drawn: Pixels) -> NDArray[np.uint8]:
    """The skeleton of a picture of this size (height, width) on black, in the size it came."""
    _same_shape(size, drawn, "pose")
    pose = drawn[..., :3] if drawn.shape[2] == 3 else np.where(drawn[..., 3:] > 127, drawn[..., :3], 0)
    pose = np.ascontiguousarray(pose.astype(np.uint8))
    if read_skeleton(pose) is None:
        raise AlignError("SeAl finds no OpenPose skeleton on the pose.")
    return pose


def _same_shape(size: tuple[int, int], other: Pixels, name: str) -> None:
    (height, width), (tall, wide) = size, other.shape[:2]
    if not 1 / MOST_ASKEW < wide * height / (tall * width) < MOST_ASKEW:
        said = f"The {name} is {wide} × {tall} pixels and the reference {width} × {height}. Both must have the same shape."
        raise AlignError(said)
