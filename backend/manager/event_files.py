"""Read TensorBoard event files incrementally, as far as they are intact.

Event files come from anywhere and may be cut or damaged; whatever is readable is read, and the rest is noted.
TensorBoard's message definitions are imported with the first file.

Format: TFRecord, https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details – length
(8 bytes, little endian), its masked CRC-32C (4), the message, its masked CRC-32C (4).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

_HEADER_BYTES = 12
_FOOTER_BYTES = 4
_LONGEST_RECORD_BYTES = 2**26

Points = dict[int, float]


@dataclass
class EventFolder:
    """The scalars of every event file under ``folder``, by tag and step. ``poll`` reads what is new.

    Where two files have a point for the same tag and step, the file with the later name wins, as it is the one
    that a resumed run wrote. ``notes`` says, file by file, what could not be read.
    """

    folder: Path
    series: dict[str, Points] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    _offsets: dict[Path, int] = field(default_factory=dict)

    def poll(self) -> int:
        """Read what was written since the last poll; the number of new points. Raises nothing."""
        files = sorted(path for path in self.folder.rglob("*tfevents*") if path.is_file())
        return sum(self._read(path) for path in files)

    def _read(self, path: Path) -> int:
        offset = self._offsets.get(path, 0)
        try:
            with path.open("rb") as stream:
                stream.seek(offset)
                data = stream.read()
        except OSError as error:
            self.notes[path.name] = f"it cannot be read ({error.strerror})"
            return 0
        added = 0
        for message, end in self._messages(path, data):
            self._offsets[path] = offset + end
            added += self._take(path, message)
        return added

    def _messages(self, path: Path, data: bytes) -> Iterator[tuple[bytes, int]]:
        """Each whole message with the offset behind it; damaged stretches are skipped and noted."""
        at = 0
        while at + _HEADER_BYTES <= len(data):
            length = _length_at(data, at)
            if length is None:
                self.notes[path.name] = "a part of it is damaged and was left out"
                at = _next_header(data, at + 1)
                continue
            end = at + _HEADER_BYTES + length + _FOOTER_BYTES
            if end > len(data):
                return  # still being written, or torn at the end
            message = data[at + _HEADER_BYTES : end - _FOOTER_BYTES]
            if masked_crc32c(message) == struct.unpack_from("<I", data, end - _FOOTER_BYTES)[0]:
                yield message, end
            else:
                self.notes[path.name] = "a part of it is damaged and was left out"
            at = end

    def _take(self, path: Path, message: bytes) -> int:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # noqa: PLC0415
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415

        try:
            event = Event.FromString(message)
        except DecodeError:
            self.notes[path.name] = "a part of it is no TensorBoard event"
            return 0
        added = 0
        for value in event.summary.value:
            number = _scalar(value)
            if number is not None and math.isfinite(number):
                self.series.setdefault(value.tag, {})[int(event.step)] = number
                added += 1
            elif number is not None:
                self.notes[path.name] = f"{value.tag} was not finite at step {event.step}"
        return added


def _scalar(value: object) -> float | None:
    """The number in a summary value, old style or tensor style; None when it is none."""
    if value.HasField("simple_value"):  # type: ignore[attr-defined]
        return float(value.simple_value)  # type: ignore[attr-defined]
    tensor = value.tensor  # type: ignore[attr-defined]
    for numbers in (tensor.float_val, tensor.double_val):
        if len(numbers) == 1:
            return float(numbers[0])
    formats = {(1, 4): "<f", (2, 8): "<d"}  # (DT_FLOAT, bytes), (DT_DOUBLE, bytes)
    layout = formats.get((tensor.dtype, len(tensor.tensor_content)))
    return float(struct.unpack(layout, tensor.tensor_content)[0]) if layout else None


def _length_at(data: bytes, at: int) -> int | None:
    """The length that a whole header at ``at`` announces; None when there is no such header."""
    length, checksum = struct.unpack_from("<QI", data, at)
    if length > _LONGEST_RECORD_BYTES or masked_crc32c(data[at : at + 8]) != checksum:
        return None
    return int(length)


def _next_header(data: bytes, at: int) -> int:
    """Return where the next intact header begins, at ``at`` or later; the end of the data if there is none."""
    while True:
        zeros = data.find(b"\0\0\0\0", at + 4)  # the upper half of a length below 2**32
        if zeros < 0 or zeros - 4 + _HEADER_BYTES > len(data):
            return len(data)
        at = zeros - 4
        if _length_at(data, at) is not None:
            return at
        at += 1


def masked_crc32c(data: bytes) -> int:
    """The masked CRC-32C (Castagnoli) of TFRecord."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _crc_table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        return value

    return tuple(entry(value) for value in range(256))
