from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.core.gguf.file import read_gguf, read_pairs
from backend.errors import ModelError
from tests.backend.core.tiny_gguf import tiny_gguf


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tiny_gguf(path, quantisation=gguf.GGMLQuantizationType.Q8_0, metadata={"x.f": 0.5, "x.list": [1, 2, 3]})
    return path


def header(*parts: bytes, version: int = 3, tensors: int = 0, pairs: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + b"".join(parts)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def test_metadata_and_tensors_are_those_of_the_gguf_package(tiny_file: Path) -> None:
    ours, theirs = read_gguf(tiny_file), gguf.GGUFReader(tiny_file)
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata == fields
    assert [(t.name, t.kind, t.shape) for t in ours.tensors.values()] == [
        (t.name, t.tensor_type, tuple(map(int, reversed(t.shape)))) for t in theirs.tensors
    ]
    for tensor in theirs.tensors:
        assert np.array_equal(ours.tensors[tensor.name].rows.ravel(), tensor.data.view(np.uint8).ravel())


def test_entries_of_keys_are_those_of_the_header(tiny_file: Path, tmp_path: Path) -> None:
    pairs = read_pairs(tiny_file)
    assert pairs.keys() == read_gguf(tiny_file).metadata.keys()
    assert b"".join(pairs.values()) in tiny_file.read_bytes()
    assert pairs["x.f"] == text("x.f") + struct.pack("<If", 6, 0.5)
    (tmp_path / "cut.gguf").write_bytes(tiny_file.read_bytes()[:100])
    with pytest.raises(ModelError, match="not a whole GGUF file"):
        read_pairs(tmp_path / "cut.gguf")


@pytest.mark.parametrize(
    ("layout", "kind", "value"),
    [
        ("<I", 4, 2**31),
        ("<i", 5, -(2**30)),
        ("<f", 6, 0.25),
        ("<Q", 10, 2**60),
        ("<B", 0, 200),
        ("<b", 1, -3),
        ("<H", 2, 9),
        ("<h", 3, -9),
        ("<q", 11, -(2**40)),
        ("<d", 12, 0.1),
        ("<?", 7, True),
    ],
)
def test_every_scalar_type_is_read(tmp_path: Path, layout: str, kind: int, value: float) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(header(text("k"), struct.pack("<I", kind), struct.pack(layout, value), pairs=1))
    assert read_gguf(path).metadata == {"k": value}


def test_another_alignment_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    alignment = text("general.alignment") + struct.pack("<II", 4, 64)
    info = text("t") + struct.pack("<IQIQ", 1, 2, 0, 0)
    start = header(alignment, info, tensors=1, pairs=1)
    path.write_bytes(start.ljust(-(-len(start) // 64) * 64, b"\0") + struct.pack("<2f", 1.5, 2.5))
    assert read_gguf(path).tensors["t"].rows.view(np.float32).tolist() == [[1.5, 2.5]]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GG",
        b"GGUF",
        b"<html>not found</html>" * 10,
        header(version=1),
        header(version=99),
        header(tensors=2**60),
        header(pairs=2**60),
        header(b"\xff" * 8, pairs=1),
        header(text("k"), struct.pack("<I", 77), b"\0" * 16, pairs=1),
        header(text("k"), struct.pack("<IIQ", 9, 4, 2**61), b"\0" * 16, pairs=1),
        header(text("k"), struct.pack("<IIQ", 9, 9, 1), b"\0" * 16, pairs=1),
        header(text("general.alignment"), struct.pack("<II", 4, 0), pairs=1),
        header(text("general.alignment"), struct.pack("<I", 8), text("x"), pairs=1),
        header(text("t"), struct.pack("<IQIQ", 1, 2, 0, 2**40), tensors=1),
        header(text("t"), struct.pack("<IQIQ", 1, 2**62, 0, 0), tensors=1),
        header(text("t"), struct.pack("<IQIQ", 1, 2, 250, 0), tensors=1),
        header(text("t"), struct.pack("<IQIQ", 1, 0, 0, 0), tensors=1),
        header(text("t"), struct.pack("<IQIQ", 1, 33, 8, 0), tensors=1),
        header(text("t"), struct.pack("<I", 0), b"\0" * 30, tensors=1),
        header(text("t"), struct.pack("<I", 5), b"\0" * 80, tensors=1),
        header(struct.pack("<Q", 2) + b"\xff\xfe", struct.pack("<I", 0), b"\0" * 4, pairs=1),
    ],
)
def test_what_is_not_a_whole_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.gguf") as caught:
        read_gguf(path)
    assert caught.value.code == "damaged-gguf"


@pytest.mark.parametrize("name", ["missing.gguf", "."])
def test_what_is_no_file_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        read_gguf(tmp_path / name)
    assert caught.value.code == "damaged-gguf"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_a_truncated_file_is_always_an_error(tiny_file: Path, tmp_path: Path, share: float) -> None:
    content = tiny_file.read_bytes()
    path = tmp_path / "short.gguf"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError):
        read_gguf(path)


def outcome(path: Path) -> str:
    try:
        read_gguf(path)
    except ModelError as error:
        return error.code
    return "read"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(4, 3000), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_header_never_ends_in_another_error(
    tiny_file: Path, tmp_path: Path, position: int, bit: int
) -> None:
    content = bytearray(tiny_file.read_bytes())
    content[position] ^= 1 << bit
    path = tmp_path / "flipped.gguf"
    path.write_bytes(content)
    assert outcome(path) in {"read", "damaged-gguf"}
