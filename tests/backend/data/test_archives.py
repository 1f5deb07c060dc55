import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from backend.data import archives
from backend.data.archives import (
    Allowance,
    compression,
    decompressed,
    guarded,
    inner_name,
    is_tar,
    is_zip,
    seekable,
)
from backend.data.records import Skipped
from backend.errors import DataError


def buffered(data):
    return io.BufferedReader(io.BytesIO(data))


def zip_of(members, **more):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return raw.getvalue()


def tar_of(members):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return raw.getvalue()


def read_members(members):
    return [each if isinstance(each, Skipped) else (each[0], each[1].read()) for each in members]


@pytest.mark.parametrize(
    ("pack", "kind"), [(gzip.compress, "gzip"), (bz2.compress, "bz2"), (lzma.compress, "xz")]
)
def test_compression_is_known_by_its_first_bytes_and_undone(pack, kind):
    data = pack(b"hello\n" * 1000)
    assert compression(data) == kind
    with decompressed(buffered(data), kind, "f", Allowance(len(data))) as stream:
        assert stream.read() == b"hello\n" * 1000
    assert compression(b"hello") is None


@pytest.mark.parametrize(
    ("pack", "kind"), [(gzip.compress, "gzip"), (bz2.compress, "bz2"), (lzma.compress, "xz")]
)
def test_a_cut_file_is_an_error_and_not_a_short_one(pack, kind):
    data = pack(b"hello\n" * 1000)[:-12]
    with (
        pytest.raises(DataError, match="f is damaged or incomplete") as caught,
        decompressed(buffered(data), kind, "f", Allowance(len(data))) as stream,
    ):
        stream.read()
    assert caught.value.code == "damaged-archive"


def test_a_decompression_bomb_is_stopped(monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 1_000_000)
    data = gzip.compress(b"\0" * 5_000_000)
    stream = decompressed(buffered(data), "gzip", "bomb.gz", Allowance(len(data)))
    with stream, pytest.raises(DataError, match=r"bomb\.gz unpacks to more than") as caught:
        list(iter(lambda: stream.read(100_000), b""))
    assert caught.value.code == "archive-too-large"


def test_members_share_one_allowance(monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 1_000)
    data = zip_of({"a.txt": b"a" * 600, "b.txt": b"b" * 600})
    allowance = Allowance(1)
    with pytest.raises(DataError, match="unpacks to more than 1,000 bytes"):
        read_members(archives.zip_members(buffered(data), "z.zip", allowance))


def test_archives_are_known_by_their_first_bytes():
    assert is_zip(zip_of({"a": b""}))
    assert is_tar(tar_of({"a": b"x"}))
    assert not is_zip(b"hello")
    assert not is_tar(b"hello" * 200)


@pytest.mark.parametrize(
    ("make", "members"), [(zip_of, archives.zip_members), (tar_of, archives.tar_members)]
)
def test_members_come_in_order_and_junk_is_named(make, members):
    data = make({"b.csv": b"1", "__MACOSX/b.csv": b"2", ".hidden": b"3", "x/a.csv": b"4"})
    found = read_members(members(buffered(data), "z", Allowance(len(data))))
    assert found == [
        ("z/b.csv", b"1"),
        Skipped("z/__MACOSX/b.csv", "a hidden or system file"),
        Skipped("z/.hidden", "a hidden or system file"),
        ("z/x/a.csv", b"4"),
    ]


@pytest.mark.parametrize(
    "name", ["../evil.csv", "/etc/evil.csv", "a/../../evil.csv", "..\\evil.csv", "C:\\evil.csv"]
)
@pytest.mark.parametrize(
    ("make", "members"), [(zip_of, archives.zip_members), (tar_of, archives.tar_members)]
)
def test_names_that_point_outside_refuse_the_archive(make, members, name):
    data = make({name: b"1"})
    with pytest.raises(DataError, match="points outside of the archive") as caught:
        read_members(members(buffered(data), "z", Allowance(len(data))))
    assert caught.value.code == "unsafe-archive"


