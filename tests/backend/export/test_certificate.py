"""The certificate itself: backend/export/certificate.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.export.certificate import Certificate, Check, Light


def certificate(*lights: Light, finding: str = "It is so.") -> Certificate:
    checks = [Check(f"check {number}", light, f"{finding} {light}") for number, light in enumerate(lights)]
    example = {"place": "a:1", "expected": "x|y", "trained": "x\ny", "export": "<b>", "difference": ""}
    return Certificate("run", "gguf", "Q8_0", "llama.cpp", 4, checks, {"mean": 0.1}, [example])


@pytest.mark.parametrize(
    ("lights", "worst"),
    [
        ([Light.GREEN, Light.GREEN], Light.GREEN),
        ([Light.GREEN, Light.AMBER], Light.AMBER),
        ([Light.RED, Light.AMBER, Light.GREEN], Light.RED),
        ([], Light.AMBER),
    ],
)
def test_it_is_as_good_as_its_worst_check(lights: list[Light], worst: Light) -> None:
    assert certificate(*lights).light == worst


def test_reasons_begin_with_the_worst() -> None:
    assert certificate(Light.AMBER, Light.GREEN, Light.RED).reasons == ["It is so. red", "It is so. amber"]


def test_it_is_written_for_programs_and_for_people(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"abc")
    certificate(Light.GREEN, Light.RED).write(tmp_path)
    record = json.loads((tmp_path / "certificate.json").read_text("utf-8"))
    assert (record["light"], record["reasons"], record["rows"]) == ("red", ["It is so. red"], 4)
    assert record["checks"][0] == {"name": "check 0", "light": "green", "finding": "It is so. green"}
    assert record["files"]["x.gguf"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    page = (tmp_path / "certificate.md").read_text("utf-8")
    assert page.startswith("# Parity certificate: red\n")
    assert "read by llama.cpp over 4 rows" in page
    assert "| a:1 | x\\|y | x ⏎ y | &lt;b> |" in page


def test_every_file_at_any_depth_is_named_with_its_hash(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.json").write_text("{}")
    (tmp_path / "README.md").write_text("card")
    certificate(Light.GREEN).write(tmp_path)
    record = json.loads((tmp_path / "certificate.json").read_text("utf-8"))
    assert list(record["files"]) == ["README.md", "a/b/x.json", "certificate.md"]
