"""The same file with other kinds of tensors: backend/export/gguf_rewrite.py, read by the gguf package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, GGUFWriter
from gguf.quants import quantize

from backend.core.gguf.file import read_gguf
from backend.export.gguf_rewrite import rewrite


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file with a key of each kind and two tensors."""
    writer = GGUFWriter(None, "llama")
    writer.add_file_type(0)
    writer.add_string("general.name", "naïve 東京")
    writer.add_array("tokenizer.ggml.tokens", ["a", "", "🙂"])
    writer.add_float32("llama.rope.freq_base", 1e4)
    writer.add_bool("tokenizer.ggml.add_bos_token", val=True)
    numbers = np.random.default_rng(0)
    writer.add_tensor("blk.0.attn_q.weight", numbers.normal(size=(6, 64)).astype(np.float32))
    writer.add_tensor("output_norm.weight", numbers.normal(size=7).astype(np.float32))
    writer.write_header_to_file(tmp_path / "f32.gguf")
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "f32.gguf"


def test_the_gguf_package_reads_every_key_and_the_new_tensors(source: Path, tmp_path: Path) -> None:
    file, target = read_gguf(source), tmp_path / "q8.gguf"
    kinds = {"blk.0.attn_q.weight": Kind.Q8_0, "output_norm.weight": Kind.F32}
    keys = {"general.file_type": 7, "quantize.imatrix.file": "rows.gguf"}
    rewrite(file, target, kinds, keys, lambda tensor, kind: quantize(tensor.rows.view(np.float32), kind))
    before, after = GGUFReader(source), GGUFReader(target)
    found = {key: part.contents() for key, part in after.fields.items() if not key.startswith("GGUF.")}
    wanted = {key: part.contents() for key, part in before.fields.items() if not key.startswith("GGUF.")}
    fixed = {"general.alignment": 32, "general.quantization_version": 2}
    assert found == {**wanted, **fixed, **keys}
    tensors = {tensor.name: tensor for tensor in after.tensors}
    assert {name: tensor.tensor_type for name, tensor in tensors.items()} == kinds
    matrix = file.tensors["blk.0.attn_q.weight"].rows.view(np.float32)
    assert np.array_equal(tensors["blk.0.attn_q.weight"].data, quantize(matrix, Kind.Q8_0))
    assert np.array_equal(
        tensors["output_norm.weight"].data, file.tensors["output_norm.weight"].rows.view(np.float32)[0]
    )


def test_what_is_written_is_read_by_us_too(source: Path, tmp_path: Path) -> None:
    file, target = read_gguf(source), tmp_path / "again.gguf"
    rewrite(file, target, dict.fromkeys(file.tensors, Kind.F32), {}, lambda tensor, _: tensor.rows)
    again = read_gguf(target)
    assert all(np.array_equal(again.tensors[name].rows, tensor.rows) for name, tensor in file.tensors.items())
    assert again.metadata.items() >= file.metadata.items()
