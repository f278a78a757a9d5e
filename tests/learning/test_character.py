"""A character's file: written, read, and refused where anything is wrong with it."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from seal_ext.learning import character as files
from seal_ext.learning.character import Character, CharacterError, hash_of, read, write, write_embedding
from seal_ext.learning.settings import Learning

PICTURE = Image.effect_noise((300, 200), 60).convert("RGB")


@pytest.fixture
def anna():
    pairs = (torch.randn(5, 2, 8), torch.randn(5, 2, 12))
    return Character("anna", "woman", "ab" * 32, "small", Learning().told, "mine", PICTURE, pairs, (torch.randn(8), torch.randn(12)))


@pytest.fixture
def lora():
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    weights = {
        f"{name}.lora_down.weight": torch.randn(2, 8),
        f"{name}.lora_up.weight": torch.randn(8, 2),
        f"{name}.alpha": torch.tensor(2.0),
    }
    return Character("anna", "woman", "ab" * 32, lora=weights)


def test_what_is_written_is_read(anna, tmp_path):
    found = read(write(anna, tmp_path / "anna.safetensors"))
    assert (found.word, found.kind, found.base, found.base_name, found.licence) == ("anna", "woman", "ab" * 32, "small", "mine")
    assert Learning.parse(found.settings) == Learning() and found.stages == 5
    assert max(found.picture.size) == files.SIDE and found.picture.mode == "RGB"
    assert all(torch.equal(a, b) for a, b in zip(anna.pairs + anna.start, found.pairs + found.start, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["anna.safetensors"]


def test_a_lora_is_written_with_the_names_that_webuis_know(lora, tmp_path):
    path = write(lora, tmp_path / "anna.safetensors")
    assert set(load_file(path)) == set(lora.lora)
    found = read(path)
    assert found.stages == 0 and all(torch.equal(x, found.lora[name]) for name, x in lora.lora.items())


def test_an_embedding_is_an_ordinary_one(anna, lora, tmp_path):
    whole = load_file(write_embedding(anna, tmp_path / "xl.safetensors"))
    assert {name: tuple(x.shape) for name, x in whole.items()} == {"clip_l": (1, 8), "clip_g": (1, 12)}
    assert torch.allclose(whole["clip_l"][0], anna.pairs[0][:, 1].mean(0))
    single = load_file(write_embedding(replace(anna, pairs=anna.pairs[:1], start=anna.start[:1]), tmp_path / "one.safetensors"))
    assert list(single) == ["emb_params"]
    with pytest.raises(CharacterError, match="no word"):
        write_embedding(lora, tmp_path / "lora.safetensors")


def test_strength_goes_from_the_class_to_the_character(anna):
    none, half, whole = (anna.of_strength(s)[0] for s in (0.0, 0.5, 1.0))
    assert torch.equal(none, anna.start[0].expand(5, 2, 8)) and torch.allclose(whole, anna.pairs[0], atol=1e-6)
    assert torch.allclose(half, (none + whole) / 2, atol=1e-6)


def test_another_checkpoint_is_said(anna, tmp_path):
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(b"weights")
    assert anna.against("ab" * 32) is None
    assert "another checkpoint (small)" in anna.against(hash_of(checkpoint))


def spoiled(anna, path, told=None, tensors=None, **metadata):
    """Anna's file with something else in it."""
    write(anna, path)
    facts = {"format": 1, "word": "anna", "kind": "woman", "base": "ab" * 32, "settings": {}} | (told or {})
    save_file(anna.tensors if tensors is None else tensors, path, metadata={files.KEY: json.dumps(facts)} | metadata)
    return path


@pytest.mark.parametrize("told", [
    {"format": 2}, {"word": 7}, {"word": "a b"}, {"word": "x" * 60}, {"word": "a:b>"}, {"word": ""}, {"kind": "x" * 200},
    {"kind": ["woman"]}, {"licence": "a\x00b"}, {"settings": [1]}, {"picture": "no picture"}, {"picture": "x" * (1 << 19)}, {"picture": 5},
], ids=str)  # fmt: skip
def test_metadata_that_are_wrong_are_refused(anna, tmp_path, told):
    with pytest.raises(CharacterError):
        read(spoiled(anna, tmp_path / "anna.safetensors", told))


@pytest.mark.parametrize("tensors", [
    {"pairs.0": torch.zeros(5, 3, 8), "start.0": torch.zeros(8)},
    {"pairs.0": torch.zeros(5, 2, 8), "start.0": torch.zeros(9)},
    {"pairs.0": torch.zeros(50, 2, 8), "start.0": torch.zeros(8)},
    {"pairs.0": torch.zeros(5, 2, 8)},
    {"pairs.0": torch.full((5, 2, 8), torch.nan), "start.0": torch.zeros(8)},
    {"pairs.0": torch.zeros(5, 2, 8, dtype=torch.int32), "start.0": torch.zeros(8)},
    {"pairs.1": torch.zeros(5, 2, 8), "start.1": torch.zeros(8)},
    {"weights": torch.zeros(8)},
    {"lora_unet_x.lora_down.weight": torch.zeros(2, 8)},
    {f"lora_unet_x.{part}": torch.zeros(shape) for part, shape in
     (("lora_down.weight", (2, 8)), ("lora_up.weight", (8, 3)), ("alpha", ()))},
], ids=lambda tensors: " ".join(f"{name}{tuple(x.shape)}" for name, x in tensors.items()))  # fmt: skip
def test_tensors_that_are_wrong_are_refused(anna, tmp_path, tensors):
    with pytest.raises(CharacterError):
        read(spoiled(anna, tmp_path / "anna.safetensors", tensors=tensors))


def test_files_that_are_damaged_or_something_else_are_refused(anna, tmp_path):
    whole = write(anna, tmp_path / "anna.safetensors").read_bytes()
    bad = tmp_path / "bad.safetensors"
    for content in (b"", b"\xff" * 40, whole[:-10], whole[:100], (1 << 40).to_bytes(8, "little") + whole[8:]):
        bad.write_bytes(content)
        with pytest.raises(CharacterError):
            read(bad)
    save_file({"pairs.0": torch.zeros(1)}, bad)
    with pytest.raises(CharacterError, match="not a character"):
        read(bad)
    with pytest.raises(CharacterError, match=r"not a \.safetensors"):
        read(tmp_path / "anna.pt")
    with pytest.raises(CharacterError, match="cannot be read"):
        read(tmp_path / "absent.safetensors")
    with pytest.raises(CharacterError, match="cannot be read"):
        read(spoiled(anna, bad, **{files.KEY: "[" * 5000}))


def test_a_word_that_prompts_could_not_say_is_not_written(anna, tmp_path):
    for word in ("", "a", "anna maria", "<anna>", "anna,", "(anna:1.2)"):
        with pytest.raises(CharacterError):
            write(replace(anna, word=word), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
