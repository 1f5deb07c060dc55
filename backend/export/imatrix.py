"""Make an importance matrix: how large the inputs of each matrix are, column by column, over rows of the training.

Where inputs are large, an error of the weight counts more, and rounding to few bits takes that into account. The
file has the layout of llama.cpp's ``llama-imatrix``, and ``llama-quantize --imatrix`` reads it. Source of the layout:
llama.cpp, ``tools/imatrix/imatrix.cpp`` (October 2026).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGUFWriter
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backend import data_pipeline
from backend.core.encoding.row import encode_each
from backend.core.gguf.file import GgufFile, read_gguf
from backend.errors import ExportError
from backend.inference.decoding import context_length
from backend.run.config import RunConfig

TOKENS = 32_768
"""The number of tokens over which inputs are averaged; llama.cpp recommends tens of thousands."""
_SUMS, _COUNTS = ".in_sum2", ".counts"


def training_ids(config: RunConfig, tokenizer: PreTrainedTokenizerBase, longest: int) -> Iterator[list[int]]:
    """Yield the token ids of training rows, spread evenly, of at most ``longest`` tokens each and ``TOKENS`` in all.

    Raises DataError if the rows of the run cannot be read any more.
    """
    rows = data_pipeline.load(config.data, seed=config.seed).train
    left = TOKENS
    every = max(1, len(rows) * 64 // TOKENS)
    chosen = (row for start in range(every) for row in rows[start::every])
    texts = (
        answer
        for row in chosen
        for answer in (row.answers() if config.objective.facts.is_preference else [row])
    )
    for encoded in encode_each(texts, tokenizer):
        ids = [int(index) for index in encoded.input_ids[:longest]]
        yield ids
        left -= len(ids)
        if left <= 0:
            return


@torch.inference_mode()
def measure(
    model: PreTrainedModel, file: GgufFile, rows: Iterable[Sequence[int]]
) -> dict[str, tuple[Tensor, int]]:
    """Return the sums of squared inputs of each matrix of a layer, ``[columns]``, and the number of inputs.

    The names are those of ``file``, the model in GGUF. Experts are left out: their inputs are not those of a module.
    """
    found: dict[str, tuple[Tensor, int]] = {}

    def watch(name: str) -> Any:
        def add(_: nn.Module, values: tuple[Tensor, ...]) -> None:
            rows = values[0].detach().float().reshape(-1, values[0].shape[-1])
            sums, count = found.get(name, (torch.zeros(rows.shape[-1]), 0))
            found[name] = (sums + rows.square().sum(0), count + len(rows))

        return add

    matrices = _matrices(model, file)
    with ExitStack() as hooks:
        for name, part in matrices.items():
            hooks.callback(part.register_forward_pre_hook(watch(name)).remove)
        for ids in rows:
            if ids:
                model(input_ids=torch.tensor([ids]), use_cache=False)
    return {
        name: (sums, count)
        for name, (sums, count) in found.items()
        if len(sums) == file.tensors[name].shape[-1]
    }


def _matrices(model: PreTrainedModel, file: GgufFile) -> dict[str, nn.Module]:
    """Return the modules of the layers that multiply with a matrix of ``file``, by its name there."""
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    architecture = str(file.metadata["general.architecture"])
    if architecture not in numbers:
        return {}
    names = gguf.get_tensor_name_map(numbers[architecture], int(file.metadata[f"{architecture}.block_count"]))
    pairs = ((names.get_name(name), part) for name, part in model.named_modules() if hasattr(part, "weight"))
    known = {f"{name}.weight": part for name, part in pairs if name and name.startswith("blk.")}
    return {
        name: part
        for name, part in known.items()
        if part.weight.ndim == 2 and name in file.tensors and len(file.tensors[name].shape) == 2
    }


def write_imatrix(path: Path, model: PreTrainedModel, file: GgufFile, rows: Iterable[Sequence[int]]) -> int:
    """Write the importance matrix of ``model`` to ``path``; return the number of matrices in it.

    Raises ExportError (``no-imatrix``) if there is none that can be measured.
    """
    found = measure(model, file, rows)
    if not found:
        raise ExportError(
            "There is nothing to make an importance matrix of: no training row reached a matrix that GGUF names.",
            remedy="Export it without `imatrix`.",
            code="no-imatrix",
        )
    count = max(count for _, count in found.values())
    writer = GGUFWriter(None, "")
    writer.kv_data = [{}]  # such a file has no architecture
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["the training rows of the run"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", count)
    for name, (sums, inputs) in sorted(found.items()):
        writer.add_tensor(name + _SUMS, sums.numpy()[None])
        writer.add_tensor(name + _COUNTS, np.full((1, 1), inputs, dtype=np.float32))
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return len(found)


def read_importance(path: Path) -> Mapping[str, npt.NDArray[np.float32]]:
    """Return the mean square of the inputs of each matrix, ``[1 or experts, columns]``, by its GGUF name.

    Raises ModelError ``damaged-gguf``.
    """
    tensors = read_gguf(path).tensors
    found: dict[str, npt.NDArray[np.float32]] = {}
    for name in (name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)):
        sums, counts = (tensors[name + part].rows.view(np.float32) for part in (_SUMS, _COUNTS))
        mean = sums.reshape(counts.size, -1) / np.maximum(counts.reshape(-1, 1), 1)
        found[name] = np.where(counts.reshape(-1, 1) > 0, mean, np.float32(1)).astype(np.float32)
    return found


def rows_for(
    model: PreTrainedModel, config: RunConfig, tokenizer: PreTrainedTokenizerBase
) -> Iterator[list[int]]:
    """Yield the ids of training rows that fit ``model``; see ``training_ids``."""
    return training_ids(config, tokenizer, min(config.data.max_length, context_length(model)))