def test_links_and_devices_are_left_aside():
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for kind, name in ((tarfile.SYMTYPE, "link.csv"), (tarfile.CHRTYPE, "device.csv")):
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "/etc/passwd"
            archive.addfile(member)
    found = read_members(archives.tar_members(buffered(raw.getvalue()), "t.tar", Allowance(1)))
    assert [item.reason for item in found] == ["a link or device, not a file"] * 2
    link = zipfile.ZipInfo("link.csv")
    link.external_attr = 0o120777 << 16
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    found = read_members(archives.zip_members(buffered(raw.getvalue()), "z.zip", Allowance(1)))
    assert found == [Skipped("z.zip/link.csv", "a link, not a file")]


@pytest.mark.parametrize(
    ("make", "members"), [(zip_of, archives.zip_members), (tar_of, archives.tar_members)]
)
def test_too_many_members_are_refused(monkeypatch, make, members):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    data = make({f"{number}.csv": b"1" for number in range(4)})
    with pytest.raises(DataError, match="more than 3 files"):
        read_members(members(buffered(data), "z", Allowance(len(data))))


@pytest.mark.parametrize("cut", [30, 60, 200])
def test_a_damaged_zip_is_an_error(cut):
    data = zip_of({"a.csv": bytes(range(256)) * 4})
    with pytest.raises(DataError, match="damaged"):
        read_members(archives.zip_members(buffered(data[:-cut]), "z.zip", Allowance(len(data))))


def test_an_encrypted_zip_says_so():
    data = bytearray(zip_of({"a.csv": b"1"}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(DataError, match="encrypted") as caught:
        read_members(archives.zip_members(buffered(bytes(data)), "z.zip", Allowance(len(data))))
    assert caught.value.code == "encrypted-archive"


def test_seekable_gives_the_stream_itself_or_a_copy():
    plain = buffered(b"abc")
    with seekable(plain) as same:
        assert same is plain
    with seekable(guarded(io.BytesIO(b"abc"), "f", Allowance(3))) as copy:
        assert copy.read() == b"abc"
        copy.seek(1)
        assert copy.read() == b"bc"


@pytest.mark.parametrize(
    ("name", "kind", "inner"),
    [
        ("a.csv.gz", "gzip", "a.csv"),
        ("a.tgz", "gzip", "a.tar"),
        ("a.jsonl.zst", "zstd", "a.jsonl"),
        ("a", "xz", "a"),
    ],
)
def test_inner_name(name, kind, inner):
    assert inner_name(name, kind) == inner


def unpacked(data, kind):
    with decompressed(io.BufferedReader(io.BytesIO(data)), kind, "f", Allowance(len(data))) as stream:
        return stream.read()


@pytest.mark.parametrize(("pack", "kind"), [(bz2.compress, "bz2"), (lzma.compress, "xz")])
@pytest.mark.parametrize("behind", [b"junk", b"\0" * 70_000 + b"junk", b"B", b"\xfd7zXZ"])
def test_what_follows_a_stream_and_is_none_is_damage(pack, kind, behind):
    with pytest.raises(DataError, match="f is damaged or incomplete"):
        unpacked(pack(b"a\n" * 1000) + behind, kind)


@pytest.mark.parametrize(("pack", "kind"), [(bz2.compress, "bz2"), (lzma.compress, "xz")])
@pytest.mark.parametrize("stream", [0, 3, 9])
def test_a_flipped_bit_in_any_of_many_streams_is_damage(pack, kind, stream):
    parts = [pack(f"row {number}\n".encode()) for number in range(10)]
    parts[stream] = bytes([parts[stream][0] ^ 1]) + parts[stream][1:]
    with pytest.raises(DataError, match="f is damaged or incomplete"):
        unpacked(b"".join(parts), kind)


@pytest.mark.parametrize(("pack", "kind"), [(bz2.compress, "bz2"), (lzma.compress, "xz")])
def test_many_streams_and_zeros_behind_them_are_read_whole(pack, kind):
    whole = [f"row {number}\n".encode() * 20_000 for number in range(3)]
    data = b"\0\0\0\0".join(map(pack, [*whole, b""])) + b"\0" * 8
    assert unpacked(data, kind) == b"".join(whole)
