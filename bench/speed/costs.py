"""What is timed of a network, and how a picture's cost is put together of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from torch import Tensor

from bench.drawing import STEPS, sample
from bench.identity.methods import TUNED, best_knobs
from bench.peers.hooks import Hooks
from bench.peers.reference_only import reference_only
from seal_ext.core.cache import AppearanceCache
from seal_ext.core.memory import size
from seal_ext.core.schedule import Progress
from seal_ext.hosts.diffusers import Seal
from seal_ext.settings import Settings

from .clocks import Clock, peak
from .networks import CACHE, Network

INFUSION = replace(TUNED, bridge=False)
ALWAYS = replace(TUNED, lam_every=1)  # Delta-Bridge's row in every call
FRESH = 2  # steps that a reading brought from ordinary memory lies on the device: the one that is drawn and the next
VARIANTS = ("plain", "reference_only", "infused", "bridged")
Times = dict[str, list[list[float]]]  # of every variant: rounds, and in each the calls in their order


@dataclass(frozen=True)
class Counts:
    """How many calls of a picture are what."""

    steps: int = STEPS
    readings: int = 0
    asked: int = 0  # with a row of the reference prompt
    looks: int = 0  # in which the reference is looked through for matches


def counts(settings: Settings, looks: int) -> Counts:
    """Of a picture with these settings whose matches are made so many times."""
    levels = [float(step) for step in range(STEPS, 0, -1)]
    lam, asked, last = settings.lambda_schedule(), 0, -STEPS
    for step in range(STEPS):
        if lam(Progress(step, STEPS)) and step - last >= settings.lam_every:
            asked, last = asked + 1, step
    return Counts(STEPS, len(settings.appearance_steps().select(levels)), asked, looks)


# ---- calls


def peer(network: Network) -> Hooks:
    """ControlNet's reference_only, at the best of its tuning."""
    latents = network.encode().expand(network.images, -1, -1, -1)
    return Hooks(network.pipe, latents, None, reference_only(**best_knobs("reference_only")))


def calls(network: Network, clock: Clock, count: int, rounds: int, names: Sequence[str] = VARIANTS) -> Times:
    """Seconds of U-Net calls in the first steps of a picture, of reading a reference once, and of the autoencoder; interleaved."""
    caches = {name: AppearanceCache(CACHE) for name in ("infused", "bridged")}
    made: dict[str, Callable[[], AbstractContextManager]] = {
        "plain": nullcontext,
        "reference_only": lambda: peer(network),
        "infused": lambda: network.seal(once(INFUSION, network), caches["infused"]),
        "bridged": lambda: network.seal(once(ALWAYS, network), caches["bridged"]),
    }
    times: Times = defaultdict(list)
    for number in range(rounds):
        for name in names:
            steps = network.steps(STEPS)
            with made[name]() as host:
                if name in caches and number == 0:
                    readings = timed_reading(network, clock, host, steps[0])
                    if name == "infused":
                        times["reading"].append(readings)
                    steps = network.steps(STEPS)
                times[name].append([clock.of(lambda t=t: network.call(t)) for t in steps[:count]])  # type: ignore[misc]
        if names == VARIANTS:
            times["encode"].append([clock.of(network.encode)])
            times["decode"].append([clock.of(network.decode)])
    return times


def once(settings: Settings, network: Network) -> Settings:
    """With a single reading, at the first step of a picture."""
    return replace(settings, t_app=f"at {float(network.steps(STEPS)[0]):g}")


def timed_reading(network: Network, clock: Clock, host: Seal, t: Tensor) -> list[float]:
    """Seconds of each reading in a run's first call, after which all of it is cached."""
    seconds, read = [], host.read

    def reading(latent: Tensor, t: float, image: int) -> None:
        seconds.append(clock.of(lambda: read(latent, t, image)))

    host.read = reading  # type: ignore[method-assign]
    network.call(t)
    return seconds


