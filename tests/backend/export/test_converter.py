"""llama.cpp's converter: backend/export/converter.py, and programs that stand in for it where it fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from backend.errors import ExportError
from backend.export import converter
from backend.export.converter import (
    check_converter,
    complete_for_converter,
    convert,
    find_converter,
    has_pieces,
    how_to_install,
    training_tokens,
)
from tests.exported import GEMMA, LLAMA3, MISTRAL, QWEN, build_tokenizer
from tests.tiny import tiny_tokenizer

TOKENS = {"pre": "", "pieces": False, "flags": {}, "ends": []}
BASE = "class TextModel:\n    get_vocab_base_pre = prepare_metadata = None\n\n"
FAILS = BASE + (
    "def main():\n    import sys\n    open(sys.argv[3], 'w').write('half')\n    raise ValueError('no such layer')\n"
)
CALLS = BASE + "def main():\n    import socket\n    socket.create_connection(('127.0.0.1', 9))\n"
STOPS = BASE + "def main():\n    raise SystemExit(3)\n"
SILENT = BASE + "def main():\n    pass\n"
LOOKS = BASE + (
    "def main():\n    import json, os, sys\n"
    "    found = {'argv': sys.argv, 'env': sorted(os.environ), 'backend': 'backend' in sys.modules}\n"
    "    open(sys.argv[3], 'w').write(json.dumps(found))\n"
)


def stand_in(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a program in place of the converter, and a model's folder."""
    (folder / "llama.cpp").mkdir()
    (folder / "llama.cpp" / converter.PROGRAM).write_text(text)
    monkeypatch.setenv(converter.VARIABLE, str(folder / "llama.cpp"))
    (folder / "model").mkdir()
    return folder / "model"


def test_it_is_where_the_variable_says_or_beside_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, BASE, monkeypatch)
    assert find_converter() == tmp_path / "llama.cpp"
    monkeypatch.setenv(converter.VARIABLE, str(tmp_path))
    assert find_converter() is None
    monkeypatch.delenv(converter.VARIABLE)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert find_converter() == tmp_path / "llama.cpp"


def test_a_relative_place_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stand_in(tmp_path, LOOKS, monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(converter.VARIABLE, "llama.cpp")
    assert find_converter() == tmp_path / "llama.cpp"
    convert(model, tmp_path / "out", precision="F32", name="tiny", tokens=TOKENS)
    assert (tmp_path / "out").exists()


def test_how_it_is_installed_is_pinned_by_hash() -> None:
    said = how_to_install()
    requirements = Path(said.partition(" -r ")[2].partition("`")[0])
    assert "--hash=sha256:" in requirements.read_text("utf-8")
    assert "--require-hashes" in said


def test_a_class_that_it_does_not_know_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, f'{BASE}KNOWN = ["GemmaForCausalLM"]\n', monkeypatch)
    check_converter(["GemmaForCausalLM"])
    with pytest.raises(ExportError, match="does not know OddForCausalLM") as caught:
        check_converter(["OddForCausalLM"])
    assert caught.value.code == "unsupported-architecture"
    monkeypatch.setenv(converter.VARIABLE, str(tmp_path))
    with pytest.raises(ExportError) as missing:
        check_converter(["GemmaForCausalLM"])
    assert missing.value.code == "no-converter"


def test_training_says_what_stands_around_a_text() -> None:
    gemma = training_tokens(build_tokenizer(GEMMA), {4, 7})
    assert gemma["flags"] == {
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
    }
    assert (gemma["pre"], gemma["ends"]) == ("", [7])
    mistral = training_tokens(build_tokenizer(MISTRAL), set())
    assert mistral["flags"]["tokenizer.ggml.add_space_prefix"]
    qwen = training_tokens(build_tokenizer(QWEN), set())
    assert (qwen["pre"], qwen["flags"].keys()) == (
        "qwen2",
        {"tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"},
    )


def test_pieces_are_told_from_bytes() -> None:
    assert has_pieces(build_tokenizer(GEMMA))
    assert not has_pieces(build_tokenizer(LLAMA3))


def test_a_folder_gets_what_the_converter_looks_for(tmp_path: Path) -> None:
    for words in (GEMMA, LLAMA3):
        tokenizer = build_tokenizer(words)
        folder = tmp_path / words.rule
        tokenizer.save_pretrained(folder)
        complete_for_converter(folder, tokenizer)
        added = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
        assert {each["content"] for each in added.values()} >= {"<|im_start|>", "<|im_end|>"}
    assert (tmp_path / "spm" / "tokenizer.model").is_file()
    assert not (tmp_path / "llama-bpe" / "tokenizer.model").exists()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (FAILS, "no such layer"),
        (CALLS, "not given a network"),
        (STOPS, "ended with code 3"),
        (SILENT, "ended with code 0"),
        ("import nowhere\n", "nowhere"),
    ],
)
def test_its_failure_is_a_sentence_and_leaves_nothing(
    program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stand_in(tmp_path, program, monkeypatch)
    with pytest.raises(ExportError, match=said) as caught:
        convert(model, tmp_path / "out.gguf", precision="F32", name="tiny", tokens=TOKENS)
    assert caught.value.code == "converter-failed"
    assert "Traceback" not in str(caught.value)
    assert not (tmp_path / "out.gguf").exists()


def test_it_is_stopped_when_it_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stand_in(tmp_path, BASE, monkeypatch)
    monkeypatch.setattr(converter, "TIMEOUT_SECONDS", 0.0)
    with pytest.raises(ExportError, match="did not finish in 0 seconds"):
        convert(model, tmp_path / "out.gguf", precision="F32", name="tiny", tokens=TOKENS)


def test_it_gets_a_clean_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stand_in(tmp_path, LOOKS, monkeypatch)
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    convert(model, tmp_path / "out.gguf", precision="Q8_0", name="tiny", tokens=TOKENS)
    found = json.loads((tmp_path / "out.gguf").read_text())
    assert found["argv"][1:] == [
        str(model),
        *("--outfile", str(tmp_path / "out.gguf"), "--outtype", "q8_0", "--model-name", "tiny"),
    ]
    assert not {"HF_TOKEN", "HTTPS_PROXY", "PYTHONPATH"} & {*found["env"]}
    assert "HF_HUB_OFFLINE" in found["env"]
    assert not found["backend"]


def test_without_it_nothing_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(converter.VARIABLE, str(tmp_path))
    with pytest.raises(ExportError) as caught:
        convert(tmp_path, tmp_path / "out.gguf", precision="F32", name="tiny", tokens=TOKENS)
    assert caught.value.code == "no-converter"


def test_words_without_a_name_stay_without_one() -> None:
    tokenizer = tiny_tokenizer("llama3")
    tokenizer.backend_tokenizer.pre_tokenizer = None
    assert training_tokens(tokenizer, set())["pre"] == ""
