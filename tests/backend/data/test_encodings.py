import io

import pytest

from backend.data.encodings import check_encoding, detect_encoding, is_utf8, open_text
from backend.errors import DataError


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xef\xbb\xbfabc", "utf-8-sig"),
        ("abc".encode("utf-16"), "utf-16"),
        (b"\xfe\xff\x00a", "utf-16"),
        ("abc".encode("utf-32"), "utf-32"),
        ('{"text": "x"}'.encode("utf-16-le"), "utf-16-le"),
        ('{"text": "x"}'.encode("utf-16-be"), "utf-16-be"),
        (b"plain", "utf-8"),
        (b"nul\0byte in text", "utf-8"),
        (b"", "utf-8"),
    ],
)
def test_detect_encoding(data, name):
    assert detect_encoding(data) == name


def test_open_text_changes_no_line_ending_and_marks_foreign_bytes():
    with open_text(io.BufferedReader(io.BytesIO(b"a\r\nb\r\xe9\n")), "utf-8") as text:
        assert list(text) == ["a\r\n", "b\r", "\udce9\n"]


def test_open_text_takes_the_encoding_given():
    with open_text(io.BufferedReader(io.BytesIO("ü".encode("cp1252"))), "cp1252") as text:
        assert text.read() == "ü"


@pytest.mark.parametrize("name", ["klingon", "hex", "a\0b"])
def test_check_encoding_refuses_what_is_no_text_encoding(name):
    with pytest.raises(DataError) as caught:
        check_encoding(name)
    assert caught.value.code == "unknown-encoding"


def test_check_encoding_gives_the_name_back():
    assert check_encoding("latin-1") == "latin-1"


def test_the_head_of_a_file_is_utf8_though_it_cuts_a_character():
    assert is_utf8("grün".encode()[:-2])
    assert is_utf8(b"")
    assert not is_utf8("grün".encode("cp1252"))
