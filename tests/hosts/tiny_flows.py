"""Random checkpoints of models that have no U-Net, for tiny_models.py: a Flux and an SD3, as narrow as WebUIs let them be.

Their transformers are written down as tensors, since each WebUI has classes of its own for them but all agree on the names. What a host
cannot read from these tensors stands beside them in flows/sizes.json.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

WIDTH = 64  # of a token of the text encoders
CHANNELS = 16  # of a latent
FLUX = dict(vec_in_dim=WIDTH, context_in_dim=WIDTH, hidden_size=64, mlp_ratio=2.0, num_heads=4, depth=1, depth_single_blocks=2,
            axes_dim=[4, 6, 6])  # fmt: skip
T5 = dict(vocab_size=32128, d_model=WIDTH, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
VAE = dict(block_out_channels=[32, 32, 64, 64], layers_per_block=1)  # tiny-sd1's
SD3_DEPTH = 2  # an SD3 has 64 channels for each of its blocks
SD3_TEXT = 4096  # every WebUI fills its text up to this
SD3_SIDE = 16  # patches of two latent cells along a side of the largest picture

Layer = tuple[str, int, int]  # name, outward, inward


def flux() -> Iterator[Layer]:
    width, text = FLUX["hidden_size"], FLUX["context_in_dim"]
    wide = int(width * FLUX["mlp_ratio"])
    yield from (("img_in", width, 4 * CHANNELS), ("txt_in", width, text))
    for name, inward in (("time_in", 256), ("guidance_in", 256), ("vector_in", FLUX["vec_in_dim"])):
        yield from ((f"{name}.in_layer", width, inward), (f"{name}.out_layer", width, width))
    for block in (f"double_blocks.{i}" for i in range(FLUX["depth"])):
        for stream in ("img", "txt"):
            yield from ((f"{block}.{stream}_mod.lin", 6 * width, width), (f"{block}.{stream}_attn.qkv", 3 * width, width),
                        (f"{block}.{stream}_attn.proj", width, width), (f"{block}.{stream}_mlp.0", wide, width),
                        (f"{block}.{stream}_mlp.2", width, wide))  # fmt: skip
    for block in (f"single_blocks.{i}" for i in range(FLUX["depth_single_blocks"])):
        yield from ((f"{block}.modulation.lin", 3 * width, width), (f"{block}.linear1", 3 * width + wide, width),
                    (f"{block}.linear2", width, width + wide))  # fmt: skip
    yield from (("final_layer.adaLN_modulation.1", 2 * width, width), ("final_layer.linear", 4 * CHANNELS, width))


def sd3() -> Iterator[Layer]:
    width = 64 * SD3_DEPTH
    yield from (("t_embedder.mlp.0", width, 256), ("t_embedder.mlp.2", width, width), ("y_embedder.mlp.0", width, 2 * WIDTH),
                ("y_embedder.mlp.2", width, width), ("context_embedder", width, SD3_TEXT))  # fmt: skip
    for i in range(SD3_DEPTH):
        for stream in ("x_block", "context_block"):
            block, last = f"joint_blocks.{i}.{stream}", stream == "context_block" and i == SD3_DEPTH - 1
            yield from ((f"{block}.attn.qkv", 3 * width, width), (f"{block}.adaLN_modulation.1", (2 if last else 6) * width, width))
            if not last:  # nobody looks at what it makes of the text
                yield from ((f"{block}.attn.proj", width, width), (f"{block}.mlp.fc1", 4 * width, width),
                            (f"{block}.mlp.fc2", width, 4 * width))  # fmt: skip
    yield from (("final_layer.adaLN_modulation.1", 2 * width, width), ("final_layer.linear", 4 * CHANNELS, width))


def tensors(layers: Iterator[Layer]) -> dict[str, Tensor]:
    state = {}
    for name, outward, inward in layers:
        state |= {f"{name}.weight": torch.randn(outward, inward) * inward**-0.5, f"{name}.bias": torch.randn(outward) * 0.05}
    return state


def norms_of_flux() -> dict[str, Tensor]:
    blocks = [f"double_blocks.{i}.{stream}_attn" for i in range(FLUX["depth"]) for stream in ("img", "txt")]
    blocks += [f"single_blocks.{i}" for i in range(FLUX["depth_single_blocks"])]
    head = FLUX["hidden_size"] // FLUX["num_heads"]
    return {f"{block}.norm.{which}_norm.scale": torch.ones(head) for block in blocks for which in ("query", "key")}


def patches_of_sd3() -> dict[str, Tensor]:
    width = 64 * SD3_DEPTH
    return {"x_embedder.proj.weight": torch.randn(width, CHANNELS, 2, 2) * 0.1, "x_embedder.proj.bias": torch.zeros(width),
            "pos_embed": torch.randn(1, SD3_SIDE**2, width) * 0.5}  # fmt: skip


def autoencoder(sd1: dict[str, Tensor]) -> dict[str, Tensor]:
    """SD1's, but for the two layers that know how many channels a latent has."""
    prefix, width = "first_stage_model.", VAE["block_out_channels"][-1]
    own = {key.removeprefix(prefix): value for key, value in sd1.items() if key.startswith(prefix) and "quant_conv" not in key}
    return own | {
        "encoder.conv_out.weight": torch.randn(2 * CHANNELS, width, 3, 3) * (9 * width) ** -0.5,
        "encoder.conv_out.bias": torch.zeros(2 * CHANNELS),
        "decoder.conv_in.weight": torch.randn(width, CHANNELS, 3, 3) * (9 * CHANNELS) ** -0.5,
    }


