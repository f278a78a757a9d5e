"""reForge: one more kind of model in the list that it goes through, tried before its own.

The list is asked without the file's name, so the two functions that open a checkpoint are told to remember it. And the autoencoder is
built in SD1's own size unless whoever builds it says another, so the one call that does for a checkpoint says it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import contextmanager

from ldm_patched.modules import latent_formats, sd1_clip, supported_models, supported_models_base
from modules import sd_text_encoder
from modules_forge import forge_loader

from .described import Described, read

opened: list[Described | None] = []  # of the checkpoints that are being opened, the innermost last


@contextmanager
def opening(checkpoint: str | None):
    opened.append(read(checkpoint))
    try:
        yield
    finally:
        opened.pop()


class Weights(dict):
    """An autoencoder's, and the shape that they are for."""

    config: dict


class SealSmall(supported_models.SD15):
    @classmethod
    def matches(cls, unet_config, state_dict=None):
        return bool(opened) and opened[-1] is not None and opened[-1].fits(unet_config, state_dict)

    def __init__(self, unet_config):
        self.described = described = opened[-1]
        self.unet_extra_config = described.heads
        self.latent_format = functools.partial(latent_formats.SD15, scale_factor=described.scale)
        self.sampling_settings = {name: described.params[name] for name in ("linear_start", "linear_end", "timesteps")}
        super().__init__(unet_config)

    def process_vae_state_dict(self, state_dict):
        state = Weights(super().process_vae_state_dict(state_dict))
        state.config = {"params": {"ddconfig": dict(self.described.vae), "embed_dim": self.described.latent}}
        return state

    def clip_target(self, state_dict=None):
        # Classes of their own, since the host looks into how it may call what it is given.
        text, folder = dict(self.described.text), str(self.described.tokenizer)
        ends = {"start": text["bos_token_id"], "end": text["eos_token_id"], "pad": text["pad_token_id"]}

        class Words(sd1_clip.SDTokenizer):
            def __init__(self, **kwargs):
                super().__init__(tokenizer_path=folder, embedding_size=text["hidden_size"], **kwargs)

        class Encoder(sd1_clip.SDClipModel):
            def __init__(self, device="cpu", dtype=None, model_options=None):
                super().__init__(device=device, dtype=dtype, model_options=model_options or {}, return_projected_pooled=False,
                                 textmodel_json_config=text, special_tokens=ends)  # fmt: skip

        words = functools.partial(sd1_clip.SD1Tokenizer, tokenizer=Words)
        return supported_models_base.ClipTarget(words, functools.partial(sd1_clip.SD1ClipModel, clip_model=Encoder))


def remembering(load: Callable) -> Callable:
    @functools.wraps(load)
    def loading(timer, checkpoint_info=None, state_dict=None):
        with opening(checkpoint_info and checkpoint_info.filename):
            return load(timer, checkpoint_info=checkpoint_info, state_dict=state_dict)

    return loading


def remembering_too(load: Callable) -> Callable:
    """Where the host opens a checkpoint once more, for its text encoder alone."""

    @functools.wraps(load)
    def loading(self):
        with opening(self.te_info.filename):
            return load(self)

    return loading


def of_its_size(build: Callable) -> Callable:
    @functools.wraps(build, updated=())
    def building(sd=None, *args, **kwargs):
        return build(sd, *args, **({"config": sd.config} if isinstance(sd, Weights) else {}), **kwargs)

    return building


supported_models.models.insert(0, SealSmall)
forge_loader.load_model_for_a1111 = remembering(forge_loader.load_model_for_a1111)
forge_loader.VAE = of_its_size(forge_loader.VAE)
encoder = sd_text_encoder.CheckpointTextEncoder
encoder._load_clip_from_checkpoint = remembering_too(encoder._load_clip_from_checkpoint)
