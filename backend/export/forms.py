"""Write a trained model in each of the forms it can be exported in."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from backend.core.gguf.file import read_gguf
from backend.core.model_files import write_config, write_generation_config, write_tokenizer
from backend.errors import ExportError
from backend.export import quantizer
from backend.export.converter import (
    OUTPUT_TYPES,
    check_converter,
    complete_for_converter,
    convert,
    training_tokens,
)
from backend.export.gguf_mix import MIXES, WEIGHED
from backend.export.gguf_vocab import find_word_rule, read_vocabulary
from backend.export.gguf_writer import FILE_TYPES, check_model, write_gguf, write_lora_gguf
from backend.export.imatrix import rows_for, write_imatrix
from backend.export.modelfile import write_modelfile
from backend.export.onnx_writer import ONNX_FILE, check_graph, check_onnx, write_onnx
from backend.export.plain import WEIGHTS, check_plain, read_config
from backend.export.trained import Trained, model_weights
from backend.inference.decoding import context_length
from backend.run.adapter_settings import ADAPTER_CONFIG
from backend.run.root import IMATRIX
from backend.utils.file_utils import scratch_folder

Target = Literal["adapter", "merged", "gguf", "ollama", "lora-gguf", "onnx"]
TARGETS: tuple[Target, ...] = get_args(Target)
DTYPES = ("float32", "bfloat16", "float16")
GGUF_TARGETS = ("gguf", "ollama", "lora-gguf")
OLLAMA_CONTEXT = 4096
"""Ollama's default ``num_ctx``. Ollama reserves memory for that many tokens; a model's full context may not fit."""


def choose_precision(target: str, dtype: str, quantization: str, *, imatrix: bool = False) -> str:
    """Return the precision of ``target``: ``dtype`` for a merged model, ``quantization`` for a GGUF file.

    Raises ExportError (``bad-target``, ``bad-precision``, ``no-quantizer``, ``no-imatrix``) if it cannot be written
    here, or no importance matrix goes with it.
    """
    if target not in TARGETS:
        raise ExportError(
            f"There is no export {target!r}.", remedy=f"Choose {', '.join(TARGETS)}.", code="bad-target"
        )
    if target == "onnx":
        check_onnx()
    if imatrix and (target not in {"gguf", "ollama"} or quantization not in WEIGHED):
        raise ExportError(
            f"An importance matrix does nothing for {quantization if target in GGUF_TARGETS else target}.",
            remedy="It goes with `to=gguf` and 6 bits or fewer, such as `quantization=Q4_K_M`.",
            code="no-imatrix",
        )
    if target in {"adapter", "lora-gguf", "onnx"}:
        return "F32" if target == "lora-gguf" else "float32"
    given = dtype if target == "merged" else quantization
    known = DTYPES if target == "merged" else (*FILE_TYPES, *MIXES)
    if given not in known:
        raise ExportError(
            f"{given!r} is not a precision for {target}.",
            remedy=f"Choose {', '.join(known)}.",
            code="bad-precision",
        )
    if target != "merged":
        quantizer.check(quantization, weighed=imatrix)
    return given


def check_form(trained: Trained, target: Target) -> None:
    """Raise ExportError for a form that this model cannot take.

    Its code is ``no-adapter``, ``merged-only``, ``unsupported-architecture``, ``unsupported-positions``,
    ``unsupported-tokenizer`` or ``no-converter``.
    """
    if target in {"adapter", "lora-gguf"} and trained.full:
        raise ExportError(
            f"The run {trained.run.id} trained every weight: there is no adapter.",
            remedy="Export it with `to=merged` or `to=gguf`.",
            code="no-adapter",
        )
    if target in {"adapter", "lora-gguf"}:
        check_plain(read_config(trained.result))
    if target == "lora-gguf":
        check_model(trained.model.config)
        find_word_rule(trained.tokenizer)
    elif target in GGUF_TARGETS and needs_converter(trained):
        check_converter(list(trained.model.config.architectures or []))
    if target == "onnx":
        check_graph(trained.model.config)


def needs_converter(trained: Trained) -> bool:
    """Return whether a GGUF file of this model is written by llama.cpp's converter, and not by our own writer."""
    try:
        check_model(trained.model.config)
        find_word_rule(trained.tokenizer)
    except ExportError:
        return True
    return False


def write_form(
    trained: Trained,
    target: Target,
    precision: str,
    folder: Path,
    *,
    max_shard_size: str,
    imatrix: bool = False,
) -> tuple[Path, list[str]]:
    """Write one form into ``folder``; return the path that a reader opens, and notes on what could not be kept.

    With ``imatrix``, a GGUF file is rounded by an importance matrix of training rows, which is written beside it.
    """
    if target == "adapter":
        return _write_adapter(trained, folder), []
    if target == "merged":
        return _write_merged(trained, precision, folder, max_shard_size), []
    if target == "onnx":
        return _write_onnx(trained, folder), []
    file = folder / f"{trained.slug}-{'LoRA-' * (target == 'lora-gguf')}{precision}.gguf"
    if target == "lora-gguf":
        write_lora_gguf(file, trained.model.config, trained.plain())
        return file, []
    write_model_gguf(trained, trained.merge(), file, precision, imatrix=imatrix)
    return file, _write_modelfile(trained, file) if target == "ollama" else []


