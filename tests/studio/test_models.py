"""Checkpoints of the user's own: told apart by their header, refused in one sentence, opened without network."""

import pytest
import torch
from safetensors.torch import save_file

from seal_ext.studio.cli import UserError
from seal_ext.studio.models import SAMPLERS, open_studio, read_shapes


def checkpoint(path, channels=4, **more):
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, channels, 3, 3)} | more, path)
    return path


def test_shapes_come_from_the_header(tmp_path):
    assert read_shapes(checkpoint(tmp_path / "x.safetensors")) == {"model.diffusion_model.input_blocks.0.0.weight": [8, 4, 3, 3]}


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x10" + b"\0" * 7 + b"not json at all."])
def test_damaged_files_are_said(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        open_studio(tmp_path / "x.safetensors", device="cpu")


def test_other_kinds_of_model_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="inpainting"):
        open_studio(checkpoint(tmp_path / "in.safetensors", 9), device="cpu")
    save_file({"lora": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match="U-Net"):
        open_studio(tmp_path / "lora.safetensors", device="cpu")
    with pytest.raises(UserError, match="model_index"):
        open_studio(checkpoint(tmp_path / "x.safetensors"), config=tmp_path, device="cpu")


def test_a_missing_device_is_said():
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="cuda"):
            open_studio(device="cuda")


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_can_be_used(studio, name):
    studio.use_sampler(name)
    assert type(studio.pipe.scheduler).__name__ == SAMPLERS[name][0]
    assert studio.structured.scheduler is studio.pipe.scheduler


def test_what_a_model_is_made_for(studio):
    assert (studio.architecture, studio.size, studio.guidance) == ("sd1", 128, 4.0)
