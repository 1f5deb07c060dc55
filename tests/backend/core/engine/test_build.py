from __future__ import annotations

import ctypes
import platform
import stat
from pathlib import Path

import pytest

from backend.core.engine import build
from backend.errors import ModelError

here = pytest.mark.skipif(build.find_compiler() is None or not build.variants(), reason="no compiler")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources with nothing compiled."""
    sources = tmp_path / "engine" / "native"
    sources.mkdir(parents=True)
    for file in build.SOURCES.glob("*.[ch]"):
        (sources / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    build.source_hash.cache_clear()
    yield sources
    build.source_hash.cache_clear()


@here
def test_a_compiled_variant_is_found_and_can_be_loaded(elsewhere: Path) -> None:
    assert build.compiled("baseline") is None
    made = build.compile_variant("baseline")
    assert made == build.compiled("baseline")
    assert made.is_relative_to(elsewhere.parent / "built")
    assert ctypes.CDLL(str(made)).rms_norm
    assert [file.name for file in made.parent.iterdir()] == ["baseline.so"]


@here
def test_every_variant_compiles(elsewhere: Path) -> None:
    assert build.main() == 0
    assert all(build.compiled(variant) for variant in build.variants())


def test_another_source_is_another_library(elsewhere: Path) -> None:
    before = build.source_hash()
    (elsewhere / "more.c").write_text("int more(void) { return 1; }\n")
    build.source_hash.cache_clear()
    assert build.source_hash() != before


@here
def test_where_the_package_cannot_be_written_the_cache_is_used(elsewhere: Path, tmp_path: Path) -> None:
    (elsewhere.parent / "built").write_text("in the way")
    assert build.compile_variant("baseline").is_relative_to(tmp_path / "cache")


@here
def test_where_nothing_can_be_written_the_reason_is_said(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (elsewhere.parent / "built", tmp_path / "cache"):
        folder.write_text("in the way")
    with pytest.raises(ModelError, match="Not a directory") as caught:
        build.compile_variant("baseline")
    assert caught.value.code == "cannot-compile"


def test_without_a_compiler_the_build_is_no_failure(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert build.main() == 0
    assert "there is no C compiler" in capsys.readouterr().err
    assert build.compiled("baseline") is None


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "cc that fails"
    compiler.write_text("#!/bin/sh\necho 'no such flag' >&2; exit 1\n")
    compiler.chmod(stat.S_IRWXU)
    monkeypatch.setenv("CC", f"'{compiler}'")
    monkeypatch.setattr(platform, "machine", lambda: "AMD64")
    with pytest.raises(ModelError, match="no such flag"):
        build.compile_variant("avx512")
    assert build.compiled("avx512") is None


def test_the_compiler_of_the_variable_cc_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "sh -c")
    assert build.find_compiler() == ["sh", "-c"]


@pytest.mark.parametrize(("machine", "known"), [("aarch64", {"baseline"}), ("riscv64", set())])
def test_other_processors(machine: str, known: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert set(build.variants()) == known
