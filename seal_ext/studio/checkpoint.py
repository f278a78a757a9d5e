"""The embedded model's checkpoint: packed into its shards, and opened with diffusers; `unpacking` says how it lies on disk."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from seal_ext.studio import keys
from seal_ext.studio.shards import record, shard, update_manifest
from seal_ext.studio.unpacking import ADAPTER, DESCRIPTION, EMBEDDED, MANIFEST, MODEL, TOKENIZER, CheckpointError, Expanded, expand

if TYPE_CHECKING:
    import diffusers
    import transformers

__all__ = ["EMBEDDED", "CheckpointError", "Components", "Expanded", "expand", "load_diffusers", "pack", "read_description", "shard"]


def pack(
    model: Mapping[str, Tensor],
    adapter: Mapping[str, Tensor] | None,
    description: str,
    tokenizer: Path,
    folder: Path | str,
    *,
    name: str,
    bits: int = 16,
) -> None:
    """Fill `folder` with all that `expand` needs: both sets of weights, the `.yaml`'s text and the tokenizer's files."""
    folder = Path(folder)
    (folder / TOKENIZER).mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    shard(model, folder, MODEL, bits=bits)
    if adapter is not None:
        shard(adapter, folder, ADAPTER, bits=bits)
    (folder / DESCRIPTION).write_text(_pointing_at(description, TOKENIZER), encoding="utf-8")
    files = [folder / DESCRIPTION]
    for source in sorted(tokenizer.glob("*.*")):
        files.append(folder / TOKENIZER / source.name)
        files[-1].write_bytes(source.read_bytes())
    update_manifest(folder, name=name, files=[record(path, folder) for path in files])


def _pointing_at(description: str, tokenizer: str) -> str:
    content = yaml.safe_load(description)
    content["model"]["params"]["cond_stage_config"]["params"]["version"] = tokenizer
    return yaml.safe_dump(content, sort_keys=False)


@dataclass(frozen=True)
class Components:
    """The parts of a diffusers pipeline."""

    unet: "diffusers.UNet2DConditionModel"
    vae: "diffusers.AutoencoderKL | None"  # only latents are drawn without
    text_encoder: "transformers.CLIPTextModel"
    tokenizer: "transformers.CLIPTokenizer"
    scheduler: "diffusers.DDIMScheduler"
    adapter: "diffusers.T2IAdapter | None"

    def pipeline(self) -> "diffusers.DiffusionPipeline":
        """The adapter's pipeline where there is an adapter, else the plain one."""
        import diffusers

        parts = {k: v for k, v in vars(self).items() if k != "adapter" or v is not None}
        kind = diffusers.StableDiffusionPipeline if self.adapter is None else diffusers.StableDiffusionAdapterPipeline
        return kind(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def read_description(checkpoint: Path | str) -> tuple[dict, Path]:
    """What the `.yaml` beside `checkpoint` says, and the tokenizer folder it names (relative ones lie beside it)."""
    path = Path(checkpoint).with_suffix(".yaml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return content, path.parent / content["model"]["params"]["cond_stage_config"]["params"]["version"]
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: it describes the checkpoint beside it") from None
    except (yaml.YAMLError, KeyError, TypeError):
        raise CheckpointError(f"{path} does not describe a checkpoint") from None


def load_diffusers(
    checkpoint: Path | str,
    adapter: Path | str | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Components:
    """Open an LDM checkpoint with diffusers, without network; each weight must find its place, and each place its weight."""
    import diffusers
    import transformers

    checkpoint = Path(checkpoint)
    description, folder = read_description(checkpoint)
    params = description["model"]["params"]
    unet, vae = diffusers.UNet2DConditionModel(**keys.unet_config(params)), diffusers.AutoencoderKL(**keys.vae_config(params))
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig.from_pretrained(str(folder), local_files_only=True))
    fill(checkpoint, unet, vae, text)
    return Components(
        unet=_ready(unet, dtype, device),
        vae=_ready(vae, dtype, device),
        text_encoder=_ready(text, dtype, device),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(str(folder), local_files_only=True),
        scheduler=diffusers.DDIMScheduler(**keys.scheduler_config(params)),
        adapter=None if adapter is None else load_adapter(Path(adapter), dtype, device),
    )


def load_adapter(path: Path, dtype: torch.dtype, device: torch.device | str) -> Any:
    return _ready(filled(*read_adapter(path), path), dtype, device)


def _ready(module: Any, dtype: torch.dtype, device: torch.device | str) -> Any:
    return module.to(device, dtype).eval().requires_grad_(False)


def _parts(unet: Any, vae: Any, text: Any) -> list[tuple[str, Any, dict[str, str]]]:
    """A checkpoint's networks: how their names begin in it, and how LDM's go on where diffusers' do."""
    # Since transformers 5 the text encoder's own names begin one level further in.
    inner = "text_model." if any(name.startswith("text_model.") for name in text.state_dict()) else ""
    return [(keys.UNET, unet, keys.unet_names(unet.config)), (keys.VAE, vae, keys.vae_names(vae.config)), (keys.TEXT, text, {"": inner})]


def fill(checkpoint: Path, unet: Any, vae: Any, text: Any) -> None:
    """Give diffusers' and transformers' networks the weights of an LDM checkpoint."""
    parts = _parts(unet, vae, text)
    states = _split(_weights(checkpoint), [prefix for prefix, _, _ in parts], checkpoint)
    for (_, network, names), state in zip(parts, states, strict=True):
        filled(network, keys.to_diffusers(state, names), checkpoint)


def ldm_state(unet: Any, vae: Any, text: Any) -> dict[str, Tensor]:
    """The networks' weights as an LDM checkpoint holds them: what `fill` reads."""
    return {
        prefix + name: tensor
        for prefix, network, names in _parts(unet, vae, text)
        for name, tensor in keys.to_ldm(network.state_dict(), names).items()
    }


def read_adapter(path: Path) -> tuple[Any, dict[str, Tensor]]:
    import diffusers

    state = _weights(path)
    if "conv_in.weight" not in state:
        raise CheckpointError(f"{path} is not a T2I-Adapter: it has no conv_in.weight")
    inputs = state["conv_in.weight"].shape[1]
    firsts = [state.get(f"body.{level * keys.ADAPTER_BLOCKS}.block1.weight") for level in range(keys.ADAPTER_LEVELS)]
    channels = [len(first) for first in firsts if first is not None]
    if len(channels) < keys.ADAPTER_LEVELS:
        raise CheckpointError(f"{path} is not a T2I-Adapter of {keys.ADAPTER_LEVELS} levels")
    module = diffusers.T2IAdapter(in_channels=inputs // 64, channels=channels, num_res_blocks=keys.ADAPTER_BLOCKS, downscale_factor=8)
    return module, keys.to_diffusers(state, keys.adapter_names())


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not readable as safetensors: {error}") from None


def _split(state: Mapping[str, Tensor], prefixes: Iterable[str], source: Path) -> list[dict[str, Tensor]]:
    parts = [{name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)} for prefix in prefixes]
    if stray := [name for name in state if not name.startswith(tuple(prefixes))]:
        raise CheckpointError(f"{source} holds unexpected {_some(stray)}")
    return parts


def filled(module: nn.Module, weights: Mapping[str, Tensor], source: Path) -> nn.Module:
    places = module.state_dict()
    kind = type(module).__name__
    if missing := sorted(places.keys() - weights.keys()):
        raise CheckpointError(f"{source} lacks, for {kind}, {_some(missing)}")
    if stray := sorted(weights.keys() - places.keys()):
        raise CheckpointError(f"{source} holds, for {kind}, unexpected {_some(stray)}")
    if uneven := sorted(name for name in places if places[name].shape != weights[name].shape):
        raise CheckpointError(f"{source} holds, for {kind}, wrongly shaped {_some(uneven)}")
    module.load_state_dict(dict(weights), strict=True)
    return module


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
