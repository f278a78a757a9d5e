"""What the tests in a WebUI leave out because it does not exist there, and why. What is here is told in the report, and is not run.

A pattern is matched with the end of a test's name, `file::test[case]`; an asterisk stands for anything.
"""

from fnmatch import fnmatchcase

ATTENTION = "Forge and reForge choose one way of computing attention when they start: there is no setting for it."
KINDS = ("Forge and reForge tell SD2 and SDXL by the size of Stability's own: a model of that kind small enough for these tests, of random "
         "weights, is none that they can open.")  # fmt: skip
STYLE_ALIGN = "StyleAlign is a part of Forge; here it would be another extension."

LEFT_OUT = {
    "a1111": {"test_a1111_live.py::test_style_align_beside_seal": STYLE_ALIGN},
    "forge": {
        "test_a1111_ends_live.py::test_another_attention_optimiser_between_two_pictures": ATTENTION,
        "test_a1111_models_live.py::*SD2-v*": KINDS,
        "test_a1111_models_live.py::*SDXL*": KINDS,
    },
    "reforge": {
        "test_a1111_ends_live.py::test_another_attention_optimiser_between_two_pictures": ATTENTION,
        "test_a1111_models_live.py::*SD2-v*": KINDS,
        "test_a1111_models_live.py::*SDXL*": KINDS,
        "test_a1111_measures_live.py::test_control_modes_are_fidelities":
            "reForge's ControlNet takes control modes and makes nothing of them: with each the picture is the same.",
        "test_a1111_live.py::test_style_align_beside_seal": STYLE_ALIGN,
        "test_a1111_live.py::test_reference_units_beside_seal*adain*":
            "reForge's reference_adain leaves no trace: its U-Net no longer asks what such a unit hangs on.",
    },
}  # fmt: skip


def reason(kind: str, test: str) -> str | None:
    """Why this kind of WebUI leaves a test out; None if it does not."""
    name = test.rsplit("/", 1)[-1] if "[" not in test else test[: test.index("[")].rsplit("/", 1)[-1] + test[test.index("[") :]
    return next((why for pattern, why in LEFT_OUT.get(kind, {}).items() if fnmatchcase(name, pattern)), None)
