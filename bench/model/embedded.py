"""The embedded model as training has it: its four networks, and its files."""

from pathlib import Path

from diffusers import DDIMScheduler
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.model.networks import AutoencoderKL, new_adapter, new_text, new_unet
from bench.model.shape import Shape
from seal_ext.studio import keys
from seal_ext.studio.checkpoint import fill, filled, ldm_state, read_adapter, read_description


class Embedded(nn.Module):
    """U-Net, autoencoder, text encoder and T2I-Adapter of one shape."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.unet, self.vae, self.text, self.adapter = new_unet(shape), AutoencoderKL(shape), new_text(shape), new_adapter(shape)
        # What share of the variance is still signal after each step.
        self.register_buffer("alphas", DDIMScheduler(**keys.scheduler_config(shape.params)).alphas_cumprod, persistent=False)

    def ldm_state(self) -> dict[str, Tensor]:
        """A single-file SD1 checkpoint's weights; the adapter has a file of its own."""
        return ldm_state(self.unet, self.vae, self.text)

    def adapter_state(self) -> dict[str, Tensor]:
        return keys.to_ldm(self.adapter.state_dict(), keys.adapter_names())

    def save(self, checkpoint: Path, tokenizer: Path, adapter: Path | None = None) -> None:
        """Write `checkpoint` and its `.yaml`, which will name the `tokenizer` folder, and the adapter's file if asked."""
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        save_file(_plain(self.ldm_state()), checkpoint)
        checkpoint.with_suffix(".yaml").write_text(self.shape.ldm_yaml(str(tokenizer.absolute())), encoding="utf-8")
        if adapter is not None:
            save_file(_plain(self.adapter_state()), adapter)

    @classmethod
    def load(cls, checkpoint: Path, adapter: Path | None = None) -> "Embedded":
        """Open a checkpoint that `save` or the extension's `expand` wrote; without its file the adapter is untrained."""
        description, tokenizer = read_description(checkpoint)
        model = cls(Shape.from_files(description, tokenizer))
        fill(checkpoint, model.unet, model.vae, model.text)
        if adapter is not None:
            filled(model.adapter, read_adapter(adapter)[1], adapter)
        return model.eval()


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Independent, ordinarily laid out tensors: the file format knows no memory format."""
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}
