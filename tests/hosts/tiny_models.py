"""Run by a WebUI's own Python: random checkpoints of every kind of model, narrow enough to draw with in no time, and a LoRA.

python tiny_models.py REPOSITORIES CHECKPOINTS LORAS

Forge comes without the packages that these models are written in. There they are built from diffusers' modules.
"""

import json
import sys
from pathlib import Path

REPOSITORIES, FOLDER, LORAS = (Path(argument).resolve() for argument in sys.argv[1:])
for name in ("stable-diffusion-stability-ai", "generative-models", "k-diffusion"):
    sys.path.insert(0, str(REPOSITORIES / name))
sys.path.append(str(Path(__file__).resolve().parents[2]))
sys.modules["xformers"] = None

import open_clip  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import yaml  # noqa: E402
from open_clip import tokenizer as bpe  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tiny_flows import write_flows  # noqa: E402

try:
    import sgm.models.diffusion
    from ldm.util import instantiate_from_config
except ModuleNotFoundError:
    import diffusers

    from seal_ext.studio import keys

    sgm = None

ARCH = "seal-tiny"  # a text encoder of the OpenCLIP kind; a WebUI has to be told of it, too
WIDTH = 64  # of a token
SIZE = 256  # of what SDXL is told of each of a picture's six sizes: the Forges know no other
OPEN_CLIP = dict(embed_dim=WIDTH, vision_cfg=dict(image_size=32, layers=1, width=64, patch_size=16),
                 text_cfg=dict(context_length=77, vocab_size=49408, width=WIDTH, heads=2, layers=2))  # fmt: skip
BEYOND = {"label_emb.0.0.": "class_embedding.linear_1.", "label_emb.0.2.": "class_embedding.linear_2."}  # what SD1's U-Net has not
CLIP = dict(model_type="clip_text_model", vocab_size=49408, hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=WIDTH, layer_norm_eps=1e-5,
            bos_token_id=49406, eos_token_id=49407, pad_token_id=49407)  # fmt: skip


def write_tokenizer(folder: Path) -> None:
    """CLIP's own words, which the open_clip package brings along."""
    folder.mkdir()
    known = bpe.SimpleTokenizer()
    names = [known.decoder[i] for i in range(len(known.decoder) - 2)] + ["<|startoftext|>", "<|endoftext|>"]
    merges = sorted(known.bpe_ranks, key=known.bpe_ranks.get)
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(CLIP), encoding="utf-8")
    ends = dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token="<|endoftext|>")
    (folder / "tokenizer_config.json").write_text(json.dumps(ends | dict(model_max_length=77, tokenizer_class="CLIPTokenizer")))


def unet(target: str, context: int, **more) -> dict:
    params = dict(in_channels=4, out_channels=4, model_channels=32, attention_resolutions=[4, 2, 1], num_res_blocks=2,
                  channel_mult=[1, 2, 4, 4], num_head_channels=16, use_spatial_transformer=True, transformer_depth=1,
                  context_dim=context, use_checkpoint=False, legacy=False)  # fmt: skip
    if target == "ldm":
        params["image_size"] = 16  # it asks for one, and makes nothing of it
    return dict(target=f"{target}.modules.diffusionmodules.openaimodel.UNetModel", params=params | more)


def autoencoder(target: str) -> dict:
    shape = dict(double_z=True, z_channels=4, resolution=128, in_channels=3, out_ch=3, ch=32, ch_mult=[1, 1, 2, 2], num_res_blocks=1,
                 attn_resolutions=[], dropout=0.0)  # fmt: skip
    return dict(target=target, params=dict(embed_dim=4, ddconfig=shape, lossconfig=dict(target="torch.nn.Identity")))


