"""Identity inside a WebUI, on the bench's own cases: the same characters, poses, words and noise as `bench identity`, and the same truth.

The WebUI's DDIM at 20 steps takes the same timesteps as diffusers', and its noise of a seed is the bench's: what differs is the host.
"""

from __future__ import annotations

import live_webui as live
import numpy as np
import torch
from PIL import Image

from bench.drawing import GUIDANCE, STEPS, Model
from bench.identity.known import GIVEN, placed
from bench.identity.methods import none, peer, seal
from bench.identity.tasks import TASKS, Task
from bench.metrics.bootstrap import Interval, recovered, recovered_difference, recovered_ratio
from bench.metrics.identity import identity_error
from bench.peers.reference_only import reference_adain, reference_adain_attn, reference_only
from bench.seeds import FORMER
from seal_ext.install.webui import Place
from seal_ext.settings import Settings
from seal_ext.studio.checkpoint import Expanded

CASES = 8
FIDELITIES = (0.0, 0.5, 1.0)
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
        self.task: Task = TASKS[name](torch.arange(FORMER.start, FORMER.start + cases))
        self.hints = self.task.structure()
        self.references = [picture_of(image) for image in self.task.reference.picture.image]
        people = zip(self.task.reference.structure, self.task.shown.person.tolist(), strict=True)
        self.poses = [picture_of(skeleton) if person else None for skeleton, person in people]  # no tool finds an animal's joints
        self.masks = [Image.fromarray(mask.byte().numpy() * 255) for mask in self.task.reference_mask()]
        self.adapter = next(m for m in webui.call("/controlnet/model_list?update=true")["model_list"] if m.startswith(live.EMBEDDED))
        there = placed(self.task, GIVEN, Settings(enabled=True))
        self.moved, self.camera = there.hints, there.moved  # every method draws from the moved maps, and the truth follows them
        self.base = self.errors(self.on_diffusers("none"))

    # ---- the bench

    def on_diffusers(self, name: str, fidelity: float = 0.5) -> torch.Tensor:
        """A method's pictures (cases, 3, height, width), as 8-bit files hold them."""
        make = {
            "none": lambda: none(GIVEN),
            "seal": lambda: seal(Settings(enabled=True), watch=False),
            "reference_only": lambda: peer(lambda: reference_only(fidelity), GIVEN),
            "reference_adain": lambda: peer(lambda: reference_adain(fidelity), GIVEN, statistics=True),
            "reference_adain+attn": lambda: peer(lambda: reference_adain_attn(fidelity), GIVEN, statistics=True),
        }
        return self.model.decode(make[name]().draw(self.model, self.task).latents)

    # ---- the WebUI

    def in_webui(self, name: str, fidelity: float = 0.5, mode: str = "Balanced", **settings) -> torch.Tensor:
        """The same over its API; a control mode says for reference units what their fidelity is."""
        return torch.stack([self._one(row, name, fidelity, mode, settings) for row in range(len(self.task))])

    def _one(self, row: int, name: str, fidelity: float, mode: str, settings: dict) -> torch.Tensor:
        # Both hosts get the bench's own alignment: AnchorAlign is compared by itself.
        reference, given = live.encoded(self.references[row]), self.given(row) | {"align": False} | settings if name == "seal" else None
        units = [self.unit(live.encoded(picture_of(self.moved[row])), "none", self.adapter)]
        if name not in ("none", "seal"):
            units.append(self.unit(reference, name, "None", threshold_a=fidelity, control_mode=mode))
        return tensor_of(self.drawn(row, given, units)[0])

    def given(self, row: int) -> dict:
        """A case's reference, its mask and its joints."""
        pose = {"reference_pose": live.encoded(self.poses[row])} if self.poses[row] else {}
        return {"reference": live.encoded(self.references[row]), "mask": live.encoded(self.masks[row]), "mask_source": "drawn"} | pose

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
        for row, hint in enumerate(self.moved):
            units = [self.unit(live.encoded(picture_of(self.hints[row])), "none", self.adapter)]
            drawn = self.drawn(row, self.given(row) | {"show_aligned": True, "strength": 0.0, "bridge": False}, units)
            apart.append(float(np.abs(drawn[1] - np.asarray(picture_of(hint)).astype(int)).mean()))
            moved.append(float(np.abs(drawn[1] - np.asarray(picture_of(self.hints[row])).astype(int)).mean()))
        return apart, moved

    # ---- what they are worth

    def identity(self, pictures: torch.Tensor) -> float:
        """Percent of the way from no reference to the ceiling."""
        return recovered(self.base["error"], self.errors(pictures)["error"], self.base["ceiling"])["value"]

    def lead(self, one: torch.Tensor, other: torch.Tensor) -> tuple[Interval, Interval]:
        """How many times as much identity some pictures have as others, and how many points more."""
        base, mine, theirs = self.base, self.errors(one)["error"], self.errors(other)["error"]
        return recovered_ratio(base["error"], mine, theirs), recovered_difference(base["error"], mine, theirs, base["ceiling"])

    def errors(self, pictures: torch.Tensor) -> Column:
        truth = self.task.truth(self.camera)
        subject = truth.region > 0
        ceiling = self.model.through_vae(truth.image)
        return {"error": identity_error(pictures, truth.image, subject), "ceiling": identity_error(ceiling, truth.image, subject)}


def picture_of(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def tensor_of(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255
