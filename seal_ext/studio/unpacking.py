"""The embedded model unpacked from its shards, for whoever wants it as files. It stands alone: Python itself is all it needs.

On disk it is what a WebUI expects of an SD1 model: `<name>.safetensors` in LDM's layout, `<name>.yaml` beside it,
whose text encoder points at a tokenizer folder, and a T2I-Adapter in a file of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EMBEDDED = Path(__file__).resolve().parents[2] / "embedded"  # the shards that come with the project
MANIFEST = "manifest.json"
MODEL, ADAPTER, DESCRIPTION, TOKENIZER = "model", "adapter", "model.yaml", "tokenizer"
SCALE = "|scale"  # marks the scales of a tensor kept as bytes; no weight's name has a bar
ABOUT = "__metadata__"  # of a safetensors file, beside its tensors
Tensors = dict[str, tuple[list[int], bytes]]  # shapes, and single precision in little-endian order


class CheckpointError(ValueError):
    """A checkpoint, or the files it is made from, is not as it should be; the message is one line for a person."""


@dataclass(frozen=True)
class Expanded:
    """Where the parts of an expanded checkpoint lie; `adapter` is None if the shards hold none."""

    checkpoint: Path
    description: Path
    tokenizer: Path
    adapter: Path | None


def read_manifest(folder: Path) -> dict:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no {MANIFEST}") from None
    except ValueError as error:
        raise CheckpointError(f"{folder / MANIFEST} is not readable as JSON: {error}") from None
    if manifest.get("format") != 1:
        raise CheckpointError(f"{folder / MANIFEST} has format {manifest.get('format')!r}; this version reads format 1")
    return manifest


def read(folder: Path, entry: Mapping) -> bytes:
    """A file the manifest names, whole and unchanged or not at all."""
    path = folder / entry["file"]
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    if len(data) != entry["bytes"]:
        raise CheckpointError(f"{path} has {len(data)} bytes, not {entry['bytes']}; was it fetched whole?")
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the manifest's")
    return data


def expand(shards_dir: Path | str, target_dir: Path | str, adapter_dir: Path | str | None = None) -> Expanded:
    """Assemble the checkpoint in `target_dir`; what is already there and whole stays untouched.

    A WebUI lists whatever weights lie in its model folder, so the adapter can be put into another one. The adapter's
    name is what the ControlNet extension tells kind and base model by.
    """
    shards, target = Path(shards_dir), Path(target_dir).absolute()
    manifest = read_manifest(shards)
    if absent := {"name", "weights", "files"} - manifest.keys():
        raise CheckpointError(f"{shards / MANIFEST} says nothing of {', '.join(sorted(absent))}")
    name, weights = manifest["name"], manifest["weights"]
    adapter = (target if adapter_dir is None else Path(adapter_dir).absolute()) / f"{name}-t2iadapter-sd15.safetensors"
    result = Expanded(
        target / f"{name}.safetensors", target / f"{name}.yaml", target / f"{name}-tokenizer", adapter if ADAPTER in weights else None
    )
    for entry in manifest["files"]:
        data, path = read(shards, entry), Path(entry["file"])
        if path.name == DESCRIPTION:
            _put(result.description, _pointing_at(data.decode(), str(result.tokenizer)).encode())
        else:
            _put(result.tokenizer / path.name, data)
    for part, made in ((MODEL, result.checkpoint), (ADAPTER, result.adapter)):
        if made is not None:
            stamp = hashlib.sha256("".join(entry["sha256"] for entry in weights[part]).encode()).hexdigest()
            if _stamp(made) != stamp:
                _put(made, _packed(_restored(read(shards, entry) for entry in weights[part]), stamp))
    return result


def _pointing_at(description: str, tokenizer: str) -> str:
    before = f"version: {TOKENIZER}\n"
    if description.count(before) != 1:
        raise CheckpointError(f"{DESCRIPTION} does not name its tokenizer")
    return description.replace(before, f"version: {json.dumps(tokenizer)}\n")  # JSON's quotes are YAML's, too


def _restored(shards: Iterable[bytes]) -> Tensors:
    """The weights of all shards together, in single precision."""
    found: Tensors = {}
    for shard in shards:
        data = zlib.decompress(shard)
        header, start = _header(data)
        raw = {name: data[start + told["data_offsets"][0] : start + told["data_offsets"][1]] for name, told in header.items()}
        for name, told in header.items():
            if not name.endswith(SCALE):
                found[name] = told["shape"], _single(raw[name], told, raw.get(name + SCALE))
    return found


def _single(data: bytes, told: Mapping[str, Any], scales: bytes | None) -> bytes:
    """Halves, or bytes with a scale for each row, in single precision, which holds both exactly."""
    count = math.prod(told["shape"])
    if scales is None:
        return _little(array("f", struct.unpack(f"<{count}e", data)))
    rows, width = told["shape"][0], count // told["shape"][0]
    codes, made = [byte - 256 if byte > 127 else byte for byte in range(256)], []
    for row, scale in enumerate(struct.unpack(f"<{rows}f", scales)):
        values = _little(array("f", [code * scale for code in codes]))
        table = [values[4 * byte : 4 * byte + 4] for byte in range(256)]
        made.append(b"".join(map(table.__getitem__, data[row * width : (row + 1) * width])))
    return b"".join(made)


def _little(numbers: array) -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _packed(tensors: Tensors, stamp: str) -> bytes:
    """A safetensors file of these."""
    header: dict[str, Any] = {ABOUT: {"shards": stamp}}
    at = 0
    for name in sorted(tensors):
        shape, data = tensors[name]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(tensors[name][1] for name in sorted(tensors))])


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of its tensors, and where their bytes begin."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return {name: told for name, told in header.items() if name != ABOUT}, 8 + length


def _stamp(path: Path) -> str | None:
    """What an expanded file was made from; None where there is none, or none that is whole."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length < path.stat().st_size else {}
        end = max(told["data_offsets"][1] for name, told in header.items() if name != ABOUT)
        return header.get(ABOUT, {}).get("shards") if path.stat().st_size == 8 + length + end else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError, struct.error):
        return None


def _put(path: Path, data: bytes) -> None:
    """Make `path` hold `data`, at no moment less than all of it."""
    if path.exists() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
