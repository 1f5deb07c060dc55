"""TensorBoard event files, whole, growing and damaged: backend/manager/event_files.py."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto

from backend.manager.event_files import EventFolder, masked_crc32c


def record(message: bytes) -> bytes:
    length = struct.pack("<Q", len(message))
    return (
        length
        + struct.pack("<I", masked_crc32c(length))
        + message
        + struct.pack("<I", masked_crc32c(message))
    )


def point(step: int, value: float, tag: str = "loss") -> bytes:
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    return record(Event(step=step, summary=summary).SerializeToString())


def points(first: int, last: int) -> bytes:
    return b"".join(point(step, step / 8) for step in range(first, last + 1))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.out.tfevents.1.host"


def read(folder: Path) -> EventFolder:
    events = EventFolder(folder)
    events.poll()
    return events


def test_the_checksum_is_castagnoli() -> None:
    assert masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_files_of_torch_are_read(tmp_path: Path) -> None:
    writer_module = pytest.importorskip("torch.utils.tensorboard")
    with writer_module.SummaryWriter(str(tmp_path)) as writer:
        for step in range(5):
            writer.add_scalar("train/loss", 1 / (step + 1), step)
    assert read(tmp_path).series["train/loss"][4] == pytest.approx(0.2)


def test_only_what_is_new_is_read(file: Path) -> None:
    file.write_bytes(points(1, 3))
    events = read(file.parent)
    with file.open("ab") as stream:
        stream.write(points(4, 5))
    assert events.poll() == 2
    assert events.poll() == 0
    assert list(events.series["loss"]) == [1, 2, 3, 4, 5]
    assert events.notes == {}


def test_all_points_are_kept(file: Path) -> None:
    file.write_bytes(points(1, 12_000))
    assert len(read(file.parent).series["loss"]) == 12_000


def test_w23_every_file_is_read_and_the_later_one_wins(tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / "deep" / f"events.out.tfevents.{number}.host"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(point(number, 0.0) + point(100, float(number)))
    series = read(tmp_path).series["loss"]
    assert sorted(series) == [0, 1, 2, 3, 4, 5, 100]
    assert series[100] == 5.0


def test_tensor_values_are_numbers_too(file: Path) -> None:
    tensors = {
        "list": TensorProto(dtype=1, float_val=[0.5]),
        "double": TensorProto(dtype=2, double_val=[0.25]),
        "float bytes": TensorProto(dtype=1, tensor_content=struct.pack("<f", 0.5)),
        "double bytes": TensorProto(dtype=2, tensor_content=struct.pack("<d", 0.25)),
        "text": TensorProto(dtype=7, string_val=[b"hello"]),
        "several": TensorProto(dtype=1, float_val=[1.0, 2.0]),
    }
    values = [Summary.Value(tag=tag, tensor=tensor) for tag, tensor in tensors.items()]
    file.write_bytes(record(Event(step=1, summary=Summary(value=values)).SerializeToString()))
    assert read(file.parent).series == {
        "list": {1: 0.5}, "double": {1: 0.25}, "float bytes": {1: 0.5}, "double bytes": {1: 0.25},
    }  # fmt: skip


class TestDamage:
    """F30: what is whole is read, the rest is noted, nothing is raised."""

    def test_f30_a_torn_tail_waits(self, file: Path) -> None:
        whole = points(1, 3)
        file.write_bytes(whole[:-5])
        events = read(file.parent)
        assert list(events.series["loss"]) == [1, 2]
        file.write_bytes(whole)
        events.poll()
        assert list(events.series["loss"]) == [1, 2, 3]

    @pytest.mark.parametrize("torn", [0, 1, 8, 11, 12, 20])
    def test_no_cut_is_an_error(self, file: Path, torn: int) -> None:
        file.write_bytes(points(1, 2) + point(3, 1.0)[:torn])
        assert list(read(file.parent).series["loss"]) == [1, 2]

    def test_f30_a_flipped_bit_costs_one_point_at_most(self, file: Path) -> None:
        whole = points(1, 9)
        size = len(whole) // 9
        for position in range(4 * size, 5 * size):
            damaged = bytearray(whole)
            damaged[position] ^= 0x10
            file.write_bytes(bytes(damaged))
            events = read(file.parent)
            assert sorted(events.series["loss"]) == [1, 2, 3, 4, 6, 7, 8, 9]
            assert "left out" in events.notes[file.name]

    def test_zeros_at_the_end_are_noted(self, file: Path) -> None:
        file.write_bytes(points(1, 3) + b"\0" * 500)
        events = read(file.parent)
        assert list(events.series["loss"]) == [1, 2, 3]
        assert events.notes

    @pytest.mark.parametrize("content", [b"", b"\0", b"hello", b"\xff" * 1000])
    def test_rubbish_is_no_curve(self, file: Path, content: bytes) -> None:
        file.write_bytes(content)
        assert read(file.parent).series == {}

    def test_a_whole_record_that_is_no_event_is_noted(self, file: Path) -> None:
        file.write_bytes(record(b"\xff\xff\xff") + point(1, 1.0))
        events = read(file.parent)
        assert events.series == {"loss": {1: 1.0}}
        assert "no TensorBoard event" in events.notes[file.name]

    def test_a_number_that_is_not_finite_is_noted(self, file: Path) -> None:
        file.write_bytes(point(1, float("nan")) + point(2, 1.0))
        events = read(file.parent)
        assert events.series == {"loss": {2: 1.0}}
        assert events.notes[file.name] == "loss was not finite at step 1"

    def test_a_file_that_cannot_be_read_is_noted(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file.write_bytes(points(1, 3))

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
        assert read(file.parent).notes == {file.name: "it cannot be read (Permission denied)"}

    def test_a_missing_folder_has_no_curves(self, tmp_path: Path) -> None:
        assert read(tmp_path / "missing").series == {}
