"""From cases to a number with an interval: percentile bootstrap over cases, paired where methods are compared."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DRAWS = 2000
TAIL = 0.025  # on either side of an interval

Interval = dict[str, float]  # "value", "low", "high"


def interval(statistic: Callable[..., Tensor], *columns: Tensor) -> Interval:
    """`statistic` of columns with one row a case, and the interval of the same on resampled cases.

    `statistic` takes the columns with any leading dimensions before that of the cases: (draws, cases, …). All columns are resampled
    together, which is what makes a comparison paired.
    """
    count = len(columns[0])
    if not count or any(len(column) != count for column in columns):
        raise ValueError(f"columns of {[len(c) for c in columns]} cases; all need the same number, at least one")
    columns = tuple(column.detach().double().cpu() for column in columns)
    rows = torch.randint(count, (DRAWS, count), generator=torch.Generator().manual_seed(0))
    value = float(statistic(*columns))
    spread = statistic(*(column[rows] for column in columns))
    spread = spread[spread.isfinite()]
    ends = torch.tensor([TAIL, 1 - TAIL], dtype=torch.float64)
    low, high = torch.quantile(spread, ends).tolist() if len(spread) else (value, value)
    return {"value": value, "low": low, "high": high}


def _pooled(above: Tensor, below: Tensor) -> Tensor:
    return above.sum(-1) / below.sum(-1)


def _recovered(none: Tensor, method: Tensor, ceiling: Tensor) -> Tensor:
    return 100 * _pooled(none - method, none - ceiling)


def mean(values: Tensor) -> Interval:
    return interval(lambda v: v.mean(-1), values)


def ratio(above: Tensor, below: Tensor) -> Interval:
    """Σ above / Σ below: shares whose cases ask different numbers of questions."""
    return interval(_pooled, above, below)


def recovered(none: Tensor, method: Tensor, ceiling: Tensor) -> Interval:
    """Percent of the way from no reference (0) to the ceiling (100), errors pooled over cases."""
    return interval(_recovered, none, method, ceiling)


def recovered_ratio(none: Tensor, one: Tensor, other: Tensor) -> Interval:
    """How many times as much of the way `one` recovers as `other`, on the same cases."""
    return interval(lambda n, a, b: (n - a).sum(-1) / (n - b).sum(-1), none, one, other)


def difference(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], share: float = 1.0) -> Interval:
    """Σ above / Σ below of `one` less a share of the same of `other`, on the same cases."""
    return interval(lambda a, b, c, d: _pooled(a, b) - share * _pooled(c, d), *one, *other)


def recovered_difference(none: Tensor, one: Tensor, other: Tensor, ceiling: Tensor) -> Interval:
    """How many percent more of the way `one` recovers than `other`, on the same cases."""
    return interval(lambda n, a, b, c: _recovered(n, a, c) - _recovered(n, b, c), none, one, other, ceiling)
