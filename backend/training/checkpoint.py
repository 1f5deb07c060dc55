"""Save, verify and restore checkpoints. A checkpoint appears whole, by one rename, or not at all.

It is a folder in PEFT or Hugging Face layout that any program can load, plus optimizer state and counters.
``manifest.json`` holds the SHA-256 of every other file and is checked before anything is read: neither safetensors
nor a file system notices a flipped bit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backend.core.model_files import write_config, write_generation_config, write_tokenizer
from backend.core.model_loader import adapter_weights
from backend.errors import RunError, TrainingError
from backend.run.checkpoints import (
    FORMAT_VERSION,
    MANIFEST,
    checkpoint_folders,
    damaged,
    step_name,
    verify_folder,
    write_manifest,
)
from backend.training.loop import TrainState
from backend.training.optimizer import load_optimizer_tensors, optimizer_tensors
from backend.utils.file_utils import (
    FileSystem,
    free_bytes,
    read_json_object,
    staged_folder,
    temporary_name,
)

STATE = "trainer_state.json"
OPTIMIZER = "optimizer.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files all match their hashes. ``notes`` are further values that the recorder saved.

    ``fitting`` is that of ``TrainState``.
    """

    path: Path
    step: int
    tokens_seen: int
    notes: Mapping[str, Any]
    fitting: Mapping[int, int] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    state: TrainState,
    notes: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    fs: FileSystem | None = None,
) -> Path:
    """Write ``folder/step-<step>`` and return its path; an existing good one is left, a damaged one replaced.

    Pass ``tokenizer`` if it differs from that of the base model.
    Raises TrainingError (disk-full, cannot-save) naming the path; no other checkpoint is touched.
    """
    final = folder / step_name(state.step)
    if final.exists():
        try:
            return read_checkpoint(final).path
        except RunError:
            _remove(final)
    moments = optimizer_tensors(state.optimizer, state.parameters)
    counters = {
        "version": FORMAT_VERSION,
        "step": state.step,
        "tokens_seen": state.tokens_seen,
        "notes": dict(notes),
        "fitting": {str(asked): fitted for asked, fitted in state.fitting.items()},
    }

    def fill(staging: Path) -> None:
        write_weights(state.forward.model, staging)
        save_file({name: tensor.contiguous() for name, tensor in moments.items()}, staging / OPTIMIZER)
        if tokenizer is not None:
            write_tokenizer(tokenizer, staging)
        (staging / STATE).write_text(json.dumps(counters, indent=1), encoding="utf-8")

    needed = sum(t.numel() * t.element_size() for t in [*moments.values(), *state.parameters.values()])
    return _publish(final, fill, needed, fs)


