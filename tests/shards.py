"""Shards read with torch: the known answer for what is unpacked without it."""

import zlib

from safetensors.torch import load

from seal_ext.studio.unpacking import SCALE, read


def assemble(folder, entries):
    """The weights of all shards together, in single precision."""
    stored = {}
    for entry in entries:
        stored |= load(zlib.decompress(read(folder, entry)))
    scales = {name.removesuffix(SCALE): scale for name, scale in stored.items() if name.endswith(SCALE)}
    rows = {name: scale.reshape(-1, *[1] * (stored[name].ndim - 1)) for name, scale in scales.items()}
    return {name: tensor.float() * rows.get(name, 1.0) for name, tensor in stored.items() if not name.endswith(SCALE)}
