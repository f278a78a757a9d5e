"""Learning, step by step: the same result for the same seed, in one go or resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..core.fingerprint import fingerprint
from .denoising import Frozen, held, weighted
from .learners import TEMPLATES, Batch, Subject, learner_of
from .settings import Learning, LearningError
from .tokens import TIMES

FALL = 1 / 3  # of the steps, in which the rate falls
LAST = 0.1  # of the rate, at the end
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Told:
    """What a step says of itself."""

    step: int  # counted from 1
    loss: float  # of the noise's prediction
    attention: float | None = None
    distance: float | None = None  # between the subject's prediction and its anchor: the root of the mean square


Watch = Callable[[Told], None]


class Training:
    """One character's. `run` goes on where it was, and may be called again; `watch` may raise to end it between two steps.

    `base` tells the pipeline's checkpoint from others, so that a state is not gone on with on another one.
    """

    def __init__(self, pipe: Any, subject: Subject, settings: Learning, base: str = ""):
        if settings.anchor != "none" and settings.anchor_on == "class" and subject.of_class is None:
            raise LearningError("The anchor needs pictures of the class, and there are none.")
        self.frozen, self.subject, self.settings, self.base = Frozen(pipe, settings.half), subject, settings, base
        self.learner = learner_of(self.frozen, subject, settings)
        self.optimiser = torch.optim.Adam([group | {"lr": group["base"]} for group in self.learner.rates()])
        self.log: list[Told] = []

    @property
    def step(self) -> int:
        return len(self.log)

    def run(self, watch: Watch = lambda told: None, until: int | None = None) -> None:
        """To the end, or to that many steps altogether."""
        until = min(self.settings.steps if until is None else until, self.settings.steps)
        with held(self.frozen.pipe, self.settings.checkpointing), self.learner.entered():
            while self.step < until:
                self.log.append(self._step(self.step))
                watch(self.log[-1])

    def _step(self, number: int) -> Told:
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + number)
        batch, noise, latent = self._batch(generator)
        predicted, attention = self.learner.predict(batch)
        error = (predicted - self.frozen.target(latent, noise, batch.t)).square()
        loss = denoising = weighted(error, self.frozen.weight(batch.t), batch.inside, self.settings.outside)
        if attention is not None:
            loss = loss + self.settings.attention * attention
        distance = None
        if self.settings.anchor != "none":
            apart = (predicted - self.learner.anchor(self._anchored(batch, noise, generator))).square()
            distance = apart.mean()
            loss = loss + self.settings.anchor_weight * (apart.mean((1, 2, 3)) * self.frozen.weight(batch.t)).mean()
        self._learn(loss, number)
        said = (None if x is None else float(x.detach()) for x in (attention, None if distance is None else distance.sqrt()))
        return Told(number + 1, float(denoising.detach()), *said)

    def _batch(self, generator: torch.Generator) -> tuple[Batch, Tensor, Tensor]:
        """Also its noise and its latents. Timesteps are spread evenly, so that every batch sees all stages where it is large enough."""
        rows, device = self.settings.batch, self.frozen.device
        picked = torch.randint(len(self.subject.examples), (rows,), generator=generator).tolist()
        text = int(torch.randint(len(TEMPLATES), (), generator=generator))
        t = ((torch.randperm(rows, generator=generator) + torch.rand(rows, generator=generator)) * (TIMES / rows)).long()
        examples = [self.subject.examples[i] for i in picked]
        latent = torch.cat([example.latent for example in examples]).to(device).float()
        inside = torch.cat([example.inside for example in examples]).to(device).float()
        noise = torch.randn(latent.shape, generator=generator).to(device)
        posed = (torch.rand(rows, generator=generator) < self.settings.posed).to(device).float()[:, None, None, None]
        levels = zip(*(example.pose for example in examples), strict=True)
        pose = tuple(torch.cat(level).to(device) * posed for level in levels)
        return Batch(self.frozen.noisy(latent, noise, t), t, inside, pose, text), noise, latent

    def _anchored(self, batch: Batch, noise: Tensor, generator: torch.Generator) -> Batch:
        """The same noise on pictures of the class, or the subject's own batch."""
        if self.settings.anchor_on == "subject":
            return batch
        assert self.subject.of_class is not None
        picked = torch.randint(len(self.subject.of_class), (len(noise),), generator=generator)
        latent = self.subject.of_class[picked].to(noise)
        return Batch(self.frozen.noisy(latent, noise, batch.t), batch.t, batch.inside, (), batch.text)

    def _learn(self, loss: Tensor, number: int) -> None:
        if not torch.isfinite(loss):
            raise LearningError("Learning went astray: the loss is no number any more. Lower the rate.")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        left = (self.settings.steps - number) / max(1.0, FALL * self.settings.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = group["base"] * max(LAST, min(1.0, left))
        self.optimiser.step()

    # ---- to be resumed

    def identity(self) -> str:
        """Tells what is learned, from what, and how: a state of anything else is not gone on with."""
        subject, pictures = self.subject, [x for e in self.subject.examples for x in (e.latent, e.inside, *e.pose)]
        of_class = [] if subject.of_class is None else [subject.of_class]
        return fingerprint(self.base, self.settings.told, subject.word, subject.kind, subject.beside, *pictures, *of_class)

    def save(self, path: Path) -> None:
        tensors, module = {}, self.learner.module()
        for name, parameter in module.named_parameters():
            tensors[f"weight.{name}"] = parameter.detach()
            for moment in MOMENTS:
                if moment in self.optimiser.state.get(parameter, {}):
                    tensors[f"{moment}.{name}"] = self.optimiser.state[parameter][moment]
        facts = {"identity": self.identity(), "log": [asdict(told) for told in self.log]}
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        save_file({name: x.cpu().contiguous() for name, x in tensors.items()}, unfinished, metadata={"facts": json.dumps(facts)})
        unfinished.replace(path)

    def resume(self, path: Path) -> bool:
        """Goes on from a saved state; false where there is none. LearningError for one of something else."""
        if not path.exists():
            return False
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads(file.metadata()["facts"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            log = [Told(**told) for told in facts["log"]]
            same = facts["identity"] == self.identity()
        except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
            raise LearningError(f"{path} cannot be read, so learning cannot go on from it. Remove it to begin anew.") from error
        if not same:
            raise LearningError(
                f"{path} is of another character, checkpoint or other settings. Remove it to begin anew, or take another --out."
            )
        with torch.no_grad():
            for name, parameter in self.learner.module().named_parameters():
                parameter.copy_(tensors[f"weight.{name}"])
                if log:
                    moments = {moment: tensors[f"{moment}.{name}"].to(parameter) for moment in MOMENTS if f"{moment}.{name}" in tensors}
                    if moments:
                        self.optimiser.state[parameter] = {"step": torch.tensor(float(len(log))), **moments}
        self.log = log
        return True
