"""The certificate itself: backend/export/certificate.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from backend.export.certificate import Certificate, Check, Light
from backend.utils.file_utils import sha256_file


def certificate(*lights: Light) -> Certificate:
    checks = [Check(f"check {number}", light, f"It is so. {light}") for number, light in enumerate(lights)]
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
    hashes = {name: sha256_file(tmp_path / name) for name in ("README.md", "a/b/x.json", "certificate.md")}
    assert record["files"] == hashes


def test_a_page_names_the_step_and_a_missing_reader() -> None:
    page = replace(certificate(), reader="", rows=0, examples=[], step=3).page()
    assert "Run `run` at step 3, exported as gguf in Q8_0, read by nobody over 0 rows." in page
    assert "first difference" not in page


def test_a_finding_stays_in_its_cell_of_the_table() -> None:
    odd = Check("a", Light.RED, "x|y\\\nz <b>")
    assert "| a | red | x\\|y\\\\ ⏎ z &lt;b> |" in replace(certificate(), checks=[odd]).page()


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        certificate(Light.GREEN).write(tmp_path / "none")
