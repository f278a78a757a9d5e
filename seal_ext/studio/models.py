"""Opens a model to draw with: the embedded one, or the user's own single file. Nothing is downloaded."""

from __future__ import annotations

import json
import warnings
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seal_ext.asking import NARROW, SMALL
from seal_ext.core.canvas import as_tensor, fit
from seal_ext.hosts.diffusers import encoded
from seal_ext.studio import checkpoint as files
from seal_ext.studio.cli import UserError

LARGEST_HEADER = 1 << 27
SAMPLERS = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler a": ("EulerAncestralDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "dpm++ 2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++ 2m karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
}


def sampler(name: str, like: Any) -> Any:
    """A sampler for the model of another one."""
    import diffusers

    kind, more = SAMPLERS[name]
    return getattr(diffusers, kind).from_config(like.config, **more)


@dataclass
class Studio:
    """A plain pipeline, the adapter for structures if there is one, and what they are made for."""

    pipe: Any
    adapter: Any = None
    checkpoint: Path | None = None  # its file

    @property
    def architecture(self) -> str:
        config = self.pipe.unet.config
        if config.addition_embed_type == "text_time":
            return "sdxl"
        return "sd2" if config.cross_attention_dim == 1024 else "sd1"

    @property
    def size(self) -> int:
        """Pixels a side that the model was trained at."""
        if self.small:
            return SMALL  # its description says what SD1's says
        return max(512, int(self.pipe.unet.config.sample_size) * self.pipe.vae_scale_factor)

    @property
    def small(self) -> bool:
        """Whether it is the embedded model."""
        return self.pipe.unet.config.block_out_channels[0] < NARROW

    @property
    def guidance(self) -> float:
        return 4.0 if self.small else 7.0

    @cached_property
    def structured(self) -> Any:
        """The same networks in a pipeline that follows a structure."""
        import diffusers

        if self.adapter is None:
            raise UserError("this checkpoint has no adapter that a structure could steer it with: give --adapter FILE, or no --structure")
        if self.architecture != "sd1":
            raise UserError("a structure can steer only SD1.x here; use the WebUI's ControlNet for other models")
        parts = {name: part for name, part in self.pipe.components.items() if name != "image_encoder"}
        pipe = diffusers.StableDiffusionAdapterPipeline(**parts, adapter=self.adapter, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def use_sampler(self, name: str) -> None:
        self.pipe.scheduler = sampler(name, self.pipe.scheduler)
        self.__dict__.pop("structured", None)

    # What calibration and the search for the subject need beside the pipeline

    @torch.no_grad()
    def encode(self, image, height: int, width: int) -> tuple[Tensor, Tensor]:
        """A picture's latent, scaled as the U-Net expects, and where on the canvas it lies."""
        canvas, inside = fit(as_tensor(image), height, width)
        return encoded(self.pipe.vae, canvas).to(self.pipe.unet.dtype), inside

    @torch.no_grad()
    def conditioning(self, prompt: str, rows: int, height: int, width: int) -> dict[str, Any]:
        """The U-Net's arguments for a prompt, the same in every row."""
        unet = self.pipe.unet
        encoded = self.pipe.encode_prompt(prompt, device=unet.device, num_images_per_prompt=1, do_classifier_free_guidance=False)
        told = {"encoder_hidden_states": encoded[0].to(unet.dtype).expand(rows, -1, -1)}
        if self.architecture == "sdxl":
            sizes = torch.tensor([[height, width, 0, 0, height, width]], device=unet.device, dtype=unet.dtype)
            pooled = encoded[2].to(unet.dtype).expand(rows, -1)
            told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes.expand(rows, -1)}
        return told