def list_files(folder: Path) -> dict[str, int]:
    """Return the size in bytes of every file in an export, by relative name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _write_adapter(trained: Trained, folder: Path) -> Path:
    """Write the plain form of the adapter; it names its base by Hub id, never by a path of this machine."""
    plain = trained.plain()
    save_file(dict(plain.weights), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / ADAPTER_CONFIG).write_text(
        json.dumps({**plain.config, **trained.naming}, indent=2) + "\n", "utf-8"
    )
    write_tokenizer(trained.tokenizer, folder)
    write_generation_config(trained.generation_config(), folder)
    return folder


def _write_merged(trained: Trained, dtype: str, folder: Path, max_shard_size: str) -> Path:
    """Write the merged model in Hugging Face layout: merged in float32, then rounded once, in shards."""
    _write_model(trained, trained.merge(), dtype, folder, max_shard_size)
    return folder


def _write_model(
    trained: Trained, model: PreTrainedModel, dtype: str, folder: Path, max_shard_size: str
) -> None:
    stored = getattr(torch, dtype)
    rounded = {name: tensor.detach().to(stored) for name, tensor in model_weights(model).items()}
    # The base's rules may be ones that transformers calls invalid and refuses to save.
    model.generation_config = trained.generation_config()
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model.save_pretrained(folder, state_dict=rounded, max_shard_size=max_shard_size)
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
    write_config(model.config, folder, dtype=dtype)
    write_generation_config(trained.generation_config(), folder)
    write_tokenizer(trained.tokenizer, folder)


def _write_onnx(trained: Trained, folder: Path) -> Path:
    """Write the graph, and the configuration, generation rules and tokenizer that readers need."""
    model = trained.merge()
    write_onnx(folder / ONNX_FILE, model)
    write_config(model.config, folder, dtype="float32")
    write_generation_config(trained.generation_config(), folder)
    write_tokenizer(trained.tokenizer, folder)
    return folder


def write_model_gguf(
    trained: Trained, model: PreTrainedModel, file: Path, precision: str, *, imatrix: bool = False
) -> None:
    """Write ``model`` and the run's tokenizer as one GGUF file, by way of float32 if it is to be rounded afterwards.

    With ``imatrix``, its importance matrix lies beside it.
    """
    by_converter = needs_converter(trained)
    known = OUTPUT_TYPES if by_converter else FILE_TYPES
    written = precision if precision in known and not imatrix else "F32"
    target = file if written == precision else file.with_suffix(".f32")
    (convert_model if by_converter else _write_ours)(trained, model, target, written)
    if target == file:
        return
    weights = file.with_name(f"{trained.slug}{IMATRIX}") if imatrix else None
    if weights:
        write_imatrix(weights, model, read_gguf(target), rows_for(model, trained.config, trained.tokenizer))
    quantizer.quantize(target, file, precision, weights)
    target.unlink()


def convert_model(trained: Trained, model: PreTrainedModel, file: Path, precision: str) -> None:
    """Write ``model`` as a GGUF file by llama.cpp's converter, from a folder in Hugging Face layout beside it."""
    with scratch_folder(file.with_name("converted")) as scratch:
        folder = scratch / trained.slug  # the converter makes keys of its name
        folder.mkdir()
        _write_model(trained, model, "float32", folder, "5GB")
        complete_for_converter(folder, trained.tokenizer)
        tokens = training_tokens(trained.tokenizer, trained.end_ids)
        convert(folder, file, precision=precision, name=trained.slug, tokens=tokens)


def _write_ours(trained: Trained, model: PreTrainedModel, file: Path, precision: str) -> None:
    with tempfile.TemporaryDirectory() as words:
        write_tokenizer(trained.tokenizer, Path(words))
        rows = model.config.vocab_size
        vocabulary = read_vocabulary(trained.tokenizer, Path(words), rows=rows, eos_token_ids=trained.end_ids)
    write_gguf(
        file, model.config, model_weights(model), vocabulary, quantization=precision, name=trained.slug
    )


def _write_modelfile(trained: Trained, file: Path) -> list[str]:
    adds_bos = bool(read_gguf(file).metadata["tokenizer.ggml.add_bos_token"])
    used = trained.config.data.max_length + trained.config.evaluation.max_new_tokens
    room = min(context_length(trained.model), max(used, OLLAMA_CONTEXT))
    return write_modelfile(
        file.parent, file.name, trained.tokenizer, trained.end_ids, context_length=room, adds_bos=adds_bos
    )
