"""The end of a log, safe to show: backend/manager/log_view.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.manager.log_view import LONGEST_LINE, VIEW_BYTES, LogNews, LogTail, clean_lines


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "train.log"


def add(log: Path, data: bytes) -> None:
    with log.open("ab") as stream:
        stream.write(data)


class TestFollowing:
    def test_each_line_comes_once(self, log: Path) -> None:
        tail = LogTail(log)
        assert tail.poll() == LogNews(())
        add(log, b"one\ntwo\nthr")
        assert tail.poll() == LogNews(("one", "two"))
        add(log, b"ee\n")
        assert tail.poll() == LogNews(("three",))
        assert tail.poll() == LogNews(())

    def test_the_first_look_at_a_long_log_shows_its_end(self, log: Path) -> None:
        add(log, b"".join(b"line %06d\n" % number for number in range(50_000)))
        news = LogTail(log).poll()
        assert news.lines[-1] == "line 049999"
        assert len(news.lines) <= VIEW_BYTES // 12
        assert not news.gap

    def test_f29_a_burst_is_cut_and_marked(self, log: Path) -> None:
        tail = LogTail(log)
        add(log, b"first\n")
        tail.poll()
        add(log, b"".join(b"line %06d\n" % number for number in range(50_000)))
        news = tail.poll()
        assert news.gap
        assert news.lines[-1] == "line 049999"
        add(log, b"next\n")
        assert tail.poll() == LogNews(("next",))

    def test_f29_a_log_that_was_emptied_is_marked_and_read_on(self, log: Path) -> None:
        tail = LogTail(log)
        add(log, b"a\nb\nc\n")
        tail.poll()
        log.write_bytes(b"d\n")
        assert tail.poll() == LogNews(("d",), gap=True)

    def test_f29_a_log_that_was_replaced_is_marked_and_read_on(self, log: Path) -> None:
        tail = LogTail(log)
        add(log, b"a\n")
        tail.poll()
        log.rename(log.with_suffix(".1"))
        assert tail.poll() == LogNews(())
        add(log, b"b\nc\nd\n")
        assert tail.poll() == LogNews(("b", "c", "d"), gap=True)

    def test_f28_ten_megabytes_in_one_line_are_bounded(self, log: Path) -> None:
        add(log, b"x" * 10_000_000)
        tail = LogTail(log)
        assert tail.poll().lines == ()
        add(log, b"\nnext\n")
        assert tail.poll().lines[-1] == "next"

    @pytest.mark.parametrize(("length", "cut"), [(LONGEST_LINE, False), (LONGEST_LINE + 1, True)])
    def test_f28_a_line_at_the_limit_comes_whole(self, length: int, cut: bool) -> None:
        (line,) = clean_lines(b"x" * length + b"\n")
        assert line.endswith("…") is cut

    @given(st.lists(st.binary(max_size=60), max_size=12))
    def test_f28_no_bytes_upset_it(
        self, tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
    ) -> None:
        log = tmp_path_factory.mktemp("log") / "log"
        tail = LogTail(log)
        seen: list[str] = []
        for piece in pieces:
            add(log, piece)
            seen += tail.poll().lines
        data = b"".join(pieces)
        assert seen == clean_lines(data[: data.rfind(b"\n") + 1])


class TestCleaning:
    @pytest.mark.parametrize(
        ("data", "lines"),
        [
            (b"plain\n", ["plain"]),
            (b"", []),
            (b"\n\n", ["", ""]),
            (b"gr\xc3\xbc\xc3\x9fe \xff\n", ["grüße \ufffd"]),
            (b"\x1b[31mred\x1b[0m \x1b]0;title\x07 text\n", ["red  text"]),
            (b" 10%\r 50%\r100%\n", ["100%"]),
            (b"windows\r\n", ["windows"]),
            (b"bell\x07 null\x00 tab\t end\n", ["bell null tab\t end"]),
        ],
    )
    def test_as_a_terminal_would_show_it(self, data: bytes, lines: list[str]) -> None:
        assert clean_lines(data) == lines

    def test_a_long_line_is_cut(self) -> None:
        (line,) = clean_lines(b"x" * 5000)
        assert len(line) == LONGEST_LINE + 2
        assert line.endswith(" …")
