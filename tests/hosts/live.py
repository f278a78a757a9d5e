"""A real WebUI for a test run: started on loopback with a data folder of its own, driven over its API, stopped at the end.

SEAL_WEBUI=PATH             the WebUI's folder; its interpreter is PATH/venv, else SEAL_WEBUI_PYTHON
SEAL_WEBUI_CHECKPOINTS      a folder with a checkpoint, else the WebUI's own
SEAL_WEBUI_CONTROLNET       sd-webui-controlnet's folder, else PATH/extensions/sd-webui-controlnet when it is there
SEAL_WEBUI_CONTROLS         a folder with a T2I-Adapter that fits the checkpoint; without it those cases are skipped
"""

import base64
import io
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
STARTS = 600  # seconds within which a WebUI is up, on a busy machine too
# Breaks the run in the middle, where no API call could: `explode N` and `halt N` in a prompt act at the U-Net's N-th call.
PROBE = """
import re
from modules import scripts, shared

class Probe(scripts.Script):
    def title(self):
        return "seal test probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def before_process(self, p, *args):
        found = re.search(r"(explode|halt) (\\d+)", p.prompt if isinstance(p.prompt, str) else "")
        if not found:
            return
        left = [int(found.group(2))]

        def hook(module, inputs):
            left[0] -= 1
            if left[0] == 0:
                handle.remove()
                if found.group(1) == "explode":
                    raise RuntimeError("exploded")
                shared.state.interrupt()

        handle = shared.sd_model.model.diffusion_model.middle_block.register_forward_pre_hook(hook)
"""


class Refused(Exception):
    """An answer that is no picture: its status and what it says."""

    def __init__(self, status: int, said: dict):
        super().__init__(f"{status} {said}")
        self.status, self.sentence = status, said.get("detail") or said.get("errors")


class WebUI:
    """The WebUI's process and its API."""

    def __init__(self, path: Path, data: Path):
        self.path, self.data, self.port = path, data, free_port()
        self.log = data / "webui.log"
        self.process = None

    def start(self) -> None:
        extensions = self.data / "extensions"
        (extensions / "probe" / "scripts").mkdir(parents=True)
        (extensions / "probe" / "scripts" / "seal_probe.py").write_text(PROBE)
        (extensions / "sd-webui-seal").symlink_to(ROOT)
        controlnet = Path(os.environ.get("SEAL_WEBUI_CONTROLNET") or self.path / "extensions" / "sd-webui-controlnet")
        if controlnet.is_dir():
            (extensions / "sd-webui-controlnet").symlink_to(controlnet)
        arguments = ["--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-version-check", "--skip-python-version-check", "--api",
                     "--no-download-sd-model", "--do-not-download-clip", "--disable-console-progressbars", "--no-prompt-history",
                     "--server-name", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self.data)]  # fmt: skip
        if not os.environ.get("SEAL_WEBUI_GPU"):
            arguments += ["--use-cpu", "all", "--no-half"]
        for flag, variable in (("--ckpt-dir", "SEAL_WEBUI_CHECKPOINTS"), ("--controlnet-dir", "SEAL_WEBUI_CONTROLS")):
            if os.environ.get(variable):
                arguments += [flag, os.environ[variable]]
        offline = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "no_proxy": "127.0.0.1", "PYTHONUNBUFFERED": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen([str(self._python()), "launch.py", *arguments], cwd=self.path, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **offline})  # fmt: skip
        self._wait()
        # Completes the settings: without all of them in its data, one call's override_settings leak into the next.
        self.call("/sdapi/v1/options", {name: value for name, value in self.call("/sdapi/v1/options").items() if value is not None})

    def _python(self) -> Path:
        own = [self.path / "venv" / "bin" / "python", self.path / "venv" / "Scripts" / "python.exe"]
        return next((python for python in own if python.exists()), Path(os.environ.get("SEAL_WEBUI_PYTHON", "python")))

    def _wait(self) -> None:
        for _ in range(STARTS):
            time.sleep(1)
            if self.process.poll() is not None:
                break
            said = self.log.read_text(errors="replace")
            if "Model loaded in" in said or "model failed to load" in said:
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

    def draw(self, seal=None, units=None, route="txt2img", **more) -> list[np.ndarray]:
        """The pictures of one generation; what is not said is small and quick."""
        return self.drawn(seal, units, route, **more)[0]

    def drawn(self, seal=None, units=None, route="txt2img", **more) -> tuple[list[np.ndarray], str]:
        """The same with the first picture's infotext."""
        body = dict(prompt="a red cat", seed=1, steps=4, width=128, height=128, cfg_scale=5, sampler_name="Euler", alwayson_scripts={})
        if seal is not None:
            body["alwayson_scripts"]["seal"] = {"args": seal if isinstance(seal, list) else [seal]}
        if units is not None:
            body["alwayson_scripts"]["ControlNet"] = {"args": units}
        answer = self.call(f"/sdapi/v1/{route}", body | more)
        return [opened(text) for text in answer["images"]], json.loads(answer["info"])["infotexts"][0]


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
