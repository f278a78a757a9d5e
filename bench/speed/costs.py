"""What is timed of a network, and how a picture's cost is put together of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from bench.drawing import STEPS, sample
from bench.identity.methods import TUNED, best_knobs
from bench.peers.hooks import Hooks
from bench.peers.reference_only import reference_only
from seal_ext.core.memory import size
from seal_ext.core.schedule import Progress
from seal_ext.hosts.diffusers import Seal
from seal_ext.layers import undo_all, wrap
from seal_ext.settings import Settings

from .clocks import Clock, peak
from .networks import Network

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
    hosts = {"infused": network.seal(once(INFUSION, network)), "bridged": network.seal(once(ALWAYS, network))}
    times: Times = defaultdict(list)
    for number in range(rounds):
        for name in names:
            steps = network.steps(STEPS)
            with hosts[name] if name in hosts else peer(network) if name == "reference_only" else nullcontext() as host:
                inside = Inside(clock, host) if name in hosts and number == 0 else None
                times[name].append([clock.of(lambda t=t: network.call(t)) for t in steps[:count]])  # type: ignore[misc]
            if inside is not None:
                times[name][0][0] -= inside.stop()
                if name == "infused":
                    times["reading"].append(inside.readings)
        if names == VARIANTS:
            times["encode"].append([clock.of(network.encode)])
            times["decode"].append([clock.of(network.decode)])
    return times


class Inside:
    """Times what a run does once, inside its first call: encoding and reading its references."""

    def __init__(self, clock: Clock, host: Seal):
        self.readings: list[float] = []
        self._all: list[float] = []
        self._undo = [wrap(host, "read", self._timing(clock, self.readings)), wrap(host, "_encode", self._timing(clock, []))]

    def _timing(self, clock: Clock, seconds: list[float]) -> Callable[[Callable], Callable]:
        def make(own: Callable) -> Callable:
            def timed(*args: Any) -> Any:
                start = clock.now()
                result = own(*args)
                for kept in (seconds, self._all):
                    kept.append(clock.now() - start)
                return result

            return timed

        return make

    def stop(self) -> float:
        """How long all of it took."""
        undo_all(self._undo)
        return sum(self._all)


def once(settings: Settings, network: Network) -> Settings:
    """With a single reading, at the first step of a picture."""
    return replace(settings, t_app=f"at {float(network.steps(STEPS)[0]):g}")


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
    warm = {name: network.seal(settings) for name, settings in (("", TUNED), ("_infusion", INFUSION))}
    looks: list[int] = []

    def drawn() -> None:
        latents = sample(network.pipe, network.prompts, network.there.hints.to(network.device), network.latents)
        network.vae.decode(latents / network.vae.config.scaling_factor)

    def with_seal(seal: Seal) -> None:
        with seal as host:
            drawn()
            looks.append(max((held.made for held in host.run.matches.values()), default=STEPS) if host.run else STEPS)

    def with_peer() -> None:
        with peer(network):
            drawn()

    acts: dict[str, Callable[[], None]] = {"plain": drawn, "reference_only": with_peer}
    for name, settings in (("", TUNED), ("_infusion", INFUSION)):
        acts[f"first{name}"] = lambda settings=settings: with_seal(network.seal(settings))  # type: ignore[misc]
        acts[f"cached{name}"] = lambda seal=warm[name]: with_seal(seal)  # type: ignore[misc]
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
    """Bytes on the device at their most in a U-Net call with Delta-Bridge's row and in a plain one, with the network's weights; and what
    one reading of a reference keeps.

    The cache lies elsewhere, as it does where a card is short; of it the device holds what this step and the next one look at.
    """
    weights, t = size(network.unet.parameters()), network.steps(STEPS)[0]
    plain = peak(network.device, lambda: network.call(t))
    with network.seal(once(ALWAYS, network)) as host:
        network.steps(STEPS)
        network.call(t)
        reading = host.cache.bytes
        network.steps(STEPS)
        bridged = peak(network.device, lambda: network.call(t))
    return {"weights": weights, "plain": weights + plain, "bridged": weights + bridged + FRESH * reading, "reading": reading}


def curve(network: Network, clock: Clock, rounds: int) -> dict[str, float]:
    """An infused call by a plain one, in which matches are made and in which they are held, and a reading by a plain call."""
    times = calls(network, clock, 2, rounds, ("plain", "infused"))
    pairs = list(zip(times["infused"], times["plain"], strict=True))
    return {
        "looking": median(infused[0] / plain[0] for infused, plain in pairs),
        "held": median(infused[1] / plain[1] for infused, plain in pairs),
        "reading": sum(times["reading"][0]) / median(plain[0] for _, plain in pairs),
    }
