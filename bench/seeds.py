"""Which seeds may be used for what, so that nothing is tuned on, or trained on, what it is judged by."""

from itertools import pairwise

DEVELOPMENT = range(90_000)
RESERVED = range(90_000, 100_000)  # development seeds that nothing is tuned on: one's own work, and what is published, is judged by them
FORMER = range(900_000, 910_000)  # once the final test; development seeds since their results were looked at
FINAL = range(920_000, 930_000)
TRAIN = range(1_000_000, 2**63)

SPLITS = {"development": DEVELOPMENT, "reserved": RESERVED, "former": FORMER, "final": FINAL, "train": TRAIN}
OPEN = (DEVELOPMENT, RESERVED, FORMER)  # what may be looked at while the method is worked on

_ordered = sorted(SPLITS.values(), key=lambda split: split.start)
assert all(low.stop <= high.start for low, high in pairwise(_ordered)), "the splits overlap"


def split_of(seed: int) -> str:
    """The name of the split that owns a seed; ValueError for a seed that none owns."""
    for name, split in SPLITS.items():
        if seed in split:
            return name
    raise ValueError(f"seed {seed} belongs to none of the splits {', '.join(SPLITS)}")
