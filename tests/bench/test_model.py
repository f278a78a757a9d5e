"""The embedded model is SD1's architecture: LDM's names in its file, diffusers' and transformers' networks in memory."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench import drawing
from bench.drawing import STEPS, open_model, sample
from bench.model import tokenizer as bpe
from bench.model.embedded import Embedded
from bench.model.shape import Shape
from bench.train.denoiser import Denoiser
from seal_ext.studio import checkpoint as ck
from seal_ext.studio import keys
from seal_ext.studio.shards import shard
from seal_ext.studio.unpacking import read_manifest
from tests.shards import assemble

pytestmark = pytest.mark.usefixtures("one_thread")

CAPTIONS = ["a red fox waving, seen from the left", "two blue cats running; it's Night", "The fox sleeps 12 hours"]
# Random weights differ from trained ones in nothing that matters here, once no branch is zero.
SHAPE = Shape(width=32, head=16, context=64, text_layers=2, vocab=768, vae_width=32, vae_multipliers=(1, 1, 2, 4))

# A sample of the names in SD1's own file.
SD1_KEYS = {
    "model.diffusion_model.": """
        time_embed.0.weight input_blocks.0.0.weight input_blocks.1.0.in_layers.0.weight input_blocks.1.0.emb_layers.1.bias
        input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.bias input_blocks.3.0.op.weight input_blocks.4.0.skip_connection.weight
        input_blocks.8.1.transformer_blocks.0.ff.net.0.proj.weight middle_block.1.proj_in.weight output_blocks.2.1.conv.weight
        output_blocks.5.2.conv.bias output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight out.2.weight
    """,
    "first_stage_model.": """
        encoder.down.0.downsample.conv.weight encoder.mid.attn_1.q.weight decoder.up.3.block.0.norm1.weight
        decoder.up.1.upsample.conv.weight post_quant_conv.bias
    """,
    "cond_stage_model.transformer.text_model.": """
        embeddings.token_embedding.weight encoder.layers.0.self_attn.q_proj.weight encoder.layers.1.mlp.fc2.bias
        final_layer_norm.weight
    """,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A saved model with its adapter and tokenizer."""
    folder = tmp_path_factory.mktemp("embedded")
    bpe.write(folder / "tokenizer", bpe.train(CAPTIONS), SHAPE)
    torch.manual_seed(0)
    model = Embedded(SHAPE)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5 if "embedding" not in name else 0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save(folder / "tiny.safetensors", folder / "tokenizer", folder / "adapter.safetensors")
    return folder


@pytest.fixture(scope="module")
def ours(folder) -> Embedded:
    return Embedded.load(folder / "tiny.safetensors", folder / "adapter.safetensors")


@pytest.fixture(scope="module")
def theirs(folder) -> ck.Components:
    return ck.load_diffusers(folder / "tiny.safetensors", folder / "adapter.safetensors")


@pytest.fixture(scope="module")
def packed(folder, ours, tmp_path_factory) -> Path:
    shards = tmp_path_factory.mktemp("shards")
    description = (folder / "tiny.yaml").read_text()
    ck.pack(ours.ldm_state(), ours.adapter_state(), description, folder / "tokenizer", shards, name="tiny")
    return shards


def test_names_are_sd1s(ours):
    names = ours.ldm_state().keys()
    assert {prefix + name for prefix, part in SD1_KEYS.items() for name in part.split()} <= names
    # SD1's U-Net has 686 weights, whatever its widths.
    assert sum(name.startswith("model.diffusion_model.") for name in names) == 686
    blocks = {tuple(name.split(".")[2:4]) for name in names if "put_blocks" in name}
    assert blocks == {(side, str(number)) for side in ("input_blocks", "output_blocks") for number in range(12)}
    assert not [name for name in names if "adapter" in name or name.startswith("alphas")]


def test_adapter_names_are_what_controlnet_reads(folder):
    state = load_file(folder / "adapter.safetensors")
    assert state["conv_in.weight"].shape == (32, 192, 3, 3)
    assert state["body.0.block2.weight"].shape[2:] == (1, 1)
    assert {name.split(".")[1] for name in state if "in_conv" in name} == {"2", "4"}
    assert len(state) == 2 + 8 * 4 + 2 * 2 and not [name for name in state if "down_opt" in name]


def test_shape_comes_back_from_the_files(folder):
    description, tokenizer = ck.read_description(folder / "tiny.safetensors")
    assert Shape.from_files(description, tokenizer) == SHAPE


def test_training_and_drawing_open_the_same_networks(ours, theirs):
    for name in ("unet", "vae", "text", "adapter"):
        mine, other = getattr(ours, name).state_dict(), getattr(theirs, "text_encoder" if name == "text" else name).state_dict()
        assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)
    image = torch.rand(1, 3, 64, 96) * 2 - 1
    with torch.no_grad():
        mean, logvar = ours.vae.encode(image)
        expected = theirs.vae.encode(image).latent_dist
        assert torch.equal(mean, expected.mean) and torch.equal(logvar, expected.logvar)
        assert torch.equal(ours.vae.decode(mean), theirs.vae.decode(mean).sample)


