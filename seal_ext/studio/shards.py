"""A checkpoint kept as small files with a manifest, so that it can live in a repository and be checked when read.

Weights are halves, or, where told, bytes with one scale per output channel (the first dimension); they come back
as single precision, which holds both exactly. The manifest names every file with its size and SHA-256.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from .unpacking import MANIFEST, SCALE, read_manifest

LIMIT = 15 * 2**20  # bytes
DEFLATED = ".zz"  # quantised weights still deflate by a twentieth or more
SMALL = 4096  # elements up to which a tensor is not worth quantising


def update_manifest(folder: Path, **entries: object) -> None:
    """Set `entries`; a dictionary joins the one already there."""
    manifest: dict = read_manifest(folder) if (folder / MANIFEST).exists() else {"format": 1}
    for key, value in entries.items():
        manifest[key] = {**manifest.get(key, {}), **value} if isinstance(value, dict) else value
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def record(path: Path, folder: Path) -> dict:
    """What the manifest says of a file."""
    data = path.read_bytes()
    return {"file": path.relative_to(folder).as_posix(), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def shard(state: Mapping[str, Tensor], folder: Path | str, name: str = "model", *, bits: int = 16, limit: int = LIMIT) -> list[Path]:
    """Write `state` as files of at most `limit` bytes and enter them in the manifest under `name`."""
    if bits not in (8, 16):
        raise ValueError(f"weights are kept in 8 or 16 bits, not {bits}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}-[0-9][0-9].safetensors*"):
        old.unlink()
    paths = []
    for number, group in enumerate(_groups(state, bits, limit)):
        paths.append(folder / f"{name}-{number:02}.safetensors{DEFLATED}")
        paths[-1].write_bytes(zlib.compress(save(group), 9))
    update_manifest(folder, weights={name: [record(path, folder) for path in paths]})
    return paths


def _groups(state: Mapping[str, Tensor], bits: int, limit: int) -> Iterator[dict[str, Tensor]]:
    group: dict[str, Tensor] = {}
    size = 0
    for name, tensor in state.items():
        parts = _stored(name, tensor, bits)
        # A generous allowance for the header: an entry is some 80 bytes besides its name.
        weight = sum(part.nbytes + len(key) + 160 for key, part in parts.items())
        if weight + 64 > limit:
            raise ValueError(f"{name} alone is larger than a shard may be")
        if group and size + weight + 64 > limit:
            yield group
            group, size = {}, 0
        group.update(parts)
        size += weight
    if group:
        yield group


def _stored(name: str, tensor: Tensor, bits: int) -> dict[str, Tensor]:
    tensor = tensor.detach().to("cpu", torch.float32).contiguous()
    if not tensor.isfinite().all():
        raise ValueError(f"{name} holds values that are not finite")
    if bits == 8 and tensor.ndim > 1 and tensor.numel() > SMALL:
        scale = tensor.flatten(1).abs().amax(1).clamp_min(1e-12) / 127
        codes = (tensor / _along_first(scale, tensor)).round().to(torch.int8)
        return {name: codes, name + SCALE: scale}
    half = tensor.half()
    if not half.isfinite().all():
        raise ValueError(f"{name} holds values beyond half precision")
    return {name: half}


def _along_first(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (tensor.ndim - 1))
