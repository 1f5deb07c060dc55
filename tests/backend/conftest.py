"""What the tests of the run share: a tiny model that can learn, its rows, and one finished run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.run.folder import RunDir
from tests.runs import LEARN, learner_folder, make_run, tree, write_rows
from tests.trainers import Trainers


@pytest.fixture(autouse=True)
def _one_thread_and_no_setting_left_behind() -> Iterator[None]:
    """Threads and precision are global in torch: two threads of a product wait for each other on a busy machine."""
    torch = sys.modules.get("torch")  # most rooms know no tensors, and their tests need not load it
    if torch is None:
        yield
        return
    precision = torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(precision)


@pytest.fixture(scope="session")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that learns in twenty steps; read only."""
    return learner_folder(tmp_path_factory.mktemp("learner") / "model")


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows it learns; read only."""
    return write_rows(tmp_path_factory.mktemp("rows") / "foods.jsonl")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, learner: Path, rows_file: Path) -> Iterator[RunDir]:
    """A run that was really trained and finished; read only: who writes into it fails, whatever the order."""
    from backend.trainer_main import run

    made = make_run(tmp_path_factory.mktemp("trained") / "runs", learner, rows_file, LEARN)
    assert run(made).code == "completed"
    before = tree(made.path)
    yield made
    assert [name for name, data in tree(made.path).items() if before.get(name) != data] == []


@pytest.fixture(scope="session")
def trainers() -> Iterator[Trainers]:
    """Starts real trainer processes."""
    with Trainers() as started:
        yield started
