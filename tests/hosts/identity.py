"""Identity inside a WebUI, on the bench's own cases: the same characters, poses, words and noise as `bench identity`, and the same truth.

The WebUI's DDIM at 20 steps takes the same timesteps as diffusers', and its noise of a seed is the bench's: what differs is the host.
"""

from __future__ import annotations

import live_webui as live
import numpy as np
import torch
from PIL import Image

from bench.drawing import GUIDANCE, STEPS, Model
from bench.identity.methods import aligned_with, moved_by, none, peer, references_of, seal
from bench.identity.tasks import TASKS, Task
from bench.metrics.bootstrap import Interval, recovered, recovered_difference
from bench.metrics.identity import identity_error
from bench.peers.reference_only import reference_adain, reference_adain_attn, reference_only
from bench.seeds import FINAL
from seal_ext.install.webui import Place
from seal_ext.settings import Settings
from seal_ext.studio.checkpoint import Expanded

CASES = 8
FIDELITIES = (0.0, 0.5, 1.0)
OF_BEST_PEER = 1.3  # times its identity is what is asked
WITHIN = 3.0  # points of identity that two hosts may be apart
Column = dict[str, torch.Tensor]


def model_of(webui) -> Model:
    """What the bench draws with, on the very files that the WebUI has; without the judge, since identity needs only the truth."""
    place = Place(webui.data)
    checkpoint, description, adapter = place.weights
    return Model(Expanded(checkpoint, description, place.tokenizer, adapter))


class Cases:
    """One case of the bench, drawn by the bench and by a WebUI."""

    def __init__(self, webui, name: str = "pose", cases: int = CASES):
        self.webui, self.model = webui, model_of(webui)
        self.task: Task = TASKS[name](torch.arange(FINAL.start, FINAL.start + cases))
        self.hints = self.task.skeleton()
        self.references = [picture_of(image) for image in self.task.reference.picture.image]
        self.poses = [picture_of(skeleton) for skeleton in self.task.reference.skeleton]
        self.masks = [Image.fromarray(mask.byte().numpy() * 255) for mask in self.task.reference_mask()]
        self.adapter = next(m for m in webui.call("/controlnet/model_list?update=true")["model_list"] if m.startswith(live.EMBEDDED))
        structures = aligned_with(references_of(self.task), self.hints, Settings(enabled=True))
        self.moved = moved_by(structures)  # their maps, and the camera by which the truth follows
        self.base = self._errors(self.on_diffusers("none"), None)

    # ---- the bench

    def on_diffusers(self, name: str, fidelity: float = 0.5) -> torch.Tensor:
        """A method's pictures (cases, 3, height, width), as 8-bit files hold them."""
        make = {
            "none": lambda: none,
            "seal": lambda: seal(Settings(enabled=True), watch=False),
            "reference_only": lambda: peer(lambda: reference_only(fidelity)),
            "reference_adain": lambda: peer(lambda: reference_adain(fidelity), statistics=True),
            "reference_adain+attn": lambda: peer(lambda: reference_adain_attn(fidelity), statistics=True),
        }
        return self.model.decode(make[name]()(self.model, self.task).latents)

    # ---- the WebUI

    def in_webui(self, name: str, fidelity: float = 0.5, mode: str = "Balanced", **settings) -> torch.Tensor:
        """The same over its API; a control mode says for reference units what their fidelity is."""
        return torch.stack([self._one(row, name, fidelity, mode, settings) for row in range(len(self.task))])

    def _one(self, row: int, name: str, fidelity: float, mode: str, settings: dict) -> torch.Tensor:
        reference, given, hint = live.encoded(self.references[row]), None, self.hints[row]
        if name == "seal":
            # Both hosts get the bench's own alignment, and the joints for the limb guide: AnchorAlign is compared by itself.
            pose, hint = live.encoded(self.poses[row]), self.moved[0][row]
            given = self.given(row) | {"reference_pose": pose, "align": False} | settings
        units = [self.unit(live.encoded(picture_of(hint)), "none", self.adapter)]
        if name not in ("none", "seal"):
            units.append(self.unit(reference, name, "None", threshold_a=fidelity, control_mode=mode))
        return tensor_of(self.drawn(row, given, units)[0])

    def given(self, row: int) -> dict:
        """A case's reference and its mask."""
        return {"reference": live.encoded(self.references[row]), "mask": live.encoded(self.masks[row]), "mask_source": "drawn"}

    def drawn(self, row: int, given: dict | None, units: list[dict]) -> list[np.ndarray]:
        """The pictures of one case's call."""
        size = self.hints.shape[-1]
        how = dict(prompt=self.task.prompts[row].text, seed=int(self.task.seeds[row]), width=size, height=size,
                   negative_prompt="", steps=STEPS, cfg_scale=GUIDANCE, sampler_name="DDIM")  # fmt: skip
        return self.webui.draw(given, units, **how)

    def unit(self, image: str, module: str, model: str, **more) -> dict:
        size = self.hints.shape[-1]
        return dict(enabled=True, module=module, model=model, image=image, weight=1.0, resize_mode="Just Resize", control_mode="Balanced",
                    processor_res=size, threshold_b=0, save_detected_map=False) | {"threshold_a": 0} | more  # fmt: skip

    def aligned(self) -> tuple[list[int], list[int]]:
        """How far the WebUI's aligned structures are from the bench's, and from those before: the truth moves with the bench's."""
        apart, moved = [], []
        for row, hint in enumerate(self.moved[0]):
            units = [self.unit(live.encoded(picture_of(self.hints[row])), "none", self.adapter)]
            drawn = self.drawn(row, self.given(row) | {"show_aligned": True, "strength": 0.0, "bridge": False}, units)
            apart.append(float(np.abs(drawn[1] - np.asarray(picture_of(hint)).astype(int)).mean()))
            moved.append(float(np.abs(drawn[1] - np.asarray(picture_of(self.hints[row])).astype(int)).mean()))
        return apart, moved

    # ---- what they are worth

    def identity(self, pictures: torch.Tensor, aligned: bool = False) -> float:
        """Percent of the way from no reference to the ceiling; the truth of aligned structures has moved with them."""
        column = self._errors(pictures, self.moved[1] if aligned else None)
        return recovered(self.base["error"], column["error"], self.base["ceiling"])["value"]

    def lead(self, aligned: torch.Tensor, other: torch.Tensor) -> Interval:
        """How many points of identity pictures of aligned structures have more than others."""
        mine, theirs = self._errors(aligned, self.moved[1]), self._errors(other, None)
        return recovered_difference(self.base["error"], mine["error"], theirs["error"], self.base["ceiling"])

    def _errors(self, pictures: torch.Tensor, moved) -> Column:
        truth = self.task.truth(moved)
        subject = truth.region > 0
        ceiling = self.model.through_vae(truth.image)
        return {"error": identity_error(pictures, truth.image, subject), "ceiling": identity_error(ceiling, truth.image, subject)}


def picture_of(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def tensor_of(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255
