"""A sweep draws every value of every setting, and what the page tells of it is there."""

import torch

from bench.identity import sweeps
from bench.identity.methods import TUNED

NAMES = ("identity", "identity_vae", "pattern", "pattern_vae", "others", "others_vae", "structure", "conflict_success", "found", "asked",
         "kept", "keepable", "leaked", "could_leak", "sharpness", "sharpness_truth")  # fmt: skip
SEEDS = range(8)


class Measured:
    """In place of a measurement: remembers what was to be drawn."""

    def __init__(self):
        self.asked = []

    def columns(self, case, name, method, seeds):
        assert callable(method) and seeds is SEEDS
        self.asked.append((case, name))
        return {column: torch.linspace(1, 2, 8) * (0.5 if column.endswith("_vae") else 1 + len(self.asked)) for column in NAMES}


def test_a_sweep_draws_every_value_beside_a_picture_without_a_reference():
    measured = Measured()
    rows = sweeps.sweeps(measured, SEEDS)
    assert {name: [row["value"] for row in of] for name, of in rows.items()} == {name: list(of) for name, of in sweeps.SWEEPS.items()}
    assert measured.asked[0] == (sweeps.CASE, "none") and len(measured.asked) == 1 + sum(map(len, sweeps.SWEEPS.values()))
    assert all({"identity", "pattern", "structure", "sharpness"} <= set(row) for of in rows.values() for row in of)


def test_what_prompts_disagree_on_is_judged_where_they_do():
    measured = Measured()
    rows = {row["value"]: row for row in sweeps.as_paper(measured, SEEDS)}
    assert set(rows) == set(sweeps.AS_PAPER) and rows["gate"]["case"] == "conflict" != rows["top_k"]["case"]
    assert "conflict_success" in rows["gate"] and TUNED.top_k != 1
