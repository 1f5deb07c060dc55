"""Append-only lines and their incremental reader: backend/utils/jsonl_utils.py."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.utils.jsonl_utils import (
    JsonlWriter,
    TailPosition,
    finite_json,
    keep_lines,
    last_records,
    newest_with,
    read_jsonl_tail,
)

values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)


def write(path: Path, *records: dict[str, object]) -> None:
    with JsonlWriter(path) as writer:
        for record in records:
            writer.append(record)


class TestWriter:
    def test_a_line_is_there_at_once(self, tmp_path: Path) -> None:
        with JsonlWriter(tmp_path / "a") as writer:
            writer.append({"step": 1, "text": "ü"})
            assert (tmp_path / "a").read_text("utf-8") == '{"step":1,"text":"ü"}\n'
            writer.sync()

    @pytest.mark.parametrize("torn", [b'{"step":2', b"\0\0\0\0", b"{"])
    def test_opening_removes_a_torn_last_line(self, tmp_path: Path, torn: bytes) -> None:
        (tmp_path / "a").write_bytes(b'{"step":1}\n' + torn)
        write(tmp_path / "a", {"step": 3})
        assert (tmp_path / "a").read_bytes() == b'{"step":1}\n{"step":3}\n'

    def test_a_torn_line_longer_than_a_block_goes_too(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b'{"step":1}\n' + b"x" * 200_000)
        write(tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == b'{"step":1}\n'

    def test_numbers_that_json_lacks_become_words(self, tmp_path: Path) -> None:
        write(tmp_path / "a", {"loss": math.nan, "norms": [math.inf, -math.inf], "fine": 1.5})
        text = (tmp_path / "a").read_text()
        assert json.loads(text) == {"loss": "nan", "norms": ["inf", "-inf"], "fine": 1.5}

    def test_keeping_the_last_lines_bounds_the_file(self, tmp_path: Path) -> None:
        counts = []
        with JsonlWriter(tmp_path / "a", keep_last=3) as writer:
            for step in range(20):
                writer.append({"step": step, "row": "odd\u2028line\x85breaks"})
                steps = [record["step"] for record in read_jsonl_tail(tmp_path / "a").records]
                assert steps == list(range(step + 1 - len(steps), step + 1))
                counts.append(len(steps))
        assert counts[:9] == [1, 2, 3, 4, 5, 3, 4, 5, 3]

    def test_reopening_a_bounded_file_goes_on_counting(self, tmp_path: Path) -> None:
        for step in range(20):
            with JsonlWriter(tmp_path / "a", keep_last=2) as writer:
                writer.append({"step": step})
        assert len(read_jsonl_tail(tmp_path / "a").records) in {2, 3}

    def test_closing_twice_is_harmless_and_closed_is_closed(self, tmp_path: Path) -> None:
        writer = JsonlWriter(tmp_path / "a")
        writer.close()
        writer.close()
        with pytest.raises(OSError, match="descriptor"):
            writer.append({})

    def test_a_line_that_does_not_fit_leaves_no_part_of_itself(self, tmp_path: Path) -> None:
        program = (
            "import sys, pathlib, signal\n"
            "from backend.utils.jsonl_utils import JsonlWriter\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "writer = JsonlWriter(pathlib.Path(sys.argv[1]))\n"
            "writer.append({'step': 1})\n"
            "try:\n"
            "    writer.append({'step': 2, 'text': 'x' * 200})\n"
            "except OSError:\n"
            "    sys.exit(7)\n"
        )
        ended = subprocess.run(
            [sys.executable, "-B", "-c", program, str(tmp_path / "a")],  # -B: a cut .pyc breaks all others
            cwd=Path(__file__).parents[3],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
            check=False,
        )
        assert ended.returncode == 7
        assert (tmp_path / "a").read_bytes() == b'{"step":1}\n'


class TestTail:
    def test_only_what_is_new_comes(self, tmp_path: Path) -> None:
        write(tmp_path / "a", {"step": 1}, {"step": 2})
        first = read_jsonl_tail(tmp_path / "a")
        write(tmp_path / "a", {"step": 3})
        second = read_jsonl_tail(tmp_path / "a", first.position)
        assert [record["step"] for record in first.records] == [1, 2]
        assert [record["step"] for record in second.records] == [3]
        assert not second.restarted
        assert read_jsonl_tail(tmp_path / "a", second.position).records == []

    def test_a_torn_last_line_waits(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b'{"step":1}\n{"st')
        first = read_jsonl_tail(tmp_path / "a")
        with (tmp_path / "a").open("ab") as stream:
            stream.write(b'ep":2}\n')
        assert [record["step"] for record in first.records] == [1]
        assert read_jsonl_tail(tmp_path / "a", first.position).records == [{"step": 2}]

    def test_a_file_that_shrank_is_read_anew(self, tmp_path: Path) -> None:
        write(tmp_path / "a", {"step": 1}, {"step": 2})
        position = read_jsonl_tail(tmp_path / "a").position
        (tmp_path / "a").write_bytes(b'{"step":9}\n')
        tail = read_jsonl_tail(tmp_path / "a", position)
        assert tail.restarted
        assert tail.records == [{"step": 9}]

    def test_a_file_replaced_by_a_longer_one_is_read_anew(self, tmp_path: Path) -> None:
        write(tmp_path / "a", {"step": 1}, {"step": 2})
        position = read_jsonl_tail(tmp_path / "a").position
        keep_lines(tmp_path / "a", lambda record: record["step"] == 1)
        write(tmp_path / "a", {"step": 2}, {"step": 3}, {"step": 4})
        tail = read_jsonl_tail(tmp_path / "a", position)
        assert tail.restarted
        assert [record["step"] for record in tail.records] == [1, 2, 3, 4]

    def test_a_file_rewritten_in_place_is_read_anew(self, tmp_path: Path) -> None:
        write(tmp_path / "a", {"step": 1})
        position = read_jsonl_tail(tmp_path / "a").position
        (tmp_path / "a").write_bytes(b'{"step":7}\n{"step":8}\n')
        assert [record["step"] for record in read_jsonl_tail(tmp_path / "a", position).records] == [7, 8]

    def test_a_short_file_that_replaces_it_and_grows_is_restarted_once(self, tmp_path: Path) -> None:
        path = tmp_path / "m.jsonl"
        write(path, *[{"step": n} for n in range(20)])
        position = read_jsonl_tail(path).position
        path.write_text('{"a":1}\n')
        anew = read_jsonl_tail(path, position)
        assert (anew.records, anew.restarted) == ([{"a": 1}], True)
        with path.open("a") as stream:
            stream.write('{"a":2}\n')
        more = read_jsonl_tail(path, anew.position)
        assert (more.records, more.restarted) == ([{"a": 2}], False)

    def test_a_missing_file_is_empty_and_a_vanished_one_restarts(self, tmp_path: Path) -> None:
        assert read_jsonl_tail(tmp_path / "a").records == []
        tail = read_jsonl_tail(tmp_path / "a", TailPosition(offset=5, inode=1))
        assert tail.restarted
        assert tail.position == TailPosition()

    def test_damaged_lines_are_counted_and_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b'{"step":1}\nnonsense\n[1]\n\xff\n{"loss":NaN}\n\n{"step":2}\n')
        tail = read_jsonl_tail(tmp_path / "a")
        assert [record["step"] for record in tail.records] == [1, 2]
        assert tail.damaged == 4

    @pytest.mark.parametrize(
        ("damage", "lines"),
        [
            (b'{"step":7},{"step":8}', 1),
            (b'{"step":7},0', 1),
            (b'{"rows":[{}\n{}]}', 2),
            (b'{"rows":[{}\n{}]}\n{"step":7},{"step":8}', 3),
            (b'{"text":"\n"}', 2),
            (b"0", 1),
        ],
    )
    def test_damage_that_looks_sound_beside_its_neighbours_is_damage(
        self, tmp_path: Path, damage: bytes, lines: int
    ) -> None:
        for data in (
            b'{"step":1}\n' + damage + b'\n{"step":2}\n',
            b'{"step":1}\n{"step":2}\n' + damage + b"\n",
        ):
            (tmp_path / "a").write_bytes(data)
            tail = read_jsonl_tail(tmp_path / "a")
            assert tail.records == [{"step": 1}, {"step": 2}]
            assert tail.damaged == lines

    @given(st.lists(st.integers(0, 10**6), max_size=20), st.lists(st.integers(0, 400), max_size=8))
    def test_however_the_bytes_arrive_each_line_is_read_once(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[int], cuts: list[int]
    ) -> None:
        path = tmp_path_factory.mktemp("tail") / "a"
        data = b"".join(b'{"step":%d}\n' % step for step in steps)
        edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        position, seen = TailPosition(), []
        for start, end in pairwise(edges):
            with path.open("ab") as stream:
                stream.write(data[start:end])
            tail = read_jsonl_tail(path, position)
            position = tail.position
            seen += [record["step"] for record in tail.records]
        assert seen == steps

    @given(st.lists(st.integers(0, 10**6), max_size=20), st.integers(1, 40))
    def test_in_pieces_it_reads_what_it_reads_at_once(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[int], limit: int
    ) -> None:
        path = tmp_path_factory.mktemp("tail") / "a"
        write(path, *({"step": step} for step in steps))
        position, seen = TailPosition(), []
        while (tail := read_jsonl_tail(path, position, limit_bytes=limit)).records:
            assert len(tail.records) <= 1 + limit // len('{"step":0}\n')
            position = tail.position
            seen += tail.records
        assert seen == read_jsonl_tail(path).records

    @given(st.lists(st.dictionaries(st.text(max_size=4), values, max_size=5), max_size=6))
    def test_its_faster_parser_reads_what_the_other_reads(
        self, tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]]
    ) -> None:
        path = tmp_path_factory.mktemp("tail") / "a"
        path.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in records))
        newest_first = list(last_records(path))
        assert repr(read_jsonl_tail(path).records) == repr(newest_first[::-1])


class TestWholeFile:
    def test_keeping_some_lines(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b'{"step":1}\nbroken\n{"step":2}\n{"step":3}\n{"st')
        keep_lines(tmp_path / "a", lambda record: record["step"] != 2)
        assert (tmp_path / "a").read_bytes() == b'{"step":1}\n{"step":3}\n'

    def test_a_file_that_keeps_everything_is_not_touched(self, tmp_path: Path) -> None:
        write(tmp_path / "a", {"step": 1})
        before = (tmp_path / "a").stat().st_ino
        keep_lines(tmp_path / "a", lambda record: True)
        assert (tmp_path / "a").stat().st_ino == before

    def test_a_missing_file_stays_missing(self, tmp_path: Path) -> None:
        keep_lines(tmp_path / "a", lambda record: True)
        assert not (tmp_path / "a").exists()

    def test_last_records_come_newest_first_from_whole_lines(self, tmp_path: Path) -> None:
        write(tmp_path / "a", *({"step": step} for step in range(100)))
        assert [record["step"] for record in last_records(tmp_path / "a", limit_bytes=40)] == [99, 98, 97]
        assert len(list(last_records(tmp_path / "a"))) == 100
        assert list(last_records(tmp_path / "missing")) == []

    def test_the_newest_with_each_key(self, tmp_path: Path) -> None:
        write(tmp_path / "a", {"loss": 3}, {"eval": 2}, {"loss": 2}, {"note": '"eval" and "loss"'})
        with (tmp_path / "a").open("a") as stream:
            stream.write('{"loss":"torn"')
        assert newest_with(tmp_path / "a", ("loss", "eval", "x")) == [{"loss": 2}, {"eval": 2}, {}]
        assert newest_with(tmp_path / "missing", ("loss",)) == [{}]

    @pytest.mark.parametrize(("lines_after", "found"), [(10, 1), (500, 1), (10_000, None)])
    def test_the_end_is_looked_at_then_some_more(
        self, tmp_path: Path, lines_after: int, found: int | None
    ) -> None:
        write(tmp_path / "a", {"eval": 1}, *[{"step": step} for step in range(lines_after)])
        steps, evaluated = newest_with(tmp_path / "a", ("step", "eval"))
        assert (steps["step"], evaluated.get("eval")) == (lines_after - 1, found)


def test_finite_json_keeps_what_json_has() -> None:
    value = {"a": [1, 2.5, True, None, "nan"], "b": (math.inf,)}
    assert finite_json(value) == {"a": [1, 2.5, True, None, "nan"], "b": ["inf"]}
