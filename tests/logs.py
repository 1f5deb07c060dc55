"""What a test logged: pytest's own ``caplog`` costs those that do not ask for it too, so conftest.py takes it out."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


class Logged(logging.Handler):
    """The records that reached the root logger."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def text(self) -> str:
        """Every message, a line each."""
        return "".join(f"{record.getMessage()}\n" for record in self.records)


@pytest.fixture
def logged() -> Iterator[Logged]:
    """What is logged from here on, from INFO upwards."""
    root, handler = logging.getLogger(), Logged()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.setLevel(level)
    root.removeHandler(handler)
