"""An extension for test runs in WebUIs that know a kind of model by the size of its first ones: the tiny ones join them.

How large these are stands in the descriptions that tiny_models.py puts beside them. All else that makes an SD2 or SDXL is the host's. So
it is with models that have no U-Net, where a host opens such: Flux and SD3 in Forge, SD3 in AUTOMATIC1111's WebUI.
"""

import functools
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml
from transformers import CLIPTokenizer

EXTENSION = Path(__file__).resolve().parents[1]
MODELS = EXTENSION.parents[1] / "models" / "Stable-diffusion"
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "projection_dim")  # of a text encoder
CLIP = json.loads((MODELS / "tokenizer" / "config.json").read_text())
OPEN_CLIP = CLIP | dict(hidden_act="gelu", intermediate_size=4 * CLIP["hidden_size"])  # the same width, as OpenCLIP expands it
FLOWS = json.loads((MODELS / "flows" / "sizes.json").read_text())  # of models without a U-Net


class Tiny:
    """What a description says."""

    def __init__(self, name: str):
        params = yaml.safe_load((MODELS / f"{name}.yaml").read_text())["model"]["params"]
        network = params.get("unet_config", params.get("network_config"))["params"]
        self.first = params["first_stage_config"]["params"]
        # As a host finds it in the tensors, and what it does not find there.
        self.found = {size: network.get(size) for size in ("model_channels", "context_dim", "adm_in_channels", "use_linear_in_transformer")}
        self.heads = {"num_heads": -1, "num_head_channels": network["num_head_channels"]}


def forge() -> None:
    """Forge keeps what it does not read from the tensors in a folder for each kind: here are copies, with other sizes."""
    from backend import loader
    from huggingface_guess import model_list

    def folder(kind, parts: dict[str, dict]) -> str:
        made = EXTENSION / kind.huggingface_repo
        shutil.copytree(Path(loader.dir_path, "huggingface", kind.huggingface_repo), made, dirs_exist_ok=True)
        for name, sizes in parts.items():
            file = made / name / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | sizes))
        return str(made)

    def sized(text: dict) -> dict:
        return {size: text[size] for size in SIZES}

    def add(kind, tiny: Tiny, texts: dict[str, dict]) -> None:
        vae = tiny.first["ddconfig"]
        vae = {"block_out_channels": [vae["ch"] * times for times in vae["ch_mult"]], "layers_per_block": vae["num_res_blocks"]}
        own = dict(unet_config=tiny.found, unet_extra_config=kind.unet_extra_config | tiny.heads,
                   huggingface_repo=folder(kind, {name: sized(text) for name, text in texts.items()} | {"vae": vae}))  # fmt: skip
        model_list.models.insert(0, type(f"Tiny{kind.__name__}", (kind,), own))

    def add_flow(kind, parts: dict[str, dict], **sizes) -> None:
        own = dict(huggingface_repo=folder(kind, parts | {"vae": FLOWS["vae"]}), unet_extra_config=kind.unet_extra_config | sizes)
        model_list.models.insert(0, type(f"Tiny{kind.__name__}", (kind,), own))

    # Of SD2's text encoder Forge leaves the last layer away instead of looking at the last but one.
    add(model_list.SD20, Tiny("tiny-sd2-v"), {"text_encoder": OPEN_CLIP | dict(num_hidden_layers=CLIP["num_hidden_layers"] - 1)})
    add(model_list.SDXL, Tiny("tiny-sdxl"), {"text_encoder": CLIP, "text_encoder_2": OPEN_CLIP})
    clip, open_clip = sized(FLOWS["clip"]), sized(FLOWS["open_clip"])
    add_flow(model_list.Flux, {"text_encoder": clip, "text_encoder_2": FLOWS["t5"]}, **FLOWS["flux"])
    add_flow(model_list.SD3, {"text_encoder": clip, "text_encoder_2": open_clip, "text_encoder_3": FLOWS["t5"]})
    # The words of Flux's T5 are the same, in a form that no further package has to read.
    words, same = EXTENSION / model_list.SD3.huggingface_repo / "tokenizer_3", EXTENSION / model_list.Flux.huggingface_repo / "tokenizer_2"
    shutil.rmtree(words)
    shutil.copytree(same, words)