def open_studio(
    checkpoint: Path | None = None, adapter: Path | None = None, config: Path | None = None, device: str = "auto", sampler: str = "ddim"
) -> Studio:
    """The embedded model when no checkpoint is named."""
    quiet()
    device = _device(device)
    dtype = torch.float16 if device == "cuda" else torch.float32
    if checkpoint is None:
        expanded = files.expand(files.EMBEDDED, files.EMBEDDED / "expanded")
        checkpoint, adapter = expanded.checkpoint, adapter or expanded.adapter
    if _described(checkpoint):
        studio = Studio(files.load_diffusers(checkpoint, dtype=dtype, device=device).pipeline(), checkpoint=checkpoint)
    else:
        studio = Studio(_single_file(checkpoint, config, dtype).to(device), checkpoint=checkpoint)
    if adapter is not None:
        read_shapes(adapter)  # its complaints are for users
        studio.adapter = files.load_adapter(adapter, dtype, device)
    studio.pipe.set_progress_bar_config(disable=True)
    studio.use_sampler(sampler)
    return studio


def studio_of(options: Namespace, sampler: str = "ddim") -> Studio:
    """The one that the command line names, see `cli.add_model`."""
    return open_studio(options.checkpoint, options.adapter, options.config, options.device, sampler)


def _device(name: str) -> str:
    has: dict[str, Callable[[], bool]] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    if name == "auto":
        return next(kind for kind, there in has.items() if there())
    if not has[name]():
        raise UserError(f"this machine's torch has no {name}: leave --device out")
    return name


def _described(checkpoint: Path) -> bool:
    """Whether a `.yaml` beside it leads to everything that is needed, as the embedded model's does."""
    try:
        return files.read_description(checkpoint)[1].is_dir()
    except files.CheckpointError:
        return False


def _single_file(path: Path, config: Path | None, dtype: torch.dtype) -> Any:
    import diffusers

    shapes = read_shapes(path)
    first = shapes.get("model.diffusion_model.input_blocks.0.0.weight")
    if first is None:
        raise UserError(f"{path} holds no Stable Diffusion U-Net in its original layout")
    if first[1] != 4:
        raise UserError(f"{path} is a model for inpainting or editing ({first[1]} input channels); a plain one is needed")
    if config is not None and not (config / "model_index.json").is_file():
        raise UserError(f"--config {config} is not a diffusers folder: it has no model_index.json")
    large = any(name.startswith("conditioner.embedders.1.") for name in shapes)
    kind = diffusers.StableDiffusionXLPipeline if large else diffusers.StableDiffusionPipeline
    more = {} if large else {"safety_checker": None, "feature_extractor": None}
    try:
        return kind.from_single_file(str(path), config=config and str(config), local_files_only=True, torch_dtype=dtype, **more)
    except Exception as error:
        if config is None and _is_absence(error):
            raise UserError(f"the configuration and tokenizer for {path} are not on this machine: give --config FOLDER (a diffusers model "
                            "of the same kind, without its weights), or set HF_HUB_OFFLINE=0 once to fetch them") from None  # fmt: skip
        raise UserError(f"{path} could not be opened: {error!s:.300}") from error


def _is_absence(error: BaseException) -> bool:
    names = ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectError", "OSError", "HfHubHTTPError")
    return any(kind.__name__ in names for kind in type(error).__mro__)


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Every tensor's shape, from the file's header alone."""
    if path.suffix != ".safetensors":
        raise UserError(f"{path} is not a .safetensors file; other kinds can run code when they are opened, so convert it first")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= LARGEST_HEADER:
                raise ValueError
            return {name: entry["shape"] for name, entry in json.loads(file.read(length)).items() if name != "__metadata__"}
    except FileNotFoundError:
        raise UserError(f"the checkpoint {path} does not exist") from None
    except OSError as error:
        raise UserError(f"the checkpoint {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not a safetensors file, or is damaged") from None


def quiet() -> None:
    """What the libraries say while loading is for their developers."""
    import diffusers
    import transformers

    warnings.filterwarnings("ignore", message=".*decode_latents.*", category=FutureWarning)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
