"""An extension for test runs: it breaks a generation where no API call could, draws inside one, and tells what stands inside the host.

In a prompt, `explode N` and `halt N` act at the U-Net's N-th call; `inner pass` has the picture drawn over once more, as ADetailer does.
"""

import gc
import re
import sys
from contextlib import closing
from copy import copy
from importlib.util import find_spec
from pathlib import Path

import torch
from modules import processing, script_callbacks, scripts, sd_models, shared

if find_spec("open_clip"):  # Forge Neo does without
    import open_clip

    open_clip.add_model_config(Path(__file__).parent)  # the text encoder of the tiny checkpoints
# What the Forges call them, and what all do; a Flux is in the Forges alone.
FAMILIES = {"SD15": "is_sd1", "SD20": "is_sd2", "SDXL": "is_sdxl", "SD3": "is_sd3", "Flux": "is_flux"}
said: list[str] = []
hooks: list = []


class Probe(scripts.Script):
    def title(self):
        return "seal test probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def before_process(self, p, *args):
        if not is_inner(p):
            said.clear()

    def process(self, p, *args):
        # Forge loads the model after before_process.
        found = re.search(r"(explode|halt) (\d+)", p.prompt if isinstance(p.prompt, str) else "")
        if not found:
            return
        left = [int(found.group(2))]
        while hooks:  # of a run that had fewer calls
            hooks.pop().remove()

        def hook(module, inputs):
            left[0] -= 1
            if left[0] == 0:
                hooks.pop().remove()
                if found.group(1) == "explode":
                    raise RuntimeError("exploded")
                shared.state.interrupt()

        # Its first layer: of the block itself reForge takes only the parts.
        hooks.append(network().middle_block[0].register_forward_pre_hook(hook))

    def postprocess_image(self, p, pp, *args):
        if "inner pass" not in str(p.prompt) or is_inner(p):
            return
        inner = processing.StableDiffusionProcessingImg2Img(
            init_images=[pp.image], sd_model=p.sd_model, prompt=p.prompt, seed=p.seed, steps=p.steps, width=p.width, height=p.height,
            cfg_scale=p.cfg_scale, sampler_name=p.sampler_name, denoising_strength=0.7, do_not_save_samples=True, do_not_save_grid=True,
        )  # fmt: skip
        inner.is_api, inner._probe_inner = p.is_api, True  # before the scripts, which else take their values from the page
        if "unmarked" not in str(p.prompt):  # as ADetailer marks its own
            inner._ad_inner = True
        inner.scripts, inner.script_args = copy(p.scripts), p.script_args
        torch.manual_seed(0)  # the host encodes the picture with whatever random numbers come next
        with closing(inner):
            pp.image = processing.process_images(inner).images[0]
        said.append("an inner pass was drawn")

    def postprocess(self, p, processed, *args):
        if not is_inner(p):
            said.extend(p.comments)


def is_inner(p):
    """Whether it is the picture that this extension draws inside another."""
    return getattr(p, "_probe_inner", False)


def network():
    """The U-Net, or what there is in its place."""
    patched = getattr(shared.sd_model, "forge_objects", None)  # of Forge and reForge
    return (patched.unet if patched else shared.sd_model).model.diffusion_model


def kind():
    """The family that the model was opened as. To look for it in reForge's engine would not do: that calls an SD2 an SD1."""
    patched = getattr(shared.sd_model, "forge_objects", None)
    if patched is None:
        return [name for name in FAMILIES.values() if getattr(shared.sd_model, name, False)]
    inner = patched.unet.model
    opened = inner.model_config if hasattr(inner, "model_config") else inner.config
    return [FAMILIES[base.__name__] for base in type(opened).__mro__ if base.__name__ in FAMILIES]


def parameterization():
    """Whether what the network says is taken for v, for the noise, or for where a flow goes."""
    patched = getattr(shared.sd_model, "forge_objects", None)
    if patched is None:
        return shared.sd_model.parameterization
    inner = patched.unet.model
    if hasattr(inner, "predictor"):
        return {"v_prediction": "v", "epsilon": "eps", "const": "flow"}[inner.predictor.prediction_type]
    kinds = {"V_PREDICTION": "v", "EPS": "eps"}
    return next(kinds[kind.__name__] for kind in type(inner.model_sampling).__mro__ if kind.__name__ in kinds)


def inside():
    """What a run could leave behind in this process."""
    if hasattr(sd_models, "forge_model_reload"):
        sd_models.forge_model_reload()  # what is chosen in the settings is loaded when something is drawn
    from seal_ext.hosts.webui import process_state  # the extension under test puts its folder on the path when it is loaded

    gc.collect()
    unet = network()
    patched = [name for name, module in unet.named_modules() if {"forward", "_forward"} & set(vars(module))]
    hooked = sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in unet.modules())
    callbacks = {name: len(found) for name, found in vars(script_callbacks)["callback_map"].items()}
    lines = Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else []
    resident = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), None)
    return {"said": said, "patched": patched, "hooked": hooked, "callbacks": callbacks, "resident": resident, "kind": kind(),
            "cache": process_state.cache.stats(), "parameterization": parameterization(), "axes": axes(),
            "optimisers": [one.title() for one in getattr(sys.modules.get("modules.sd_hijack"), "optimizers", ())]}  # fmt: skip


def axes():
    """The X/Y/Z plot's, in txt2img and in the order that the API counts them."""
    plot = next(loaded.module for loaded in scripts.scripts_data if loaded.script_class.__module__ == "xyz_grid.py")
    return [option.label for option in plot.axis_options if not getattr(option, "is_img2img", False)]


script_callbacks.on_app_started(lambda demo, app: app.add_api_route("/seal-probe", inside, methods=["GET"]))
