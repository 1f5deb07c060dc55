"""The fakes can be called as what they stand for, and in no other way: tests/fakes.py."""

from __future__ import annotations

import inspect

import pytest

from backend.manager.system_manager import GpuSensor, NullGpuSensor
from backend.utils.file_utils import DiskFileSystem, FileSystem
from tests.fakes import FailingFileSystem, FakeGpuSensor, RecordingFileSystem

PAIRS = [
    (RecordingFileSystem, FileSystem),
    (FailingFileSystem, FileSystem),
    (DiskFileSystem, FileSystem),
    (FakeGpuSensor, GpuSensor),
    (NullGpuSensor, GpuSensor),
]


def calls(kind: type) -> dict[str, list[tuple[str, object, object]]]:
    """The public methods of a class with their parameters: name, kind and default."""
    methods = {
        name: method
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }
    return {
        name: [(each.name, each.kind, each.default) for each in inspect.signature(method).parameters.values()]
        for name, method in methods.items()
    }


def unlike(fake: type, real: type) -> dict[str, object]:
    """The methods of ``real`` that ``fake`` lacks or takes in another way."""
    given = calls(fake)
    return {name: given.get(name) for name, wanted in calls(real).items() if given.get(name) != wanted}


@pytest.mark.parametrize(("fake", "real"), PAIRS)
def test_a_fake_has_the_signatures_of_what_it_stands_for(fake: type, real: type) -> None:
    assert calls(real)
    assert unlike(fake, real) == {}


def test_a_fake_of_another_shape_would_be_seen() -> None:
    class Sensor:
        def sample(self, at: int) -> None: ...

    assert sorted(unlike(Sensor, GpuSensor)) == ["close", "sample"]
