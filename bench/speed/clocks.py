"""Time and memory on the machine that computes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


class Clock:
    """Seconds that a device is at work. Of a CPU they are what one thread computes: what else the machine does meanwhile is no cost."""

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cpu":
            torch.set_num_threads(1)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time() if self.device.type == "cpu" else time.perf_counter()

    def of(self, act: Callable[[], Any]) -> float:
        start = self.now()
        act()
        return self.now() - start


def peak(device: torch.device, act: Callable[[], Any]) -> int:
    """By how many bytes of tensors an act has the most beside what was there."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        act()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        act()
    most = now = 0
    for event in sorted((e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
