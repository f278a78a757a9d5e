"""What the tests in a WebUI leave out because it does not exist there, and why. What is here is told in the report, and is not run.

A pattern is matched with the end of a test's name, `file::test[case]`; an asterisk stands for anything.
"""

from fnmatch import fnmatchcase

ATTENTION = "Forge and reForge choose one way of computing attention when they start: there is no setting for it."
MODES = "Reference units of Forge and reForge have no control modes: their fidelity is a slider alone."
COPY = ("The bench has a copy of the extension's reference_only. That of Forge and reForge is another, made for wide layers: in a model "
        "as narrow as the embedded one it keeps nothing of a character, at its weights 1 and 2 and all fidelities.")  # fmt: skip
MASK = "Where there is a mask this sampler fails in reForge without SeAl, too: it halves the picture, but not the mask."
ONE_BY_ONE = ("reForge's ODE samplers draw the pictures of a batch one by one and do not say which. That SeAl says so and leaves them "
              "alone has a test of its own; with a mask they fail without SeAl, too.")  # fmt: skip
NO_ODE = "Only reForge has the ODE samplers."
AT_RANDOM = "What an inpainting model sees of an empty picture this WebUI draws at random, for a batch together: even plain ones differ."
GIVES_UP = ("This solver of the second order gives up after 250 steps where what it follows changes abruptly, as a random model does with "
            "SeAl at its strongest. On the embedded model, with the defaults, it has a test of its own.")  # fmt: skip
FLOW = "This sampler is for models of rectified flows: what it draws with one of SD1's kind is black without SeAl, too."
STYLE_ALIGN = "StyleAlign is a part of Forge; here it would be another extension."
TILES = "In txt2img, MultiDiffusion is a part of Forge and reForge alone."
KINDS = "Of Forge Classic and Forge Neo the tests know tiny models of SD1's layout alone, and Neo has given SD2 up."
SAMPLERS = "The whole matrix is drawn on AUTOMATIC1111's WebUI, Forge and reForge; what these two have for samplers is not listed."
BATCHED = "Forge Classic and Forge Neo have no setting that splits calls."
CFG_PP = "Forge Classic has no sampler of the CFG++ kind."
NO_FLUX = "AUTOMATIC1111's WebUI opens no Flux."
NO_OTHERS = ("reForge opens no SD3, and has a Flux read the words of CLIP alone, which are too narrow for it: it draws with no model that "
             "lacks a U-Net.")  # fmt: skip
OTHERS = "Forge Classic opens no model without a U-Net, and for Forge Neo's the tests have no tiny ones."
ADAPTED = "Forge lets a T2I-Adapter, which is made for U-Nets, act on an SD3: without SeAl, too, that ends in an error."

