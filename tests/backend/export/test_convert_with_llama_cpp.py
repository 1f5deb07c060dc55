"""What the converter is told: backend/export/convert_with_llama_cpp.py, as it runs in a process of its own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.export.convert_with_llama_cpp import Pieces, follow_training, refuse_network
from tests.exported import GEMMA, LLAMA3, build_tokenizer


@pytest.mark.parametrize("event", ["socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto"])
def test_no_connection_is_opened(event: str) -> None:
    with pytest.raises(OSError, match="not given a network"):
        refuse_network(event, ())


def test_other_events_pass() -> None:
    passed: Any = refuse_network("open", ("a file",))
    assert passed is None


@pytest.fixture
def pieces(tmp_path: Path) -> Pieces:
    build_tokenizer(GEMMA).save_pretrained(tmp_path)
    found = Pieces()
    found.LoadFromFile(str(tmp_path / "tokenizer.model"))
    return found


def test_pieces_are_those_of_the_tokenizer(pieces: Pieces) -> None:
    vocabulary = build_tokenizer(GEMMA).get_vocab()
    assert {pieces.IdToPiece(index): index for index in range(pieces.vocab_size())} == vocabulary
    assert not any(pieces.IsUnused(index) for index in vocabulary.values())
    assert pieces.IsUnused(99_999)
    assert pieces.IsByte(vocabulary["<0x0A>"])
    assert pieces.IsControl(vocabulary["<|im_end|>"])
    assert pieces.IsUnknown(vocabulary["<unk>"])
    assert not pieces.IsByte(vocabulary["<unk>"])


def test_pieces_that_are_merged_first_score_highest(pieces: Pieces) -> None:
    model = build_tokenizer(GEMMA).backend_tokenizer
    vocabulary = model.get_vocab()
    first, *_, last = pieces.rank
    assert pieces.GetScore(vocabulary[first]) == 0
    assert pieces.GetScore(vocabulary[last]) > pieces.GetScore(vocabulary["<|im_end|>"])


def test_a_tokenizer_of_another_kind_has_no_pieces(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram"}, "added_tokens": []}')
    with pytest.raises(ValueError, match="Unigram"):
        Pieces().LoadFromFile(str(tmp_path / "tokenizer.model"))


class Writer:
    """What the converter collects keys with."""

    def __init__(self) -> None:
        self.kv_data: list[dict[str, Any]] = [{"tokenizer.ggml.add_bos_token": "guessed"}]

    def add_bool(self, key: str, flag: bool) -> None:
        self.kv_data[0][key] = flag

    def add_uint32(self, key: str, value: int) -> None:
        self.kv_data[0][key] = value


def a_model(known: str | None) -> Any:
    class Model:
        def __init__(self) -> None:
            self.gguf_writer = Writer()
            self.missing = "Error: Missing /there/tokenizer.model"

        def set_vocab(self) -> None:
            raise ValueError(self.missing)

        def _set_vocab_gpt2(self) -> None:
            self.gguf_writer.kv_data[0]["tokenizer.ggml.model"] = "gpt2"

        def get_vocab_base_pre(self, tokenizer: Any) -> str:
            if known is None:
                raise NotImplementedError
            return known

        def prepare_metadata(self, vocab_only: bool) -> None:
            self.set_vocab()
            self.gguf_writer.kv_data[0]["tokenizer.ggml.eot_token_id"] = 7

    return Model


TOKENS = {"pre": "qwen2", "pieces": False, "flags": {"tokenizer.ggml.add_bos_token": False}, "ends": [9, 8]}


@pytest.mark.parametrize(("known", "rule"), [("llama-bpe", "llama-bpe"), (None, "qwen2")])
def test_a_tokenizer_that_it_does_not_know_has_the_trainings_rule(known: str | None, rule: str) -> None:
    model = a_model(known)
    follow_training(model, TOKENS)
    assert model().get_vocab_base_pre(SimpleNamespace()) == rule


def test_without_a_rule_it_is_left_to_refuse() -> None:
    model = a_model(None)
    follow_training(model, TOKENS | {"pre": ""})
    with pytest.raises(NotImplementedError):
        model().get_vocab_base_pre(build_tokenizer(LLAMA3))


def test_keys_of_tokens_are_the_trainings() -> None:
    model = a_model(None)
    follow_training(model, TOKENS)
    made = model()
    made.prepare_metadata(vocab_only=False)
    assert made.gguf_writer.kv_data == [
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.ggml.eot_token_id": 7,
            "tokenizer.ggml.eom_token_id": 9,
        }
    ]


@pytest.mark.parametrize(("pieces", "missing"), [(True, "no tokenizer.model"), (False, "another fault")])
def test_only_a_missing_file_of_pieces_is_made_up_for(pieces: bool, missing: str) -> None:
    model = a_model(None)
    follow_training(model, TOKENS | {"pieces": pieces})
    made = model()
    made.missing = missing
    with pytest.raises(ValueError, match=missing):
        made.prepare_metadata(vocab_only=False)
