from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.core import proofs
from backend.core.proofs import recall, remember

ABOUT = {"model": "abc", "longest": 64}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TUNESMITH_PROOFS", raising=False)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    return tmp_path / "proofs"


def test_what_was_proved_is_known_for_the_same_things_alone() -> None:
    assert recall("packing", ABOUT) is None
    remember("packing", ABOUT, {"packed": True})
    assert recall("packing", dict(reversed(ABOUT.items()))) == {"packed": True}
    assert recall("decoding", ABOUT) is None
    assert recall("packing", ABOUT | {"longest": 65}) is None


@pytest.mark.parametrize(
    ("name", "other"),
    [("processor", lambda _: "another"), ("version", lambda _: "0"), ("_source", lambda: "")],
)
def test_another_processor_library_or_source_proves_anew(
    monkeypatch: pytest.MonkeyPatch, name: str, other: object
) -> None:
    remember("packing", ABOUT, {"packed": True})
    monkeypatch.setattr(proofs, name, other)
    assert recall("packing", ABOUT) is None


def test_an_entry_of_something_else_under_the_same_name_is_not_believed(cache: Path) -> None:
    remember("packing", ABOUT, {"packed": True})
    (file,) = cache.iterdir()
    entry = json.loads(file.read_text())
    entry["key"]["about"]["model"] = "other"
    file.write_text(json.dumps(entry))
    assert recall("packing", ABOUT) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"found": {}}', "\x00"])
def test_a_damaged_entry_costs_only_time(cache: Path, text: str) -> None:
    remember("packing", ABOUT, {"packed": True})
    (file,) = cache.iterdir()
    file.write_text(text)
    assert recall("packing", ABOUT) is None
    remember("packing", ABOUT, {"packed": False})
    assert recall("packing", ABOUT) == {"packed": False}


def test_a_disk_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "taken"))
    remember("packing", ABOUT, {"packed": True})
    assert recall("packing", ABOUT) is None


def test_the_oldest_are_forgotten(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "KEPT", 2)
    for model in "abc":
        remember("packing", {"model": model}, {})
    assert len(list(cache.iterdir())) == 2
    assert recall("packing", {"model": "c"}) == {}


def test_the_switch_proves_everything_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    remember("packing", ABOUT, {"packed": True})
    monkeypatch.setenv("TUNESMITH_PROOFS", "0")
    assert recall("packing", ABOUT) is None
