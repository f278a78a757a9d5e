"""What several tests of the bench need."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Small tensors are slower on many threads, and sums of one order are the same on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
