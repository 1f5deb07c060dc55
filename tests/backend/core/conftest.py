"""One thread a product in every test of the core: two wait for each other as soon as the machine is busy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_and_no_setting_left_behind() -> Iterator[None]:
    """Threads and precision are global in torch, and some tests are about setting them."""
    precision = torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(precision)