def reforge() -> None:
    """reForge has the sizes of text encoders and autoencoders in its classes."""
    from ldm_patched.modules import sd1_clip, sdxl_clip, supported_models
    from ldm_patched.modules.supported_models_base import ClipTarget
    from ldm_patched.modules.text_encoders import sd2_clip
    from seal_small.reforge import Weights  # what tells the host of an autoencoder's size: it sees to that for the embedded model

    def encoder(text: dict, pad: int):
        class Encoder(sd1_clip.SDClipModel):
            def __init__(self, device="cpu", dtype=None, model_options=None):
                super().__init__(device=device, dtype=dtype, model_options=model_options or {}, textmodel_json_config=text,
                                 special_tokens={"start": text["bos_token_id"], "end": text["eos_token_id"], "pad": pad})  # fmt: skip

        return Encoder

    class TwoEncoders(sdxl_clip.SDXLClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            torch.nn.Module.__init__(self)
            self.clip_l = encoder(CLIP, CLIP["pad_token_id"])(device, dtype, model_options)
            self.clip_g = encoder(OPEN_CLIP, 0)(device, dtype, model_options)
            self.dtypes = set() if dtype is None else {dtype}

    def add(kind, tiny: Tiny, target: ClipTarget) -> None:
        def process_vae_state_dict(self, state_dict):
            state = Weights(kind.process_vae_state_dict(self, state_dict))
            state.config = {"params": {"ddconfig": dict(tiny.first["ddconfig"]), "embed_dim": tiny.first["embed_dim"]}}
            return state

        own = dict(unet_config=tiny.found, unet_extra_config=kind.unet_extra_config | tiny.heads,
                   process_vae_state_dict=process_vae_state_dict, clip_target=lambda self, state_dict=None: target)  # fmt: skip
        supported_models.models.insert(0, type(f"Tiny{kind.__name__}", (kind,), own))

    one = functools.partial(sd1_clip.SD1ClipModel, clip_name="h", clip_model=encoder(OPEN_CLIP, 0))
    add(supported_models.SD20, Tiny("tiny-sd2-v"), ClipTarget(sd2_clip.SD2Tokenizer, one))
    add(supported_models.SDXL, Tiny("tiny-sdxl"), ClipTarget(sdxl_clip.SDXLTokenizer, TwoEncoders))


def a1111() -> None:
    """A1111 opens the others by their descriptions. Of SD3 it has all sizes but the transformer's in its code, and its words elsewhere."""
    from modules.models.sd3 import other_impls, sd3_cond, sd3_impls

    class Words:
        """CLIP's; T5's are asked for, too, but never looked up while that encoder is off."""

        @staticmethod
        def from_pretrained(name: str) -> CLIPTokenizer:
            return CLIPTokenizer.from_pretrained(MODELS / "tokenizer")

    for module in (other_impls, sd3_cond):
        module.CLIPTokenizer = module.T5TokenizerFast = Words
    for config, name in ((sd3_cond.CLIPL_CONFIG, "clip"), (sd3_cond.CLIPG_CONFIG, "open_clip")):
        config |= {size: FLOWS[name][size] for size in config if size in SIZES}
    first, *_ = widths = FLOWS["vae"]["block_out_channels"]
    shape = dict(ch=first, ch_mult=tuple(width // first for width in widths), num_res_blocks=FLOWS["vae"]["layers_per_block"])
    for part in ("VAEEncoder", "VAEDecoder"):
        setattr(sd3_impls, part, functools.partial(getattr(sd3_impls, part), **shape))


forge() if find_spec("huggingface_guess") else reforge() if find_spec("ldm_patched") else a1111()
