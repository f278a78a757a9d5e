"""reForge and Forge Classic: one more kind of model in the list that they go through, tried before their own.

The list is asked without the file's name, and by Classic without its tensors, so the functions that open a checkpoint are told to
remember them. And the autoencoder is built in SD1's own size unless whoever builds it says another, so the one call that does for a
checkpoint says it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from ldm_patched.modules import latent_formats, sd1_clip, supported_models, supported_models_base
from modules_forge import forge_loader

from .described import Described, read

opened: list[tuple[Described | None, Mapping | None]] = []  # checkpoints that are being opened and their tensors, the innermost last
# Read while a checkpoint is opened, and gone with the process.
folder = tempfile.TemporaryDirectory(prefix="seal-small-")


@contextmanager
def opening(checkpoint: str | None, state: Mapping | None = None):
    opened.append((read(checkpoint), state))
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
        described, state = opened[-1] if opened else (None, None)
        return described is not None and described.fits(unet_config, state if state_dict is None else state_dict)

    def __init__(self, unet_config):
        described = opened[-1][0]
        assert described is not None  # the host asks `matches` first
        self.described = described
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
        text, words = dict(self.described.text), str(self.described.tokenizer)
        ends = {"start": text["bos_token_id"], "end": text["eos_token_id"], "pad": text["pad_token_id"]}

        class Words(sd1_clip.SDTokenizer):
            def __init__(self, **kwargs):
                super().__init__(tokenizer_path=words, embedding_size=text["hidden_size"], **kwargs)

        class Encoder(sd1_clip.SDClipModel):
            def __init__(self, device="cpu", dtype=None, model_options=None):
                told = {"model_options": model_options or {}, "return_projected_pooled": False}  # as far as it asks for them
                told = {name: value for name, value in told.items() if name in inspect.signature(sd1_clip.SDClipModel).parameters}
                super().__init__(device=device, dtype=dtype, textmodel_json_config=written(text), special_tokens=ends, **told)

        tokenizer = functools.partial(sd1_clip.SD1Tokenizer, tokenizer=Words)
        return supported_models_base.ClipTarget(tokenizer, functools.partial(sd1_clip.SD1ClipModel, clip_model=Encoder))


def written(text: dict) -> str:
    """A file that says how large the text encoder is: Classic does not take it otherwise."""
    content = json.dumps(text)
    file = Path(folder.name, hashlib.sha256(content.encode()).hexdigest()[:16] + ".json")
    file.write_text(content, encoding="utf-8")
    return str(file)


def remembering(load: Callable, what: Callable[..., tuple]) -> Callable:
    """`load`, while it is remembered what it opens: `what` makes `opening`'s arguments of those that `load` gets."""

    @functools.wraps(load)
    def loading(*args, **kwargs):
        with opening(*what(*args, **kwargs)):
            return load(*args, **kwargs)

    return loading


def checkpoint_of(timer, checkpoint_info=None, state_dict=None) -> tuple:
    return checkpoint_info and checkpoint_info.filename, state_dict


def of_its_size(build: Callable) -> Callable:
    @functools.wraps(build, updated=())
    def building(sd=None, *args, **kwargs):
        return build(sd, *args, **({"config": sd.config} if isinstance(sd, Weights) else {}), **kwargs)

    return building


supported_models.models.insert(0, SealSmall)
forge_loader.load_model_for_a1111 = remembering(forge_loader.load_model_for_a1111, checkpoint_of)
forge_loader.VAE = of_its_size(forge_loader.VAE)
if find_spec("modules.sd_text_encoder"):  # reForge
    from modules.sd_text_encoder import CheckpointTextEncoder

    # It opens a checkpoint once more, for its text encoder alone.
    again = CheckpointTextEncoder._load_clip_from_checkpoint
    CheckpointTextEncoder._load_clip_from_checkpoint = remembering(again, lambda encoder: (encoder.te_info.filename,))
