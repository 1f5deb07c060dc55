"""The machine: app/views/system.py."""

from __future__ import annotations

from backend.manager.system_manager import GpuSample, SystemSample
from tests.app.reading import texts, unescaped
from tests.app.views.drawing import drawn

BARE = SystemSample("2026-01-01T00:00:00+00:00", 42.4, 4 * 2**30, 16 * 2**30, 100 * 2**30)


def figures(sample: SystemSample) -> dict[str, tuple[str, str]]:
    shown = drawn("system.draw_machine", sample, 8)
    return {one.label: (one.value, one.delta) for one in shown.metric}


def test_without_a_gpu_it_says_so() -> None:
    assert figures(BARE) == {
        "Processor": ("8 cores", "42 % busy"),
        "Memory": ("16.0 GiB", "25% in use"),
        "Disk": ("100.0 GiB", "free"),
        "GPU": ("none", "processor only"),
    }


def test_each_gpu_with_its_name() -> None:
    gpus = tuple(GpuSample(index, "Maker <b>X</b>", 2**30, 80 * 2**30, 12.0) for index in range(2))
    sample = SystemSample(BARE.time, 1.0, 1, 2, 3, gpus)
    assert figures(sample)["GPU 1"] == ("80.0 GiB", "12 % busy")
    assert "GPU 0 is Maker <b>X</b>." in [
        unescaped(text) for text in texts(drawn("system.draw_machine", sample, 1))
    ]