def ldm(network: dict, text: dict, kind: str = "LatentDiffusion", key: str = "crossattn", **more) -> dict:
    params = dict(linear_start=0.00085, linear_end=0.012, num_timesteps_cond=1, timesteps=1000, first_stage_key="jpg", cond_stage_key="txt",
                  image_size=16, channels=4, cond_stage_trainable=False, conditioning_key=key, scale_factor=0.18215, use_ema=False,
                  unet_config=network, first_stage_config=autoencoder("ldm.models.autoencoder.AutoencoderKL"),
                  cond_stage_config=text)  # fmt: skip
    return dict(model=dict(target=f"ldm.models.diffusion.ddpm.{kind}", params=params | more))


def sdxl(tokenizer: Path) -> dict:
    encoders = "sgm.modules.encoders.modules"

    def text(kind: str, **params) -> dict:
        return dict(is_trainable=False, input_key="txt", target=f"{encoders}.{kind}", params=params)

    def size(key: str) -> dict:
        return dict(is_trainable=False, input_key=key, target=f"{encoders}.ConcatTimestepEmbedderND", params=dict(outdim=SIZE))

    embedders = [text("FrozenCLIPEmbedder", version=str(tokenizer), layer="hidden", layer_idx=1),
                 text("FrozenOpenCLIPEmbedder2", arch=ARCH, version=None, freeze=True, layer="penultimate", always_return_pooled=True,
                      legacy=False), *map(size, ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple"))]  # fmt: skip
    parts = "sgm.modules.diffusionmodules"
    denoiser = dict(num_idx=1000, weighting_config=dict(target=f"{parts}.denoiser_weighting.EpsWeighting"),
                    scaling_config=dict(target=f"{parts}.denoiser_scaling.EpsScaling"),
                    discretization_config=dict(target=f"{parts}.discretizer.LegacyDDPMDiscretization"))  # fmt: skip
    network = unet("sgm", 2 * WIDTH, adm_in_channels=WIDTH + 6 * SIZE, num_classes="sequential", attention_resolutions=[4, 2],
                   channel_mult=[1, 2, 4], transformer_depth=[1, 1, 2], use_linear_in_transformer=True)  # fmt: skip
    params = dict(scale_factor=0.13025, disable_first_stage_autocast=True, network_config=network,
                  denoiser_config=dict(target=f"{parts}.denoiser.DiscreteDenoiser", params=denoiser),
                  conditioner_config=dict(target="sgm.modules.GeneralConditioner", params=dict(emb_models=embedders)),
                  first_stage_config=autoencoder("sgm.models.autoencoder.AutoencoderKLInferenceWrapper"))  # fmt: skip
    return dict(model=dict(target="sgm.models.diffusion.DiffusionEngine", params=params))


class Own(torch.nn.Module):
    """The model that a description speaks of, from diffusers' networks, under LDM's names."""

    def __init__(self, params: dict):
        super().__init__()
        self.unet = unet_of(params.get("unet_config", params.get("network_config")))
        self.vae = diffusers.AutoencoderKL(**keys.vae_config(params))
        if "cond_stage_config" in params:
            self.cond_stage_model = text_encoder(params["cond_stage_config"])
        else:
            self.conditioner = torch.nn.Module()
            encoders = (part for part in params["conditioner_config"]["params"]["emb_models"] if part["input_key"] == "txt")
            self.conditioner.embedders = torch.nn.ModuleList(map(text_encoder, encoders))

    def state_dict(self) -> dict[str, torch.Tensor]:
        state = {name: tensor for name, tensor in super().state_dict().items() if not name.startswith(("unet.", "vae."))}
        for prefix, network, names in (
            (keys.UNET, self.unet, keys.unet_names(self.unet.config) | BEYOND),
            (keys.VAE, self.vae, keys.vae_names(self.vae.config)),
        ):
            state |= {prefix + name: tensor for name, tensor in keys.to_ldm(network.state_dict(), names).items()}
        return state


def unet_of(description: dict) -> torch.nn.Module:
    """SD1's U-Net with what a description says beyond it."""
    said = description["params"]
    told = said.get("adm_in_channels")
    more = dict(class_embed_type="projection", projection_class_embeddings_input_dim=told) if told else {}
    return diffusers.UNet2DConditionModel(**keys.unet_config({"unet_config": description}), **more,
                                          transformer_layers_per_block=said["transformer_depth"],
                                          use_linear_projection=said.get("use_linear_in_transformer", False))  # fmt: skip


def text_encoder(description: dict) -> torch.nn.Module:
    """CLIP's as transformers builds it, or OpenCLIP's."""
    encoder, params = torch.nn.Module(), description["params"]
    if "arch" in params:
        encoder.model = open_clip.create_model(params["arch"])
        del encoder.model.visual
    else:
        encoder.transformer = transformers.CLIPTextModel(transformers.CLIPTextConfig.from_pretrained(params["version"]))
    return encoder


def write_lora(state: dict[str, torch.Tensor]) -> None:
    """Rank 2 on every query and value of the U-Net."""
    torch.manual_seed(5)
    lora = {}
    for key, value in state.items():
        path = key.removesuffix(".weight")
        if key.startswith("model.diffusion_model.") and path.endswith(("to_q", "to_v")):
            name = "lora_unet_" + path.removeprefix("model.diffusion_model.").replace(".", "_")
            lora[f"{name}.lora_down.weight"] = torch.randn(2, value.shape[1]) * value.shape[1] ** -0.5
            lora[f"{name}.lora_up.weight"] = torch.randn(value.shape[0], 2) * 0.5
            lora[f"{name}.alpha"] = torch.tensor(2.0)
    LORAS.mkdir(parents=True, exist_ok=True)
    save_file(lora, LORAS / "tiny-lora.safetensors")


def write(name: str, description: dict, seed: int) -> dict[str, torch.Tensor]:
    """Random weights; what a training would begin with zero is not, or the network would do nothing.

    Nor may the text encoder's last norm be without a bias: a WebUI divides by the mean of what it says.
    """
    torch.manual_seed(seed)
    model = instantiate_from_config(description["model"]) if sgm else Own(description["model"]["params"])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(0, 0.05)
            elif parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    kept = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")
    state = {key: value.contiguous() for key, value in model.state_dict().items() if key.startswith(kept)}
    state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    save_file(state, FOLDER / f"{name}.safetensors")
    (FOLDER / f"{name}.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    print(f"{name}: {len(state)} tensors, {sum(value.numel() for value in state.values()) / 1e6:.1f} M")
    return state


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    (FOLDER / f"{ARCH}.json").write_text(json.dumps(OPEN_CLIP), encoding="utf-8")
    open_clip.add_model_config(FOLDER / f"{ARCH}.json")
    tokenizer = FOLDER / "tokenizer"
    write_tokenizer(tokenizer)
    # Both packages ask for weights that are not here, and that this file makes.
    by_name = transformers.CLIPTextModel.from_pretrained
    transformers.CLIPTextModel.from_pretrained = lambda path: transformers.CLIPTextModel(transformers.CLIPTextConfig.from_pretrained(path))
    try:
        clip = dict(target="ldm.modules.encoders.modules.FrozenCLIPEmbedder", params=dict(version=str(tokenizer)))
        open_text = dict(target="ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
                         params=dict(arch=ARCH, version=None, freeze=True, layer="penultimate"))  # fmt: skip
        plain = ldm(unet("ldm", WIDTH), clip)
        sd1 = write("tiny-sd1", plain, 0)
        write_lora(sd1)
        write("tiny-sd1-other", plain, 1)
        write("tiny-inpaint", ldm(unet("ldm", WIDTH, in_channels=9), clip, "LatentInpaintDiffusion", "hybrid", finetune_keys=None), 2)
        write("tiny-sd2-v", ldm(unet("ldm", WIDTH, use_linear_in_transformer=True), open_text, parameterization="v"), 3)
        write("tiny-sdxl", sdxl(tokenizer), 4)
    finally:
        transformers.CLIPTextModel.from_pretrained = by_name
    write_flows(FOLDER, CLIP, sd1)


main()