@pytest.mark.parametrize("pick", [dict(blocks=1), dict(multipliers=(1, 2, 4, 4), vae_multipliers=(1, 2), vae_blocks=2)])
def test_names_go_both_ways_in_any_depth(pick):
    shape = replace(SHAPE, **pick)
    model = Embedded(shape)
    for network, names in (
        (model.unet, keys.unet_names(model.unet.config)),
        (model.vae, keys.vae_names(model.vae.config)),
        (model.adapter, keys.adapter_names()),
    ):
        own = network.state_dict()
        named = keys.to_ldm(own, names)
        assert len(named) == len(own) and not named.keys() & {name for name in own if name.startswith(("down_", "up_", "mid_", "adapter."))}
        back = keys.to_diffusers(named, names)
        assert back.keys() == own.keys() and all(torch.equal(back[name], own[name]) for name in own)


def test_a_new_model_predicts_nothing_yet():
    model = Embedded(SHAPE)
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 77, SHAPE.context)
    with torch.no_grad():
        assert not model.unet(x, 500, context).sample.any()


def test_what_is_rewritten_after_a_step_stays_in_the_latent(theirs):
    torch.manual_seed(3)
    noise, hint, seen = torch.randn(2, 4, 8, 8), torch.rand(2, 3, 64, 64), []
    pipe = theirs.pipeline()
    pipe.set_progress_bar_config(disable=True)

    def keep(t: int, latents: torch.Tensor) -> None:
        seen.append(t)
        latents[..., :4] = t

    plain, kept = sample(pipe, CAPTIONS[:2], hint, noise), sample(pipe, CAPTIONS[:2], hint, noise, keep)
    stride = 1000 // STEPS
    assert seen == [i * stride + 1 for i in reversed(range(STEPS))]  # SD's own steps
    assert (kept[..., :4] == 1).all() and (kept[..., 4:] != plain[..., 4:]).any()
    assert not torch.equal(sample(pipe, CAPTIONS[:2], hint, noise, strength=0.0), plain)


