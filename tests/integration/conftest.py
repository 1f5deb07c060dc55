"""The same tiny model, rows and trainers that the unit tests of the run use."""

from tests.backend.conftest import learner, rows_file, trained, trainers

__all__ = ["learner", "rows_file", "trained", "trainers"]
