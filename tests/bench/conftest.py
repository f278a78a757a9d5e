"""What several tests of the bench need."""

import pytest
import torch

from bench.drawing import Model
from bench.identity.tasks import TASKS
from bench.model import tokenizer as bpe
from bench.model.embedded import Embedded
from bench.model.shape import Shape
from seal_ext.studio.checkpoint import Expanded

TINY = Shape(width=32, head=16, context=32, text_layers=1, text_heads=2, vae_width=32, vae_multipliers=(1, 1, 1, 1))


@pytest.fixture(scope="module")
def one_thread():
    """Small tensors are slower on many threads, and sums of one order are the same on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained model: its pictures mean nothing, but every method must get through with it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    task = TASKS["pose"](torch.arange(8))
    bpe.write(folder / "tokenizer", bpe.train(c.text for c in task.prompts), TINY)
    untrained = Embedded(TINY)
    for name, parameter in untrained.named_parameters():
        if "conv_out" in name or "proj_out" in name:  # LDM's zero starts would hide what attention does
            torch.nn.init.normal_(parameter, std=0.1)
    files = Expanded(folder / "tiny.safetensors", folder / "tiny.yaml", folder / "tokenizer", folder / "adapter.safetensors")
    untrained.save(files.checkpoint, files.tokenizer, files.adapter)
    return Model(files)