LEFT_OUT = {
    "a1111": {
        "test_a1111_live.py::test_style_align_beside_seal": STYLE_ALIGN,
        "test_a1111_live.py::test_multidiffusion_beside_seal": TILES,
        "test_other_models_live.py::*Flux*": NO_FLUX,
        "test_a1111_live.py::test_a_sampler_that_draws_a_batch_one_by_one": NO_ODE,
        "test_a1111_live.py::test_a_solver_that_adapts_its_steps": NO_ODE,
        "test_a1111_models_live.py::test_a_batch_of_four_equals_its_singles_with_every_kind_of_model*inpainting*": AT_RANDOM,
    },
    "forge": {
        "test_other_models_live.py::test_one_sentence_and_the_same_picture*unit*SD3*": ADAPTED,
        "test_a1111_live.py::test_a_sampler_that_draws_a_batch_one_by_one": NO_ODE,
        "test_a1111_live.py::test_a_solver_that_adapts_its_steps": NO_ODE,
        "test_a1111_models_live.py::test_a_batch_of_four_equals_its_singles_with_every_kind_of_model*inpainting*": AT_RANDOM,
        "test_a1111_ends_live.py::test_another_attention_optimiser_between_two_pictures": ATTENTION,
        "test_a1111_measures_live.py::test_control_modes_are_fidelities": MODES,
        "test_a1111_measures_live.py::test_the_copy_of_reference_only_is_worth_what_the_real_one_is*": COPY,
    },
    "reforge": {
        "test_other_models_live.py::*": NO_OTHERS,
        "test_a1111_ends_live.py::test_another_attention_optimiser_between_two_pictures": ATTENTION,
        "test_a1111_measures_live.py::test_control_modes_are_fidelities": MODES,
        "test_a1111_measures_live.py::test_the_copy_of_reference_only_is_worth_what_the_real_one_is*": COPY,
        "test_a1111_live.py::test_style_align_beside_seal": STYLE_ALIGN,
        "test_a1111_matrix_live.py::test_matrix*DPM++ 2S Ancestral Comfy RF-*": FLOW,
        "test_a1111_matrix_live.py::test_matrix*ODE*batch 2*": ONE_BY_ONE,
        "test_a1111_matrix_live.py::test_matrix*ODE (Adaptive Heun)-txt2img-*": GIVES_UP,
        "test_a1111_matrix_live.py::test_matrix*ODE (Adaptive Heun)-img2img-*": GIVES_UP,
        "test_a1111_matrix_live.py::test_matrix*CFG++ Intern-inpaint-*": MASK,
        "test_a1111_matrix_live.py::test_matrix*CFG++ Intern-only masked-*": MASK,
        "test_a1111_live.py::test_reference_units_beside_seal*adain*":
            "reForge's reference_adain leaves no trace: its U-Net no longer asks what such a unit hangs on.",
    },
}  # fmt: skip

# Relatives leave out what their kind does, and more.
BOTH = {
    "test_other_models_live.py::*": OTHERS,
    "test_a1111_models_live.py::*SD2-v*": KINDS,
    "test_a1111_models_live.py::*SDXL*": KINDS,
    "test_a1111_matrix_live.py::*": SAMPLERS,
    "test_a1111_live.py::test_split_calls_draw_the_same*": BATCHED,
    "test_a1111_models_live.py::*split calls*": BATCHED,
}
ADAIN = "test_a1111_live.py::test_reference_units_beside_seal*adain*"  # acts in Classic
LIKE = {test: why for test, why in LEFT_OUT["reforge"].items() if test != ADAIN and "_matrix_" not in test}
LEFT_OUT["classic"] = (
    LIKE
    | BOTH
    | {
        "test_a1111_live.py::test_infusion_and_delta_bridge_each_act*CFG++*": CFG_PP,
        "test_a1111_live.py::test_a_sampler_that_draws_a_batch_one_by_one": NO_ODE,
        "test_a1111_live.py::test_a_solver_that_adapts_its_steps": NO_ODE,
        "test_a1111_live.py::test_multidiffusion_beside_seal": TILES,
        "test_a1111_models_live.py::test_a_batch_of_four_equals_its_singles_with_every_kind_of_model*inpainting*": AT_RANDOM,
    }
)
LIKE = {test: why for test, why in LEFT_OUT["forge"].items() if why != ADAPTED}
LEFT_OUT["neo"] = (
    LIKE
    | BOTH
    | {
        "test_a1111_live.py::test_style_align_beside_seal": STYLE_ALIGN,
        "test_a1111_live.py::test_multidiffusion_beside_seal": TILES,
    }
)


def line(name: str, test: str) -> str | None:
    """The pattern that leaves a test out in this WebUI; None if none does."""
    test = test.rsplit("/", 1)[-1] if "[" not in test else test[: test.index("[")].rsplit("/", 1)[-1] + test[test.index("[") :]
    return next((pattern for pattern in LEFT_OUT.get(name, {}) if fnmatchcase(test, pattern)), None)


def reason(name: str, test: str) -> str | None:
    """Why."""
    return LEFT_OUT.get(name, {}).get(line(name, test))