def test_gradients_reach_every_weight_under_autocast():
    model = Embedded(SHAPE)
    with torch.no_grad():  # the zeroed ends of branches would hide what lies before them
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    with torch.autocast("cpu", torch.bfloat16):
        tokens, hint = torch.randint(0, 700, (1, 77)), torch.rand(1, 3, 64, 64)
        epsilon = Denoiser(model)(torch.randn(1, 4, 8, 8), torch.tensor([500]), tokens, hint, torch.ones(1))
    epsilon.float().square().mean().backward()
    mean, logvar = model.vae.encode(torch.randn(1, 3, 32, 32))
    (model.vae.decode(mean).square().mean() + logvar.mean()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_shards_hold_halves(tmp_path, ours):
    state = ours.ldm_state()
    paths = shard(state, tmp_path, limit=2**20)
    assert len(paths) > 1 and all(path.stat().st_size <= 2**20 for path in paths)
    back = assemble(tmp_path, read_manifest(tmp_path)["weights"]["model"])
    assert back.keys() == state.keys()
    assert all(back[name].dtype == torch.float32 and torch.equal(back[name], state[name].half().float()) for name in state)


def test_shards_hold_bytes_within_half_a_step(tmp_path, ours):
    state = ours.ldm_state()
    paths = shard(state, tmp_path, bits=8)
    assert sum(path.stat().st_size for path in paths) < 1.25 * sum(tensor.numel() for tensor in state.values())
    back = assemble(tmp_path, read_manifest(tmp_path)["weights"]["model"])
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        step = tensor.flatten(1).abs().amax(1) / 127 if tensor.ndim > 1 else tensor.abs() / 500
        error = (back[name] - tensor).abs().flatten(1).amax(1) if tensor.ndim > 1 else (back[name] - tensor).abs()
        assert (error <= step * 0.501 + 1e-7).all(), name


def test_expanding_gives_the_model_back_and_then_rests(tmp_path, packed, ours):
    first = ck.expand(packed, tmp_path / "models", tmp_path / "control")
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["tiny-tokenizer", "tiny.safetensors", "tiny.yaml"]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert ck.expand(packed, tmp_path / "models", tmp_path / "control") == first
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert ck.read_description(first.checkpoint)[1] == first.tokenizer == tmp_path / "models" / "tiny-tokenizer"
    again = Embedded.load(first.checkpoint, first.adapter)
    was = ours.ldm_state()
    assert all(torch.equal(tensor, was[name].half().float()) for name, tensor in again.ldm_state().items())
    ck.load_diffusers(first.checkpoint, first.adapter)


def test_a_broken_copy_is_made_anew(tmp_path, packed):
    result = ck.expand(packed, tmp_path)
    whole = result.checkpoint.read_bytes()
    result.checkpoint.write_bytes(whole[:1000])
    assert ck.expand(packed, tmp_path).checkpoint.read_bytes() == whole


def copied(packed: Path, target: Path) -> Path:
    for path in packed.rglob("*.*"):
        copy = target / path.relative_to(packed)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xee"), "model-00.safetensors.zz is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "model-00.safetensors.zz has"),
        (lambda path: path.unlink(), "model-00.safetensors.zz is missing"),
        (lambda path: (path.parent / "manifest.json").unlink(), "holds no manifest.json"),
        (lambda path: (path.parent / "manifest.json").write_text("{"), "not readable as JSON"),
        (lambda path: (path.parent / "manifest.json").write_text('{"format": 2}'), "reads format 1"),
        (lambda path: (path.parent / "manifest.json").write_text('{"format": 1}'), "says nothing of files, name, weights"),
    ],
)
def test_tampered_shards_are_refused_in_one_line(tmp_path, packed, harm, words):
    shards = copied(packed, tmp_path / "shards")
    harm(shards / "model-00.safetensors.zz")
    with pytest.raises(ck.CheckpointError, match=words) as caught:
        ck.expand(shards, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.safetensors")) and not list(tmp_path.rglob("*.partial"))


def test_diffusers_loading_is_strict(tmp_path, folder):
    state = load_file(folder / "tiny.safetensors")
    (tmp_path / "tiny.yaml").write_text((folder / "tiny.yaml").read_text())
    first = "model.diffusion_model.input_blocks.0.0.weight"
    for change, words in (
        ({"model_ema.decay": torch.zeros(1)}, "unexpected model_ema.decay"),
        ({first: None}, "lacks, for UNet2DConditionModel, conv_in.weight"),
        ({first: torch.zeros(32, 4, 1, 1)}, "wrongly shaped conv_in.weight"),
        ({"first_stage_model.loss.logvar": torch.zeros(1)}, "for AutoencoderKL, unexpected loss.logvar"),
    ):
        changed = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
        save_file(changed, tmp_path / "tiny.safetensors")
        with pytest.raises(ck.CheckpointError, match=words):
            ck.load_diffusers(tmp_path / "tiny.safetensors")
    with pytest.raises(ck.CheckpointError, match="is not a T2I-Adapter"):
        ck.load_diffusers(folder / "tiny.safetensors", folder / "tiny.safetensors")
    with pytest.raises(ck.CheckpointError, match="yaml is missing"):
        ck.load_diffusers(tmp_path / "absent.safetensors")


def test_the_manifest_names_every_file(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    named = [entry["file"] for entry in [*manifest["files"], *(e for part in manifest["weights"].values() for e in part)]]
    present = [path.relative_to(packed).as_posix() for path in packed.rglob("*.*") if path.name != "manifest.json"]
    assert sorted(named) == sorted(present)


def test_what_cannot_be_kept_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        shard({"a": torch.tensor([float("nan")])}, tmp_path)
    with pytest.raises(ValueError, match="beyond half precision"):
        shard({"a": torch.tensor([1e6])}, tmp_path)
    with pytest.raises(ValueError, match="8 or 16 bits"):
        shard({"a": torch.ones(1)}, tmp_path, bits=4)
    with pytest.raises(ValueError, match="larger than a shard"):
        shard({"a": torch.ones(9999)}, tmp_path, limit=1000)


def test_the_stranger_draws_with_the_embedded_model_s_autoencoder(folder, ours, packed, tmp_path, monkeypatch):
    """It is packed without one, and its adapter's widths are its own."""
    torch.manual_seed(1)
    other = Embedded(replace(SHAPE, multipliers=(1, 1, 1, 1), text_layers=1))
    state = {name: x for name, x in other.ldm_state().items() if not name.startswith(keys.VAE)}
    bpe.write(tmp_path / "tokenizer", bpe.read(folder / "tokenizer"), other.shape)
    ck.pack(state, other.adapter_state(), other.shape.ldm_yaml(""), tmp_path / "tokenizer", tmp_path / "packed", name="stranger")
    monkeypatch.setattr(drawing, "EMBEDDED", packed)
    monkeypatch.setattr(drawing, "FOLDER", {"embedded": packed, "stranger": tmp_path / "packed"})
    stranger, embedded = open_model("stranger"), open_model()
    assert stranger.pipe.unet.config.block_out_channels == (32,) * 4 != embedded.pipe.unet.config.block_out_channels
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(stranger.encode(image), embedded.encode(image))
    weight = "conv_in.weight"
    assert torch.allclose(stranger.pipe.unet.state_dict()[weight], other.unet.state_dict()[weight], atol=1e-3)


def test_merges_are_read_as_they_were_written(tmp_path):
    merges = bpe.train(CAPTIONS)
    bpe.write(tmp_path, merges, SHAPE)
    assert bpe.read(tmp_path) == merges
