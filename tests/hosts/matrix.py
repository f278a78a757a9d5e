"""Ways of drawing in a WebUI of any kind, crossed: every two of them that can meet do so in some case.

All combinations would be tens of thousands. What breaks an extension is nearly always two things at a time, so pairs are covered.
"""

from itertools import combinations, product

SAMPLERS_OF_ALL = (
    "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler", "LMS", "Heun",
    "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "PLMS", "UniPC", "LCM",
)  # fmt: skip
SAMPLERS = {
    "a1111": (*SAMPLERS_OF_ALL[:16], "DDIM CFG++", *SAMPLERS_OF_ALL[16:]),
    "forge": (*SAMPLERS_OF_ALL, "DDIM CFG++", "HeunPP2", "IPNDM", "IPNDM_V", "DEIS", "DDPM"),
    "reforge": (
        *SAMPLERS_OF_ALL,
        "Euler Dy", "Euler SMEA Dy", "Euler Negative", "Euler Negative Dy", "DPM++ SDE Classic", "ER SDE", "Kohaku_LoNyu_Yog",
        "Euler CFG++", "Euler Ancestral CFG++", "DPM++ 2S Ancestral CFG++", "DPM++ 2M CFG++", "DPM++ SDE CFG++", "DPM++ 3M SDE CFG++",
        "Euler DY CFG++", "Euler SMEA DY CFG++", "Euler A DY CFG++", "DPM++ 2M DY CFG++", "RES Multistep", "RES Multistep CFG++",
        "RES Multistep Ancestral", "RES Multistep Ancestral CFG++", "Gradient Estimation", "Gradient Estimation CFG++", "SEEDS 2 DP",
        "SEEDS 3 DP", "SA-Solver", "SA-Solver-Pece", "DPM++ 2M DY", "DPM++ 3M DY", "DPM++ 3M SDE DY", "DDPM", "HeunPP2", "IPNDM",
        "IPNDM_V", "DEIS", "RES Solver", "ODE (Bosh3)", "ODE (Fehlberg2)", "ODE (Adaptive Heun)", "ODE (Dopri5)", "ODE Custom",
        "Euler A Turbo", "DPM++ 2M Turbo", "DPM++ 2M SDE Turbo", "Euler Comfy", "Euler A Comfy", "Euler A Comfy RF", "Heun Comfy",
        "DPM++ 2S Ancestral Comfy", "DPM++ 2S Ancestral Comfy RF", "DPM++ SDE Comfy", "DPM++ 2M Comfy", "DPM++ 2M SDE Comfy",
        "DPM++ 3M SDE Comfy", "DPM++ 2S Ancestral CFG++ Dyn", "DPM++ 2S Ancestral CFG++ Intern", "Custom Sampler",
    ),
}  # fmt: skip
OPTIMISERS = {
    "a1111": ("sdp - scaled dot product", "sdp-no-mem - scaled dot product without memory efficient attention", "sub-quadratic",
              "V1 - original v1", "InvokeAI", "Doggettx", "None"),
    "forge": ("Automatic",),  # chosen when it starts
    "reforge": ("Automatic",),
}  # fmt: skip
WAYS = ("txt2img", "hires", "img2img", "inpaint", "only masked")
PROMPTS = {
    "short": "a red cat",
    "AND": "a red cat AND a house :0.7",
    "long": "a red cat, " * 40,
    "BREAK": "a red cat BREAK a house",
    "editing": "a [red:blue:0.5] cat in a [house|wood]",
}
GUIDANCE = {
    "CFG 5": {},
    "CFG 1": {"cfg_scale": 1},
    "NGMS": {"override_settings": {"s_min_uncond": 5.0, "s_min_uncond_all": True}},
    "skip early": {"override_settings": {"skip_early_cond": 0.5}},
    "split calls": {"override_settings": {"batch_cond_uncond": False}},
    "merged tokens": {"override_settings": {"token_merging_ratio": 0.4}},
}
BATCHES = (1, 2)
WORDS = ("", "a blue dog")  # what the reference shows: with nothing of its own Delta-Bridge has nothing to do


def factors(kind):
    return SAMPLERS[kind], WAYS, tuple(PROMPTS), tuple(GUIDANCE), BATCHES, OPTIMISERS[kind], WORDS


def pairs_of(case):
    return {(i, case[i], j, case[j]) for i, j in combinations(range(len(case)), 2)}


def cases(kind):
    """Every sampler in every way of drawing; the other factors filled in so that each meets what it has met least."""
    every, met, made = factors(kind), {}, []
    for start in product(*every[:2]):
        case = list(start)
        for values in every[len(start) :]:
            here = len(case)
            pairs = {value: [(i, case[i], here, value) for i in range(here)] for value in values}
            case.append(min(values, key=lambda value: sum(min(met.get(pair, 0), 4) for pair in pairs[value])))
        for pair in pairs_of(case):
            met[pair] = met.get(pair, 0) + 1
        made.append(tuple(case))
    wanted = {(i, a, j, b) for i, j in combinations(range(len(every)), 2) for a in every[i] for b in every[j]} - set(met)
    while wanted:  # what the first round left out, several at a time
        case = [None] * len(every)
        for i, a, j, b in sorted(wanted, key=str):
            if case[i] in (None, a) and case[j] in (None, b):
                case[i], case[j] = a, b
        case = tuple(every[i][0] if value is None else value for i, value in enumerate(case))
        wanted -= pairs_of(case)
        made.append(case)
    return made


def name_of(case):
    sampler, way, prompt, guidance, batch, optimiser, words = case
    return "-".join([sampler, way, prompt, guidance, f"batch {batch}", optimiser.split(" - ")[0], "bridge" if words else "no bridge"])
