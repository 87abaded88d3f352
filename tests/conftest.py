"""One thread, and no test may leave torch's global state other than it found it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.distributions import Distribution

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def global_state() -> Iterator[None]:
    """Fixed global seeds for the test's own draws; afterwards the default dtype and the like must be as before."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (what a library under test might draw from)
    yield
    left = {
        "default dtype": torch.get_default_dtype() is not torch.float32,
        "number of threads": torch.get_num_threads() != 1,
        "gradients switched off": not torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "validation of torch.distributions": not Distribution._validate_args,
    }
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)
    Distribution.set_default_validate_args(True)
    changed = [name for name, moved in left.items() if moved]
    assert not changed, f"the test left torch's global state changed: {', '.join(changed)}"
