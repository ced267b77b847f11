"""What holds for all tests: one torch thread per process, as they run side by side."""

import pytest
import torch

torch.set_num_threads(1)

LONGEST = "tests/training/test_learning.py"  # whole training runs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests: at the end they would keep one worker busy alone."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