def save_result(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    step: int | None = None,
    fs: FileSystem | None = None,
) -> Path:
    """Write the trained adapter or model with its tokenizer as ``folder``, replacing it whole or not at all.

    ``step`` is the step of these weights, stored in the manifest.
    """

    def fill(staging: Path) -> None:
        write_weights(model, staging)
        write_tokenizer(tokenizer, staging)

    aside = temporary_name(folder)
    if folder.exists():
        folder.rename(aside)
    needed = sum(t.numel() * t.element_size() for t in model.parameters() if t.requires_grad)
    try:
        return _publish(folder, fill, needed, fs, step=step)
    except BaseException:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _publish(
    final: Path, fill: Callable[[Path], None], needed: int, fs: FileSystem | None, step: int | None = None
) -> Path:
    """Stage, fill, hash and rename; a failure removes the staging folder and becomes a sentence."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        if free_bytes(final.parent) < needed:
            raise _disk_full(final, needed)
        with staged_folder(final, fs=fs) as staging:
            fill(staging)
            write_manifest(staging, step)
    except (OSError, SafetensorError) as error:
        if final.parent.is_dir() and free_bytes(final.parent) < max(needed, 1 << 20):
            raise _disk_full(final, needed) from error
        raise TrainingError(
            f"{final} could not be written: {error}.",
            remedy="Make the folder writable and resume the run.",
            code="cannot-save",
        ) from error
    return final


def _disk_full(path: Path, needed: int) -> TrainingError:
    return TrainingError(
        f"The disk is full: {path} needs {needed:,} bytes and {free_bytes(path.parent):,} are free.",
        remedy="Make room and resume the run; the checkpoints before it are intact.",
        code="disk-full",
    )


def write_weights(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Write the trained weights: an adapter in PEFT layout, a whole model in Hugging Face layout."""
    if isinstance(model, PeftModel):
        tensors = adapter_weights(model)
        model.peft_config["default"].save_pretrained(str(folder))
        save_file(_contiguous(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
        return
    write_config(model.config, folder, dtype=str(model.dtype).removeprefix("torch."))
    if model.generation_config is not None:
        write_generation_config(model.generation_config, folder)
    save_file(_contiguous(_untied(model)), folder / "model.safetensors", metadata={"format": "pt"})


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``tensors`` as safetensors takes them: each in one piece, and a copy of one that is there already."""
    seen: set[int] = set()
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        one = tensor.detach().contiguous()
        kept[name] = one.clone() if one.data_ptr() in seen else one
        seen.add(one.data_ptr())
    return kept


def _untied(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the state dict with each shared tensor under its first name only, as safetensors requires."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor
    return tensors


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in ``path`` after verifying the hash of every file.

    Raises RunError (damaged-checkpoint, foreign-checkpoint) naming the file that is wrong.
    """
    names = verify_folder(path)
    if {STATE, OPTIMIZER} - names:
        raise damaged(path, f"{MANIFEST} does not name its files")
    try:
        counters = read_json_object(path / STATE)
        if counters["version"] != FORMAT_VERSION:
            raise RunError(
                f"The checkpoint {path} has format {counters['version']}, this version reads {FORMAT_VERSION}.",
                remedy="Use the version of Tunesmith that wrote it.",
                code="foreign-checkpoint",
            )
        notes = counters["notes"]
        if not isinstance(notes, dict):
            raise damaged(path, f"{STATE} has no notes")
        # absent before micro-batches were halved where memory ran out
        fitting = counters.get("fitting", {})
        if not isinstance(fitting, dict):
            raise damaged(path, f"{STATE} has no sizes of micro-batches")
        sizes = {int(asked): int(str(fitted)) for asked, fitted in fitting.items()}
        return Checkpoint(path, int(str(counters["step"])), int(str(counters["tokens_seen"])), notes, sizes)
    except (KeyError, OSError, ValueError) as error:
        raise damaged(path, f"{STATE} cannot be read: {error}") from error


def newest_good(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, and an error message for each newer one that does not.

    Raises RunError ``foreign-checkpoint`` for one of another format version: it is intact, so it is not skipped.
    """
    complaints: list[str] = []
    for path in reversed(checkpoint_folders(folder)):
        try:
            return read_checkpoint(path), complaints
        except RunError as error:
            if error.code == "foreign-checkpoint":
                raise
            complaints.append(error.message)
    return None, complaints


def restore(checkpoint: Checkpoint, state: TrainState) -> None:
    """Load a verified checkpoint into ``state``. Raises RunError if it is of another model or method."""
    model = state.forward.model
    try:
        if isinstance(model, PeftModel):
            tensors = load_file(checkpoint.path / "adapter_model.safetensors")
            _same_names(adapter_weights(model), tensors)
            set_peft_model_state_dict(model, tensors)
        else:
            tensors = load_file(checkpoint.path / "model.safetensors")
            _same_names(_untied(model), tensors)
            with torch.no_grad():
                for name, target in _untied(model).items():
                    target.copy_(tensors[name])
        load_optimizer_tensors(state.optimizer, state.parameters, load_file(checkpoint.path / OPTIMIZER))
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise RunError(
            f"The checkpoint {checkpoint.path} belongs to another model or method: {error}.",
            remedy="Resume with the model and settings the run began with.",
            code="foreign-checkpoint",
        ) from error
    state.step, state.tokens_seen = checkpoint.step, checkpoint.tokens_seen
    state.fitting = dict(checkpoint.fitting)


def _same_names(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    differing = sorted(own.keys() ^ other.keys())
    if differing:
        raise KeyError(f"the weights differ in {', '.join(differing[:3])}")


def prune(folder: Path, *, keep_last: int, best_step: int | None) -> list[Path]:
    """Delete all but the newest ``keep_last`` checkpoints and the best one; return the deleted paths."""
    kept = {step_name(best_step)} if best_step is not None else set()
    old = checkpoint_folders(folder)[:-keep_last]
    deleted = [path for path in old if path.name not in kept]
    for path in deleted:
        _remove(path)
    return deleted


def _remove(path: Path) -> None:
    """Rename a folder away in one step, then delete it, so that no half-deleted checkpoint keeps the name."""
    aside = temporary_name(path)
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
