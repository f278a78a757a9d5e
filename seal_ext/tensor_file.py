"""Tensors in a file of the safetensors format, written and read one after the other, with a sum that tells whether all of it is sound.

Such a file holds numbers and their names, and nothing in it is ever run. Any program that reads safetensors opens it.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I8": torch.int8}
NAMES = {dtype: name for name, dtype in KINDS.items()}
TOLD, SUM = "__metadata__", "sum"  # the format's name for the texts beside the tensors; ours for the last tensor, a checksum of all others
LONGEST_HEADER = 1 << 24
Shape = tuple[torch.dtype, tuple[int, ...]]


class Damaged(Exception):
    """A file that is not what it should be."""


def shape_of(x: Tensor) -> Shape:
    return x.dtype, tuple(x.shape)


def bytes_of(shape: Shape) -> int:
    return math.prod(shape[1]) * torch.empty(0, dtype=shape[0]).element_size()


def length(shapes: Mapping[str, Shape]) -> int:
    """How many bytes stand after the header."""
    return sum(map(bytes_of, shapes.values())) + 8


def header(told: Mapping[str, str], shapes: Mapping[str, Shape]) -> bytes:
    """What stands before the tensors. Their bytes follow in this order, and those of the sum."""
    rows: dict[str, Any] = {TOLD: dict(told)}
    at = 0
    for name, shape in {**shapes, SUM: (torch.int64, (1,))}.items():
        end = at + bytes_of(shape)
        rows[name] = {"dtype": NAMES[shape[0]], "shape": list(shape[1]), "data_offsets": [at, end]}
        at = end
    text = json.dumps(rows, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write(file: BinaryIO, head: bytes, tensors: Iterable[Tensor]) -> None:
    """Write the tensors that a header announces; each is asked for when the one before it is written."""
    file.write(head)
    told = 0
    for x in tensors:
        raw = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        told = zlib.crc32(raw, told)
        file.write(raw)
    file.write(struct.pack("<q", told))


def read(path: Path) -> tuple[dict[str, str], Iterator[tuple[str, Tensor]]]:
    """The texts of a file and its tensors, one after the other; Damaged before the first or after the last, if they are not sound."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 0 < length <= min(LONGEST_HEADER, size) else b""
    try:
        rows = json.loads(text)
        told = {str(name): str(value) for name, value in rows.pop(TOLD).items()}
        shapes = {name: (KINDS[row["dtype"]], tuple(map(int, row["shape"]))) for name, row in rows.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged("no header") from error
    if min((n for _, shape in shapes.values() for n in shape), default=0) < 0 or list(shapes)[-1:] != [SUM]:
        raise Damaged("no sum")
    if 8 + length + sum(map(bytes_of, shapes.values())) != size:
        raise Damaged("another length")
    return told, _tensors(path, 8 + length, shapes)


def _tensors(path: Path, start: int, shapes: Mapping[str, Shape]) -> Iterator[tuple[str, Tensor]]:
    told = 0
    with path.open("rb") as file:
        file.seek(start)
        for name, shape in shapes.items():
            raw = bytearray(file.read(bytes_of(shape)))
            if len(raw) != bytes_of(shape) or (name == SUM and struct.unpack("<q", raw)[0] != told):
                raise Damaged("another sum")
            if name != SUM:
                told = zlib.crc32(raw, told)
                x = torch.frombuffer(raw, dtype=torch.uint8).view(shape[0]) if raw else torch.empty(0, dtype=shape[0])
                yield name, x.reshape(shape[1])
