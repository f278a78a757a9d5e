"""A real WebUI for a test run: started on loopback with a data folder of its own, driven over its API, stopped at the end.

SEAL_WEBUI=PATH             the folder of an AUTOMATIC1111 WebUI, a Forge, a reForge, a Forge Classic or a Forge Neo; its interpreter is
                            PATH/venv, else SEAL_WEBUI_PYTHON
SEAL_WEBUI_CHECKPOINTS      a folder with a checkpoint to test with, else the embedded model
SEAL_WEBUI_CONTROLS         a folder with a T2I-Adapter that fits that checkpoint, else the embedded model's
SEAL_WEBUI_CONTROLNET       sd-webui-controlnet's folder, else PATH/extensions/sd-webui-controlnet; the Forges have one of their own
SEAL_WEBUI_GPU              set: run where the WebUI would, instead of on the CPU
"""

import base64
import io
import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from seal_ext.install.webui import Place, kind_of
from tests.hosts.ip_adapter import write_ip_adapter

HERE = Path(__file__).resolve().parent
STARTS = 600  # seconds within which a WebUI is up, on a busy machine too
TINY = ("tiny-sd1", "tiny-sd1-other", "tiny-inpaint", "tiny-sd2-v", "tiny-sdxl")  # what tiny_models.py makes
EMBEDDED = "seal-embedded"
TIMED = "SeAl read the reference in"  # what stands under every picture that had to
# What each kind needs to run on the CPU and to draw there as the others do.
ON_CPU = {
    "a1111": ["--use-cpu", "all", "--no-half"],
    "forge": ["--always-cpu", "--all-in-fp32", "--clip-in-fp32", "--vae-in-fp32", "--attention-pytorch"],
    "reforge": ["--always-cpu", "--all-in-fp32", "--no-half"],
    "classic": ["--always-cpu", "--all-in-fp32", "--no-half"],
    "neo": ["--cpu", "--force-fp32", "--use-pytorch-cross-attention"],
}
# What tells a relative from the one whose kind it is.
RELATIVES = {"classic": ("reforge", "extensions-builtin/xyz"), "neo": ("forge", "modules_forge/packages")}


def name_of(path: Path) -> str:
    """Whose WebUI this is; a relative of its kind has a name of its own."""
    kind = kind_of(path)
    return next((name for name, (like, mark) in RELATIVES.items() if like == kind and (path / mark).is_dir()), kind)


class Refused(Exception):
    """An answer that is no picture: its status and what it says."""

    def __init__(self, status: int, said: dict):
        super().__init__(f"{status} {said}")
        self.status, self.sentence = status, said.get("detail") or said.get("errors") or said.get("message")


