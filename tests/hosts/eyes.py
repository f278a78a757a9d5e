"""An extension for test runs: what stands for the CLIP vision models by which IP-Adapter units see a picture, since these weigh gigabytes.

A picture is a coarse copy of itself. Everything after it is the host's own: the adapter's projection, and its tokens in cross-attention.
"""

import importlib
import sys
from types import SimpleNamespace

import torch
from modules import script_callbacks

SIDE = 8  # cells of the copy, of three colours each


def look(picture: torch.Tensor) -> torch.Tensor:
    """Pictures (count, height, width, 3) in 0 … 1 as (count, SIDE * SIDE * 3)."""
    return torch.nn.functional.adaptive_avg_pool2d(picture[..., :3].movedim(-1, 1).float(), SIDE).flatten(1) - 0.5


class Eyes:
    """As the ControlNet that is built into Forge and reForge asks it."""

    def encode_image(self, picture, *args, **kwargs):
        return SimpleNamespace(image_embeds=look(picture))


class Detector:
    """As sd-webui-controlnet asks it."""

    def __init__(self, *args):
        pass

    def __call__(self, picture):
        return {"image_embeds": look(torch.from_numpy(picture)[None] / 255)}

    def unload_model(self):
        pass


def _allow(layers):
    """A late torch refuses, on the CPU, weights that were read before inference began in layers that are made after it."""
    own = layers.__init__

    def init(self, state):
        own(self, {name: value.clone() for name, value in state.items()})

    layers.__init__ = init


def install(*args):
    """When all extensions are there."""
    built_in = sys.modules.get("modules_forge.shared")
    if built_in:
        for preprocessor in built_in.supported_preprocessors.values():
            if hasattr(preprocessor, "load_clipvision"):
                preprocessor.clipvision = Eyes()  # else loaded when it is first asked
        _allow(sys.modules["lib_ipadapter.IPAdapterPlus"].To_KV)
    elif "annotator" in sys.modules:
        importlib.import_module("annotator.clipvision").ClipVisionDetector = Detector


script_callbacks.on_app_started(install)
