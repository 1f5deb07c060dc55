"""How large the inputs of each matrix are: backend/export/imatrix.py, read by libgguf as llama.cpp reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backend.core.gguf.file import GgufFile, read_gguf
from backend.errors import DataError, ExportError, ModelError
from backend.export import imatrix
from backend.export.forms import write_model_gguf
from backend.export.imatrix import measure, read_importance, rows_for, training_ids, write_imatrix
from tests.backend.export.conftest import Asked, ask
from tests.backend.export.results import finished

ROWS = [[5, 9, 12, 40, 7], [], [33, 6, 8]]
QUERY = "blk.0.attn_q.weight"


@pytest.fixture(scope="module")
def file(llama: Asked, tmp_path_factory: pytest.TempPathFactory) -> GgufFile:
    path = tmp_path_factory.mktemp("file") / "f32.gguf"
    write_model_gguf(llama.trained, llama.fresh().merge(), path, "F32")
    return read_gguf(path)


def test_inputs_are_summed_over_all_tokens(llama: Asked, file: GgufFile) -> None:
    model = llama.fresh().merge()
    found = measure(model, file, ROWS)
    layer = model.model.layers[0]
    with torch.inference_mode():
        inputs = [layer.input_layernorm(model.model.embed_tokens(torch.tensor(ids))) for ids in ROWS if ids]
    wanted = torch.cat(inputs).square().sum(0)
    sums, count = found[QUERY]
    assert count == 8
    assert torch.allclose(sums, wanted, rtol=1e-5)


def test_every_matrix_of_a_layer_is_measured_and_no_other(llama: Asked, file: GgufFile) -> None:
    matrices = {
        name for name, tensor in file.tensors.items() if len(tensor.shape) == 2 and name.startswith("blk.")
    }
    assert measure(llama.fresh().merge(), file, ROWS).keys() == matrices


def test_the_file_is_read_as_llama_cpp_reads_it(llama: Asked, file: GgufFile, tmp_path: Path) -> None:
    libgguf = pytest.importorskip("libgguf")
    path = tmp_path / "rows.gguf"
    model = llama.fresh().merge()
    count = write_imatrix(path, model, file, ROWS)
    theirs, ours = libgguf.load_imatrix(path), read_importance(path)
    assert len(theirs) == count
    assert theirs.keys() == ours.keys()
    sums, tokens = measure(model, file, ROWS)[QUERY]
    assert np.allclose(theirs[QUERY], sums.numpy() / tokens)
    assert all(np.array_equal(theirs[name], ours[name].ravel()) for name in theirs)
    assert read_gguf(path).metadata["general.type"] == "imatrix"
    assert read_gguf(path).metadata.keys() >= {
        "imatrix.datasets",
        "imatrix.chunk_count",
        "imatrix.chunk_size",
    }


def test_rows_are_those_of_the_training(llama: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = llama.trained
    rows = list(training_ids(trained.config, trained.tokenizer, 1000))
    assert all("<|im_end|>" in trained.tokenizer.decode(ids) for ids in rows)
    held_out = [row.prompt_ids for row in llama.panel.rows]
    assert not any(ids[: len(prompt)] == prompt for ids in rows for prompt in held_out)
    assert {len(ids) for ids in training_ids(trained.config, trained.tokenizer, 3)} == {3}
    monkeypatch.setattr(imatrix, "TOKENS", 1)
    assert list(training_ids(trained.config, trained.tokenizer, 1000)) == rows[:1]


def test_rows_that_are_gone_are_named(tmp_path: Path) -> None:
    asked = ask(finished(tmp_path))
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        list(training_ids(asked.trained.config, asked.trained.tokenizer, 1000))


def test_a_damaged_file_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "rows.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(ModelError, match=r"rows\.gguf is not a whole GGUF file"):
        read_importance(tmp_path / "rows.gguf")


def test_rows_are_cut_to_what_the_model_reads(llama: Asked) -> None:
    trained = llama.trained
    rows = rows_for(trained.model, trained.config, trained.tokenizer)
    assert all(0 < len(ids) <= trained.config.data.max_length for ids in rows)


def test_nothing_measured_is_said(llama: Asked, file: GgufFile, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        write_imatrix(tmp_path / "rows.gguf", llama.fresh().merge(), file, [])
    assert caught.value.code == "no-imatrix"
    assert not (tmp_path / "rows.gguf").exists()


def test_an_unknown_architecture_has_no_names(llama: Asked, file: GgufFile) -> None:
    odd = GgufFile(file.path, {**file.metadata, "general.architecture": "odd"}, file.tensors)
    assert measure(llama.fresh().merge(), odd, ROWS) == {}