class WebUI:
    """The WebUI's process and its API."""

    def __init__(self, path: Path, data: Path):
        self.path, self.data, self.port = path, data, free_port()
        self.kind, self.name = kind_of(path), name_of(path)
        self.tiny = TINY if self.name == self.kind else TINY[:3]  # Forge Classic and Neo: those of SD1's layout; see left_out.py
        self.forge = self.kind != "a1111"  # one of them
        self.adapters: list[str] = []  # as ControlNet calls them
        self.log = data / "webui.log"
        self.process = None
        own = os.environ.get("SEAL_WEBUI_CHECKPOINTS")
        self.current = self.checkpoint = min(file.stem for file in Path(own).rglob("*.safetensors")) if own else EMBEDDED

    def start(self) -> None:
        extensions, models = self.data / "extensions", self.data / "models"
        for folder in (extensions / "probe" / "scripts", models / "Stable-diffusion"):
            folder.mkdir(parents=True)
        # The other kind of preview would be downloaded for SDXL.
        settings = {"sd_model_checkpoint": self.checkpoint, "show_progress_type": "Approx cheap", "CLIP_stop_at_last_layers": 1}
        if self.name == "neo":  # it asks its user about settings that it did not write itself
            settings["VERSION_UID"] = re.search(r'^VERSION_UID.*"(.+)"', (self.path / "modules" / "launch_utils.py").read_text(), re.M)[1]
        (self.data / "config.json").write_text(json.dumps(settings))
        place = Place(self.data, self.forge)
        place.install()
        for name in ("probe.py", "eyes.py"):
            (extensions / "probe" / "scripts" / name).write_bytes((HERE / name).read_bytes())
        self._make_tiny(models / "Stable-diffusion", extensions / "probe" / "scripts")
        controlnet = Path(os.environ.get("SEAL_WEBUI_CONTROLNET") or self.path / "extensions" / "sd-webui-controlnet")
        if controlnet.is_dir() and not self.forge:
            (extensions / "sd-webui-controlnet").symlink_to(controlnet)
        arguments = ["--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-version-check", "--skip-python-version-check", "--api",
                     "--no-download-sd-model", "--do-not-download-clip", "--disable-console-progressbars", "--no-prompt-history",
                     "--server-name", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self.data),
                     "--gradio-allowed-path", str(self.path)]  # or Forge will not serve its own scripts  # fmt: skip
        if not os.environ.get("SEAL_WEBUI_GPU"):
            arguments += ON_CPU[self.name]
        if self.kind == "forge":  # its models are in the data folder only if it is told so twice
            arguments += ["--models-dir", str(models)]
        controls = os.environ.get("SEAL_WEBUI_CONTROLS")
        if controls and self.forge:  # the flag would take the place of the embedded model's adapter
            for file in Path(controls).glob("*.safetensors"):
                (place.adapters / file.name).symlink_to(file.resolve())
        for flag, folder in (("--ckpt-dir", os.environ.get("SEAL_WEBUI_CHECKPOINTS")), ("--controlnet-dir", controls)):
            if folder and not (self.forge and flag == "--controlnet-dir"):
                arguments += [flag, folder]
        # Nothing is asked of the network, and no browser is opened: a Forge opens one unless it takes this for a restart.
        # One that lacks a flag does without.
        alone = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "no_proxy": "127.0.0.1", "PYTHONUNBUFFERED": "1",
                 "HF_HOME": str(self.data / "hf"), "SD_WEBUI_RESTARTING": "1", "IGNORE_CMD_ARGS_ERRORS": "1"}  # fmt: skip
        # On a machine that others use, threads that wait for each other by spinning stand still.
        threads = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))}
        with self.log.open("w") as log:
            self.process = subprocess.Popen([str(self._python()), "launch.py", *arguments], cwd=self.path, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=subprocess.STDOUT, env={**threads, **os.environ, **alone})  # fmt: skip
        self._wait()
        # Completes the settings: without all of them in its data, one call's override_settings leak into the next.
        settings = {name: value for name, value in self.call("/sdapi/v1/options").items() if value is not None}
        if self.kind == "forge":  # it tells whole numbers as fractions, and fails where such a one is a count
            settings |= {name: int(value) for name, value in settings.items() if isinstance(value, float) and value.is_integer()}
        self.call("/sdapi/v1/options", settings)

    def _make_tiny(self, models: Path, scripts: Path) -> None:
        words = [self._python(), HERE / "tiny_models.py", self.path / "repositories", models, models.parent / "Lora"]
        made = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if made.returncode:
            raise RuntimeError("The tiny checkpoints could not be made:\n" + made.stderr[-3000:])
        for described in models.glob("*.json"):  # the text encoder of some of them
            described.rename(scripts / described.name)
        if self.tiny == TINY:  # in the order of their names, it comes after the one for the embedded model
            kinds = scripts.parents[1] / "tiny-kinds" / "scripts"
            kinds.mkdir(parents=True)
            (kinds / "kinds.py").write_bytes((HERE / "kinds.py").read_bytes())
        write_ip_adapter(models / "tiny-sd1.safetensors", models.parent / "ControlNet")

    def data_of(self, package: str, file: str = "") -> Path:
        """Where a file of a package is that this WebUI has; a place where nothing is if it has none."""
        asked = f"import importlib.util as u; found = u.find_spec({package!r}); print(found.submodule_search_locations[0] if found else '')"
        folder = subprocess.run([self._python(), "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
        return Path(folder or "nowhere") / file

    def _python(self) -> Path:
        own = [self.path / "venv" / "bin" / "python", self.path / "venv" / "Scripts" / "python.exe"]
        return next((python for python in own if python.exists()), Path(os.environ.get("SEAL_WEBUI_PYTHON", "python")))

    def _wait(self) -> None:
        for _ in range(STARTS):
            time.sleep(1)
            if self.process.poll() is not None:
                break
            said = self.log.read_text(errors="replace")
            # The extensions' own routes come last, just before it says how long all of it took. Forge loads a model when it first draws.
            loaded = self.kind == "forge" or re.search("Model .*loaded in|model failed to load", said)
            if "Startup time:" in said and loaded:
                try:
                    self.call("/sdapi/v1/sd-models")
                    return
                except (OSError, Refused):
                    continue
        self.stop()
        raise RuntimeError("The WebUI did not start:\n" + self.log.read_text(errors="replace")[-3000:])

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def call(self, route: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{route}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise Refused(error.code, json.loads(error.read())) from None

    def inside(self) -> dict:
        """What stands inside the host; what the last generation said to its user is under `said`."""
        return self.call("/seal-probe")

    @contextmanager
    def using(self, checkpoint: str = "", optimiser: str = "") -> Iterator[None]:
        """Another checkpoint or attention optimiser for a while: these act only when chosen in the settings."""
        before = {"sd_model_checkpoint": self.current, "cross_attention_optimization": "Automatic"}
        wanted = {"sd_model_checkpoint": checkpoint, "cross_attention_optimization": optimiser}
        wanted = {name: value for name, value in wanted.items() if value}
        try:
            self.call("/sdapi/v1/options", wanted)
            self.current = checkpoint or self.current
            yield
        finally:
            self.call("/sdapi/v1/options", {name: before[name] for name in wanted})
            self.current = before["sd_model_checkpoint"]

    def draw(self, seal=None, units=None, route="txt2img", **more) -> list[np.ndarray]:
        """The pictures of one generation; what is not said is small and quick."""
        return self.drawn(seal, units, route, **more)[0]

    def drawn(self, seal=None, units=None, route="txt2img", **more) -> tuple[list[np.ndarray], str]:
        """The same with the first picture's infotext."""
        body = dict(prompt="a red cat", seed=1, steps=4, width=128, height=128, cfg_scale=5, sampler_name="Euler", alwayson_scripts={})
        if seal is not None:
            body["alwayson_scripts"]["seal"] = {"args": seal if isinstance(seal, list) else [seal]}
        if units is not None:
            body["alwayson_scripts"]["ControlNet"] = {"args": [self.unit(**unit) for unit in units]}
        body |= more
        if self.forge and body.get("enable_hr"):  # without the first it does without guidance there, and without the second not at all
            body = {"hr_cfg": body["cfg_scale"], "hr_additional_modules": ["Use same choices"]} | body
            body |= {"hr_upscaler": "None"} if self.name == "neo" else {}  # it has none for latents
        answer = self.call(f"/sdapi/v1/{route}", body)
        return [opened(text) for text in answer["images"]], json.loads(answer["info"])["infotexts"][0]

    def unit(self, module: str = "none", model: str = "None", **more) -> dict:
        """A ControlNet unit as this kind spells it: the Forges know no preprocessor `none`, and no model without its hash."""
        if self.forge:
            self.adapters = self.adapters or self.call("/controlnet/model_list")["model_list"]
            model = next((name for name in self.adapters if name.split(" [")[0] == model), model)
            module = {"none": "None"}.get(module, module)
        return {"module": module, "model": model, **more}


# Infuses everywhere and strongly, so that it shows in a model of random weights, too: for tests that ask whether anything acts at all.
OPEN = dict(strength=2.0, tau_early=0.0, tau_late=0.0, delta_early=4.0, delta_late=4.0, blocks="mid up")
# The words that give Delta-Bridge something to do.
DOG = {"appearance_prompt": "a blue dog"}
SMALL = dict(width=64, height=64)
HIRES = dict(enable_hr=True, hr_scale=1.5, denoising_strength=0.6, hr_upscaler="Latent", hr_second_pass_steps=4)


def seal(**more) -> dict:
    """SeAl's arguments with a reference: what users get, but for what is said."""
    return {"reference": encoded(figure())} | more


def apart(one: np.ndarray, other: np.ndarray) -> int:
    """How far two pictures are apart, in 255ths, at most."""
    return int(np.abs(one - other).max())


def changed(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures differ by more than rounding, which moves hardly one value in 20,000, and that by one."""
    return apart(one, other) > 1 or float((one != other).mean()) > 0.01


def complaints(webui: WebUI) -> list[str]:
    """What the last generation said to its user, but for what belongs to drawing without a ControlNet."""
    return [sentence for sentence in webui.inside()["said"] if not sentence.startswith(("No ControlNet", TIMED))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def opened(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).astype(int)


def encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def figure(x: int = 64, tall: int = 90, size: int = 128, shirt: tuple[int, int, int] = (200, 30, 40), black: bool = False) -> Image.Image:
    """Somebody before an even background; as a map, white on black."""
    image = Image.new("RGB", (size, size), "black" if black else (200, 210, 220))
    draw, feet, head = ImageDraw.Draw(image), size - 14, tall // 4
    skin, shirt, jeans = ["white"] * 3 if black else [(230, 180, 120), shirt, (30, 60, 160)]
    draw.ellipse([x - head // 2, feet - tall, x + head // 2, feet - tall + head], fill=skin)
    draw.rectangle([x - tall // 6, feet - tall + head, x + tall // 6, feet - tall // 3], fill=shirt)
    for side in (-1, 1):
        draw.rectangle([x + side * tall // 10 - tall // 20, feet - tall // 3, x + side * tall // 10 + tall // 20, feet], fill=jeans)
    return image
