"""Which seeds may be used for what, so that nothing is tuned on, or trained on, what it is judged by."""

from itertools import pairwise

DEVELOPMENT = range(100_000)
FINAL = range(900_000, 910_000)
TRAIN = range(1_000_000, 2**63)

SPLITS = {"development": DEVELOPMENT, "final": FINAL, "train": TRAIN}

_ordered = sorted(SPLITS.values(), key=lambda split: split.start)
assert all(low.stop <= high.start for low, high in pairwise(_ordered)), "the splits overlap"


def split_of(seed: int) -> str:
    """The name of the split that owns a seed; ValueError for a seed that none owns."""
    for name, split in SPLITS.items():
        if seed in split:
            return name
    raise ValueError(f"seed {seed} belongs to none of the splits {', '.join(SPLITS)}")
