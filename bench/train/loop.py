"""What every stage of training shares: a budget in minutes, averaged weights, and a checkpoint that survives a kill."""

from __future__ import annotations

import copy
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from bench.cli import UserError

from .muon import Muon

ADAM, MUON = ("exp_avg", "exp_avg_sq"), "momentum"  # what the optimisers remember of a parameter
SAVE_EVERY = 240  # seconds; a lost machine costs no more
WARM_UP = 100  # steps
DECAY = 0.35  # the share of the budget over which the learning rate falls to its end


class Trainer:
    """AdamW on one module with an exponential average of its weights, stored together in one pickle-free file.

    Parameters whose names `turned` picks learn by Muon instead. The budget is `minutes` of this call; or `length` steps from the weights
    it began with, however many calls they take.
    """

    def __init__(
        self,
        module: nn.Module,
        path: Path,
        rate: float,
        minutes: float,
        average: float = 0.999,
        weight_decay: float = 0.01,
        turned: Callable[[str, nn.Parameter], bool] = lambda name, parameter: False,
        length: int | None = None,
    ):
        self.module, self.path, self.rate, self.minutes, self.average = module, path, rate, minutes, average
        self.length, self.begun = length, 0
        self.averaged = copy.deepcopy(module).requires_grad_(False)
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        matrices, others = [p for n, p in named if turned(n, p)], [p for n, p in named if not turned(n, p)]
        self.optimisers = [torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)]
        self.optimisers += [Muon(matrices, rate, weight_decay=weight_decay)] if matrices else []
        self.step = 0
        self.earlier: list[dict] = []  # what was done before this call, a run each: device, steps, hours
        self.first_step = 0
        self.warm_from = 0  # after a resume without optimiser state the rate climbs again from here
        self.started = self.saved = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """0 → 1 over the budget."""
        if self.length:
            return min(1.0, (self.step - self.begun) / self.length)
        return min(1.0, self.elapsed / (60 * self.minutes))

    def steps(self) -> Iterator[int]:
        """Yield step numbers until the budget is spent; saves on the way and at the end, also on Ctrl-C and when told to end."""

        def told_to_end(*_):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, told_to_end)
        try:
            while self.progress < 1:
                yield self.step
                self.step += 1
                if time.monotonic() - self.saved > SAVE_EVERY:
                    self.save()
        finally:
            signal.signal(signal.SIGTERM, before)
            self.save()

    def update(self, loss: torch.Tensor) -> None:
        """One optimiser step on `loss`, then the average follows."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        warm = min(1.0, (self.step - self.warm_from + 1) / WARM_UP)
        fall = max(0.0, (self.progress - (1 - DECAY)) / DECAY)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.rate * warm * (1 - 0.96 * fall)
            optimiser.step()
        # Young weights change fast; the average then forgets fast too.
        keep = min(self.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.module.parameters()), 1 - keep)

    @property
    def runs(self) -> list[dict]:
        """The history of these weights, this call included."""
        device = next(self.module.parameters()).device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
        now = {"device": name, "steps": self.step - self.first_step, "hours": round(self.elapsed / 3600, 3)}
        return [*self.earlier, *([now] if now["steps"] else [])]

    def save(self) -> None:
        tensors = {}
        for prefix, module in (("weights.", self.module), ("average.", self.averaged)):
            tensors |= {prefix + name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for optimiser in self.optimisers:
                for key in (*ADAM, MUON):
                    if key in optimiser.state.get(parameter, {}):
                        tensors[f"{key}.{name}"] = optimiser.state[parameter][key].detach().cpu().contiguous()
        facts = {"step": self.step, "begun": self.begun, "runs": self.runs}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".part")
        save_file(tensors, unfinished, metadata={"facts": json.dumps(facts)})
        unfinished.replace(self.path)
        self.saved = time.monotonic()

    def resume(self) -> bool:
        """Go on from this stage's own checkpoint, when there is one."""
        if not self.path.exists():
            return False
        try:
            tensors = load_file(self.path)
            with safe_open(self.path, "pt") as file:
                facts = json.loads(file.metadata()["facts"])
            for prefix, module in (("weights.", self.module), ("average.", self.averaged)):
                module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        except Exception as error:
            raise UserError(f"the training checkpoint {self.path} does not fit this model ({error}); remove it or use --fresh") from error
        for name, parameter in self.module.named_parameters():
            adam = next((g for g in self.optimisers[0].param_groups if any(p is parameter for p in g["params"])), None)
            kept = {key: tensors[f"{key}.{name}"].to(parameter) for key in (ADAM if adam else (MUON,)) if f"{key}.{name}" in tensors}
            if kept and adam:
                kept["step"] = torch.tensor(float(facts["step"]))
            if kept:
                self.optimisers[0 if adam else 1].state[parameter] = kept
        self.step, self.begun = facts["step"], facts["begun"]
        self.first_step = self.step
        self.earlier = facts["runs"]
        return True

    def start_from(self, state: dict[str, torch.Tensor], runs: list[dict]) -> None:
        """Go on from weights alone, made by those runs: fresh optimiser, warm-up."""
        self.module.load_state_dict(state)
        self.averaged.load_state_dict(state)
        self.earlier = runs
        self.step = self.begun = self.first_step = self.warm_from = sum(run["steps"] for run in runs)


def recorded_runs(path: Path) -> list[dict]:
    """The history that a checkpoint carries, without its tensors."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["facts"])["runs"]


def log(path: Path, **values) -> None:
    """Append one line of JSON, and show it."""
    line = json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)
