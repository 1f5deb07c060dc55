"""Check an export: read it back through another library, and compare its weights and settings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from backend.core.gguf.file import GgufFile, read_gguf
from backend.errors import ExportError, ModelError
from backend.export import contents
from backend.export.certificate import Certificate, Check, Light
from backend.export.comparison import compare
from backend.export.forms import Target, convert_model, needs_converter, write_model_gguf
from backend.export.gguf_converted import check_converted, lost_weights
from backend.export.panel import Answer, Panel
from backend.export.plain import update_errors
from backend.export.readers import NoReaderError, Reader, UnreadableError, read_back
from backend.export.trained import Trained, model_weights
from backend.inference.logprobs import answer_logprobs
from backend.utils.file_utils import scratch_folder

UPDATE_ERROR = 1e-5
"""Largest relative error of an update in the plain form; rounding in float32 is about a hundredth of it."""
_READERS: dict[Target, Reader] = {"adapter": "transformers", "merged": "transformers", "onnx": "onnxruntime"}


def certify(
    trained: Trained, target: Target, precision: str, payload: Path, panel: Panel, answers: Sequence[Answer]
) -> Certificate:
    """Return the certificate of ``payload``, an export of ``trained`` on disk."""
    reader = _READERS.get(target, "llama_cpp")
    figures: dict[str, Any] = {}
    examples: list[dict[str, Any]] = []
    name = ""
    folder = payload if payload.is_dir() else payload.parent
    with scratch_folder(folder.with_name("check")) as scratch:  # on the same disk as the export
        try:
            base = _base_for_reader(trained, target, scratch)
            reading = read_back(reader, payload, panel, answers, base=base)
            weigh = partial(answer_logprobs, trained.model)
            checks, figures, examples = compare(panel, answers, reading, trained.tokenizer, precision, weigh)
            name = reading.reader
        except NoReaderError as error:
            checks = [Check("reader", Light.AMBER, f"Not checked: {error}.")]
        except UnreadableError as error:
            checks = [Check("reader", Light.RED, f"{error.reader} cannot read it: {error}")]
        checks.append(check_contents(trained, target, precision, payload, scratch))
    if target in {"adapter", "lora-gguf"}:
        checks.append(check_updates(trained))
    if target in {"adapter", "lora-gguf"} and (finding := trained.base_note or trained.base_place):
        checks.append(Check("base", Light.AMBER if trained.base_note else Light.GREEN, finding))
    if target in {"adapter", "lora-gguf"} and trained.rounded_base_note:
        # llama.cpp has no such weights to load it over
        light = Light.GREEN if target == "adapter" else Light.AMBER
        checks.append(Check("quantized base", light, trained.rounded_base_note))
    if panel.note:
        checks.append(Check("panel", Light.AMBER, panel.note))
    return Certificate(
        trained.run.id, target, precision, name, len(panel.rows), checks, figures, examples, trained.step
    )


def unchecked(trained: Trained, target: Target, precision: str, why: str) -> Certificate:
    """Return the certificate of an export that no reader has read."""
    check = Check("reader", Light.AMBER, f"Not checked: {why}")
    return Certificate(trained.run.id, target, precision, "", 0, [check], {}, [], trained.step)


def _base_for_reader(trained: Trained, target: Target, scratch: Path) -> Path | None:
    """Return the base that the reader loads an adapter onto: a folder, or a GGUF file; None for whole models."""
    if target == "adapter" and trained.quantization is None:
        return trained.base
    if target == "adapter":  # its reader computes in float32, in which packing would give other values
        folder = scratch / "base"
        trained.load_base().save_pretrained(folder)
        return folder
    if target == "lora-gguf":
        file = scratch / "base.gguf"
        write_model_gguf(trained, trained.load_base(), file, "F32")
        return file
    return None


def check_contents(trained: Trained, target: Target, precision: str, payload: Path, scratch: Path) -> Check:
    """Return the check that every weight and setting in the export is the trained one."""
    try:
        problems = _differences(trained, target, precision, payload, scratch)
        unknown = [] if problems else _unknown(trained, target, precision, payload, scratch)
    except (
        ExportError,
        ModelError,
    ) as error:  # leave out the path: the export is moved before anyone reads this
        problems = [error.message.replace(str(payload), payload.name).rstrip(".")]
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:  # a file that makes no sense
        problems = [
            f"something cannot be compared: {type(error).__name__}, {error}".replace(str(payload), "")
        ]
    if problems:
        return Check("contents", Light.RED, f"In the export, {_first(problems)}")
    same = f"Every weight is the trained one in {precision}; settings and tokens are the same."
    if unknown:
        return Check(
            "contents", Light.AMBER, f"{same} But Tunesmith does not know what this means: {_first(unknown)}"
        )
    return Check("contents", Light.GREEN, same)


def check_updates(trained: Trained) -> Check:
    """Return the check that the plain form updates every layer as the trained adapter does."""
    plain = trained.plain()
    errors = update_errors(plain, trained.model)
    worst, name = max(((error, name) for name, error in errors.items()), default=(0.0, ""))
    if not worst <= UPDATE_ERROR:
        said = f"With one scale for all layers, the update of {name} is {worst:.2g} of its size off the trained one."
        return Check("updates", Light.RED, said)
    folded = f" {', '.join(plain.folded)} went into the weights." if plain.folded else ""
    said = f"With one scale for all layers, as other programs have it, {len(errors)} updates are the trained ones"
    return Check("updates", Light.GREEN, f"{said}, within {worst:.2g} of their size.{folded}")


def _first(sentences: list[str]) -> str:
    """Return the first three of ``sentences`` as one, and how many more there are."""
    more = f" And {len(sentences) - 3} more." if len(sentences) > 3 else ""
    return f"{'; '.join(sentences[:3])}.{more}"


def _differences(trained: Trained, target: Target, precision: str, payload: Path, scratch: Path) -> list[str]:
    words = (trained.tokenizer, trained.end_ids)
    if target == "adapter":
        return contents.check_adapter(payload, trained.plain(), *words, naming=trained.naming)
    if target == "lora-gguf":
        return contents.check_lora(payload, trained.plain(), trained.model.config)
    model = trained.merge()
    wanted = (model.config, model_weights(model), *words)
    base = None if trained.full else trained.base
    shared = list(contents.check_shared_ends(model, trained.result)) if not trained.full else []
    if target == "onnx":
        return shared + contents.check_onnx(payload, *wanted)
    if target == "merged":
        return shared + contents.check_folder(payload, *wanted, stored=getattr(torch, precision), base=base)
    if needs_converter(trained):
        again = _converted_again(trained, scratch)
        return shared + check_converted(read_gguf(payload), again, trained.tokenizer, precision)
    return shared + contents.check_gguf(payload, scratch / "back", *wanted, base=base, precision=precision)


def _converted_again(trained: Trained, scratch: Path) -> GgufFile:
    """Return the trained model as a float32 file, converted once in ``scratch``."""
    file = scratch / "again.gguf"
    if not file.exists():
        convert_model(trained, trained.merge(), file, "F32")
    return read_gguf(file)


def _unknown(trained: Trained, target: Target, precision: str, payload: Path, scratch: Path) -> list[str]:
    words = (trained.tokenizer, trained.end_ids)
    match target:
        case "adapter":
            return contents.unknown_in_adapter(payload, trained.plain(), *words)
        case "lora-gguf":
            return []
        case "merged" | "onnx":
            return contents.unknown_in_folder(payload, trained.model.config, *words)
    if not needs_converter(trained):
        return contents.unknown_in_gguf(payload, trained.tokenizer)
    if precision in {"F32", "F16", "BF16"}:  # the answers show that nothing is lost
        return []
    lost = lost_weights(model_weights(trained.merge()), _converted_again(trained, scratch))
    return [f"the weight {name} is not in the file with the same numbers" for name in lost]
