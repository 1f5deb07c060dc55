"""Writers of one table of texts into every container that the readers know, made with independent libraries."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import tarfile
import tempfile
import zipfile

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq

MEMORY = next((folder for folder in ("/dev/shm",) if os.access(folder, os.W_OK)), None)  # noqa: S108


def scratch():
    """A folder for one example, in memory where there is a place for that: deleting from a disk takes longer."""
    return tempfile.TemporaryDirectory(dir=MEMORY)


def jsonl(rows, path):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8", newline="")
    return path


def json_array(rows, path):
    path.write_text(json.dumps(rows, indent=1), "utf-8", newline="")
    return path


def json_wrapped(rows, path):
    path.write_text(json.dumps({"version": "1.1", "data": rows}), "utf-8", newline="")
    return path


def json_concatenated(rows, path):
    path.write_text(
        "".join(json.dumps(row, indent=2, ensure_ascii=False) for row in rows), "utf-8", newline=""
    )
    return path


def table(rows, path, delimiter=","):
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return path


def parquet(rows, path):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def arrow_file(rows, path):
    made = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, made.schema) as writer:
        writer.write_table(made)
    return path


def arrow_stream(rows, path):
    made = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made)
    return path


def saved_dataset(rows, path):
    path.mkdir()
    arrow_stream(rows, path / "data-00000-of-00001.arrow")
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "0"}
    (path / "state.json").write_text(json.dumps(state), "utf-8")
    (path / "dataset_info.json").write_text("{}", "utf-8")
    return path


def workbook(rows, path):
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("rows")
    sheet.append(list(rows[0]))
    for row in rows:
        cells = [openpyxl.cell.WriteOnlyCell(sheet, value) for value in row.values()]
        for cell in cells:
            cell.data_type = "s"
        sheet.append(cells)
    book.save(path)
    return path


def gzipped(rows, path):
    path.write_bytes(gzip.compress(jsonl(rows, path).read_bytes()))
    return path


def bzipped(rows, path):
    path.write_bytes(bz2.compress(jsonl(rows, path).read_bytes()))
    return path


def xzipped(rows, path):
    path.write_bytes(lzma.compress(jsonl(rows, path).read_bytes()))
    return path


def zstandard(rows, path):
    raw = jsonl(rows, path).read_bytes()
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(raw)
    return path


def zipped(rows, path):
    plain = jsonl(rows, path).read_bytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.md", "about")
        archive.writestr("data/train.jsonl", plain)
        archive.writestr("__MACOSX/data/._train.jsonl", b"\0")
    return path


def tarred(rows, path):
    plain = jsonl(rows, path).read_bytes()
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("data/train.jsonl")
        member.size = len(plain)
        archive.addfile(member, io.BytesIO(plain))
    return path


def folder(rows, path):
    path.mkdir()
    half = (len(rows) + 1) // 2
    jsonl(rows[:half], path / "part-1.jsonl")
    jsonl(rows[half:] or rows[:0], path / "part-2.jsonl").exists()
    if not rows[half:]:
        (path / "part-2.jsonl").unlink()
    return path


CONTAINERS = {
    "rows.jsonl": jsonl,
    "rows.json": json_array,
    "wrapped.json": json_wrapped,
    "concatenated.json": json_concatenated,
    "rows.csv": table,
    "rows.tsv": lambda rows, path: table(rows, path, "\t"),
    "semicolons.csv": lambda rows, path: table(rows, path, ";"),
    "rows.parquet": parquet,
    "file.arrow": arrow_file,
    "stream.arrow": arrow_stream,
    "saved": saved_dataset,
    "rows.xlsx": workbook,
    "rows.jsonl.gz": gzipped,
    "rows.jsonl.bz2": bzipped,
    "rows.jsonl.xz": xzipped,
    "rows.jsonl.zst": zstandard,
    "rows.zip": zipped,
    "rows.tar.gz": tarred,
    "folder": folder,
}