def clip(config: dict, projection: bool) -> dict[str, Tensor]:
    made = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config)).state_dict()
    made["text_model.final_layer_norm.bias"].normal_(0, 0.05)  # a WebUI divides by the mean of what it says
    return made | ({"text_projection.weight": torch.eye(config["projection_dim"])} if projection else {})


def t5() -> dict[str, Tensor]:
    config = transformers.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    state = transformers.T5EncoderModel(config).state_dict()
    return state | {"encoder.embed_tokens.weight": state["shared.weight"].clone()}


def write_flows(folder: Path, config: dict, sd1: dict[str, Tensor]) -> None:
    """Both, with text encoders of the CLIP kind like this one, and a layer more: AUTOMATIC1111's SD3 looks at the last but one of three."""
    narrow = config | dict(num_hidden_layers=3)
    wide = narrow | dict(hidden_act="gelu", intermediate_size=4 * config["hidden_size"])
    (folder / "flows").mkdir()
    sizes = {"flux": FLUX, "t5": T5, "vae": VAE, "clip": narrow, "open_clip": wide}
    (folder / "flows" / "sizes.json").write_text(json.dumps(sizes), encoding="utf-8")
    torch.manual_seed(6)
    write(folder / "tiny-flux", tensors(flux()) | norms_of_flux(), {"clip_l": clip(narrow, False), "t5xxl": t5()}, "vae", sd1)
    encoders = {"clip_l": clip(narrow, True), "clip_g": clip(wide, True), "t5xxl": t5()}
    write(folder / "tiny-sd3", tensors(sd3()) | patches_of_sd3(), encoders, "first_stage_model", sd1)


def write(path: Path, network: dict[str, Tensor], encoders: dict[str, dict[str, Tensor]], vae: str, sd1: dict[str, Tensor]) -> None:
    parts = {"model.diffusion_model": network, vae: autoencoder(sd1)}
    parts |= {f"text_encoders.{name}.transformer": state for name, state in encoders.items()}
    state = {f"{part}.{key}": value.contiguous() for part, tensors in parts.items() for key, value in tensors.items()}
    save_file({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, f"{path}.safetensors")
    print(f"{path.name}: {len(state)} tensors, {sum(value.numel() for value in state.values()) / 1e6:.1f} M")
