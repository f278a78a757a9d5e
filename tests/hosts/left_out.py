"""What the tests in a WebUI leave out because it does not exist there, and why. What is here is told in the report, and is not run.

A pattern is matched with the end of a test's name, `file::test[case]`; an asterisk stands for anything.
"""

from fnmatch import fnmatchcase

ATTENTION = "Forge and reForge choose one way of computing attention when they start: there is no setting for it."
KINDS = ("Forge and reForge tell SD2 and SDXL by the size of Stability's own: a model of that kind small enough for these tests, of random "
         "weights, is none that they can open.")  # fmt: skip
MODES = "Reference units of Forge and reForge have no control modes: their fidelity is a slider alone."
COPY = ("The bench has a copy of the extension's reference_only. That of Forge and reForge is another, made for wide layers: in a model "
        "as narrow as the embedded one it keeps nothing of a character, at its weights 1 and 2 and all fidelities.")  # fmt: skip
STYLE_ALIGN = "StyleAlign is a part of Forge; here it would be another extension."

LEFT_OUT = {
    "a1111": {"test_a1111_live.py::test_style_align_beside_seal": STYLE_ALIGN},
    "forge": {
        "test_a1111_ends_live.py::test_another_attention_optimiser_between_two_pictures": ATTENTION,
        "test_a1111_models_live.py::*SD2-v*": KINDS,
        "test_a1111_models_live.py::*SDXL*": KINDS,
        "test_a1111_measures_live.py::test_control_modes_are_fidelities": MODES,
        "test_a1111_measures_live.py::test_the_copy_of_reference_only_is_worth_what_the_real_one_is*": COPY,
    },
    "reforge": {
        "test_a1111_ends_live.py::test_another_attention_optimiser_between_two_pictures": ATTENTION,
        "test_a1111_models_live.py::*SD2-v*": KINDS,
        "test_a1111_models_live.py::*SDXL*": KINDS,
        "test_a1111_measures_live.py::test_control_modes_are_fidelities": MODES,
        "test_a1111_measures_live.py::test_the_copy_of_reference_only_is_worth_what_the_real_one_is*": COPY,
        "test_a1111_live.py::test_style_align_beside_seal": STYLE_ALIGN,
        "test_a1111_live.py::test_reference_units_beside_seal*adain*":
            "reForge's reference_adain leaves no trace: its U-Net no longer asks what such a unit hangs on.",
    },
}  # fmt: skip


def reason(kind: str, test: str) -> str | None:
    """Why this kind of WebUI leaves a test out; None if it does not."""
    name = test.rsplit("/", 1)[-1] if "[" not in test else test[: test.index("[")].rsplit("/", 1)[-1] + test[test.index("[") :]
    return next((why for pattern, why in LEFT_OUT.get(kind, {}).items() if fnmatchcase(name, pattern)), None)