def put_together(times: Times, count: Counts) -> dict[str, float]:
    """Seconds of a picture of every variant, from the medians of its calls."""

    def of(name: str, call: int = 0) -> float:
        return median(one[min(call, len(one) - 1)] for one in times[name])

    looking, later = of("infused"), min(of("infused", 1), of("infused"))
    infusion = count.looks * looking + (count.steps - count.looks) * later
    bridge = count.asked * max(of("bridged") - looking, 0.0)
    first = of("encode") + count.readings * of("reading")
    decode = of("decode")
    return {
        "plain": count.steps * of("plain") + decode,
        "reference_only": of("encode") + count.steps * of("reference_only") + decode,
        "first": first + infusion + bridge + decode,
        "cached": infusion + bridge + decode,
        "first_infusion": first + infusion + decode,
        "cached_infusion": infusion + decode,
    }


# ---- whole pictures of the embedded model


def pictures(network: Network, clock: Clock, rounds: int) -> dict[str, Any]:
    """Seconds of whole pictures, from words to pixels; interleaved. And how many times the reference was looked through."""
    warm = {"": AppearanceCache(CACHE), "_infusion": AppearanceCache(CACHE)}
    looks: list[int] = []

    def drawn() -> None:
        latents = sample(network.pipe, network.prompts, network.there.hints.to(network.device), network.latents)
        network.vae.decode(latents / network.vae.config.scaling_factor)

    def with_seal(settings: Settings, cache: AppearanceCache) -> None:
        with network.seal(settings, cache) as host:
            drawn()
            looks.append(max((held.made for held in host.run.matches.values()), default=STEPS) if host.run else STEPS)

    def with_peer() -> None:
        with peer(network):
            drawn()

    acts: dict[str, Callable[[], None]] = {"plain": drawn, "reference_only": with_peer}
    for name, settings in (("", TUNED), ("_infusion", INFUSION)):
        acts[f"first{name}"] = lambda settings=settings: with_seal(settings, AppearanceCache(CACHE))  # type: ignore[misc]
        acts[f"cached{name}"] = lambda settings=settings, cache=warm[name]: with_seal(settings, cache)  # type: ignore[misc]
    for act in acts.values():  # the first of all pays for what is made once
        act()
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, act in acts.items():
            times[name].append(clock.of(act))
    return {"seconds": times, "looks": max(looks)}


def beside_plain(seconds: dict[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Every variant's seconds by those of the plain picture of its own round: median, least and most."""
    ratios = {name: [one / plain for one, plain in zip(values, seconds["plain"], strict=True)] for name, values in seconds.items()}
    return {name: {"value": median(each), "low": min(each), "high": max(each)} for name, each in ratios.items()}


# ---- memory


def memory(network: Network) -> dict[str, float]:
    """Bytes on the device at their most in a U-Net call, with the network's weights; and what one reading of a reference keeps.

    The cache lies elsewhere, as it does where a card is short; of it the device holds what this step and the next one look at.
    """
    cache = AppearanceCache(CACHE)
    weights = size(network.unet.parameters())
    plain = peak(network.device, lambda: network.call(network.steps(STEPS)[0]))
    with network.seal(once(ALWAYS, network), cache):
        t = network.steps(STEPS)[0]
        network.call(t)
        reading = cache.bytes
        network.steps(STEPS)
        asked = peak(network.device, lambda: network.call(t))
    with network.seal(once(INFUSION, network), cache):
        t = network.steps(STEPS)[0]
        network.call(t)
        network.steps(STEPS)
        infused = peak(network.device, lambda: network.call(t))
    return {"weights": weights, "plain": weights + plain, "infused": weights + infused + FRESH * reading,
            "bridged": weights + asked + FRESH * reading, "reading": reading}  # fmt: skip


def curve(network: Network, clock: Clock, rounds: int) -> dict[str, float]:
    """An infused call by a plain one, in which matches are made and in which they are held, and a reading by a plain call."""
    times = calls(network, clock, 2, rounds, ("plain", "infused"))
    pairs = list(zip(times["infused"], times["plain"], strict=True))
    return {
        "looking": median(infused[0] / plain[0] for infused, plain in pairs),
        "held": median(infused[1] / plain[1] for infused, plain in pairs),
        "reading": sum(times["reading"][0]) / median(plain[0] for _, plain in pairs),
    }
