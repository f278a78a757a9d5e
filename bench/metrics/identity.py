"""Identity: how far a picture's subject is from the true one, in ΔE."""

from __future__ import annotations

import torch
from torch import Tensor

from .colour import delta_e, lab, masked_mean
from .window import local_mean, shifts

SLACK = 2  # pixels of 128
WINDOW = 9


def identity_error(image: Tensor, truth: Tensor, subject: Tensor, slack: int = SLACK) -> Tensor:
    """Mean ΔE over the subject (batch, height, width; true where the truth shows it), one value a picture.

    Every window of the truth may move by `slack` pixels, but only as a whole: a wrong colour, a missing stripe or a speckle costs the
    same at every shift, so that nothing but a small displacement is forgiven.
    """
    picture, right = lab(image), lab(truth)
    best = torch.full_like(picture[:, 0], float("inf"))
    for moved in shifts(right, slack):
        best = torch.minimum(best, local_mean(delta_e(picture, moved), subject, WINDOW))
    return masked_mean(best, subject)
