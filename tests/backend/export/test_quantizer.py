"""llama-quantize, where it is: backend/export/quantizer.py, over programs that stand in for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import ExportError
from backend.export import quantizer

COPY = '#!/bin/sh\ncp "$1" "$2" && printf " as %s" "$3" >> "$2"\n'
FAIL = "#!/bin/sh\necho starting; echo 'no such format' >&2; exit 3\n"
NOTHING = "#!/bin/sh\nexit 0\n"


def install(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / quantizer.PROGRAM
    path.write_text(program)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "f32.gguf").write_text("weights")
    return tmp_path / "f32.gguf"


def test_it_is_asked_for_the_format(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(COPY, tmp_path, monkeypatch)
    quantizer.quantize(source, tmp_path / "out.gguf", "Q4_K_M")
    assert (tmp_path / "out.gguf").read_text() == "weights as Q4_K_M"


@pytest.mark.parametrize(("program", "said"), [(FAIL, "no such format"), (NOTHING, "exit code 0")])
def test_its_failure_is_told_in_its_words(
    program: str, said: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(program, tmp_path, monkeypatch)
    with pytest.raises(ExportError, match=said) as caught:
        quantizer.quantize(source, tmp_path / "out.gguf", "Q4_K_M")
    assert caught.value.code == "quantizer-failed"


def test_without_it_its_formats_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportError, match="llama-quantize") as caught:
        quantizer.check("Q4_K_M")
    assert caught.value.code == "no-quantizer"


def test_our_own_formats_need_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert quantizer.check("Q8_0") is None
