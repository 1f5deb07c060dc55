import io

import pytest

from backend.data.records import Record, Rejected, Skipped
from backend.data.tables import read_table
from backend.errors import DataError


def read_all(text, *, delimiter=None, limit=1_000_000):
    return list(read_table(io.StringIO(text, newline=""), text[:65_536], "t.csv", limit, delimiter=delimiter))


PLAIN = f"x\t{'y' * 97}\n"  # 700 of them are more than what is looked at first


def values(items):
    return [tuple(item.cells.values()) for item in items]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_delimiter_is_found(delimiter):
    lines = [("prompt", "completion"), ("What, now?", "a"), ("b", "c;d" if delimiter != ";" else "c,d")]
    text = "\n".join(delimiter.join(f'"{cell}"' for cell in line) for line in lines)
    assert values(read_all(text)) == lines[1:]


def test_the_delimiter_given_beats_the_one_found():
    assert read_all("a,b:c\n1,2:3\n", delimiter=":") == [Record("t.csv:2", {"a,b": "1,2", "c": "3"})]


@pytest.mark.parametrize("mark", [";", "|", "\t", "^"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_line_of_excel_above_the_header_names_the_delimiter(mark, ending):
    told, *rows = read_all(ending.join([f"sep={mark}", f"a,x{mark}b", f"1,5{mark}2", ""]))
    assert told == Skipped("t.csv:1", f"it names the delimiter {mark!r}")
    assert rows == [Record("t.csv:3", {"a,x": "1,5", "b": "2"})]


def test_a_line_of_excel_alone_is_no_table():
    with pytest.raises(DataError, match="no header line"):
        read_all("sep=;\n")


@pytest.mark.parametrize(
    "above", ["Questions 2026,,\n", ",,\nQuestions 2026,,\n,,\n", '"Questions\n2026",,\n\n']
)
def test_a_title_above_the_header_is_named_and_passed_over(above):
    items = read_all(f"{above}question,answer,date\nHow?,So.,1.1.\n")
    (told,) = (item.reason for item in items if isinstance(item, Skipped))
    assert told.startswith("a title, 'Questions")
    assert values(item for item in items if isinstance(item, Record)) == [("How?", "So.", "1.1.")]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("text,\nhello,x\n", {"text", "column 2"}),  # a name, and a column without one
        (",text\n0,hello\n", {"column 1", "text"}),  # as pandas writes its index
        ("Title,\nhello,\n", {"Title", "column 2"}),  # no two names below it
    ],
)
def test_a_header_with_one_name_is_no_title(text, columns):
    (record,) = read_all(text)
    assert record.cells.keys() == columns


def test_a_title_without_its_delimiters_is_hinted_at():
    assert "if a title stands above the names" in read_all("FAQ\nFrage,Antwort\nHow?,So.\n")[0].reason


def test_places_are_lines_of_the_file():
    items = read_all('a,b\n1,"two\nlines"\n\n3,4\n')
    assert [item.place for item in items] == ["t.csv:2", "t.csv:5"]
    assert values(items) == [("1", "two\nlines"), ("3", "4")]


def test_rows_of_the_wrong_width_are_rejected_alone():
    short, good, long = read_all("a,b\n1\n2,3\n4,5,6\n")
    assert short == Rejected("t.csv:2", "the row has 1 field, but the header names 2", "1")
    assert good.cells == {"a": "2", "b": "3"}
    assert "has 3 fields" in long.reason


def test_a_stray_quotation_mark_costs_only_its_own_row():
    text = "a,b\n" + '"x","y"\n' * 3 + '1,"open\n' + '"x","y"\n' * 3
    items = read_all(text)
    assert [type(item).__name__ for item in items] == ["Record"] * 3 + ["Rejected"] + ["Record"] * 3
    assert items[3].place == "t.csv:5"
    assert "a quotation mark" in items[3].reason


ANSWER = "Here is the list:\n" + "\n".join(f"item {number},{number}.00" for number in range(30))


@pytest.mark.parametrize("header", ["prompt,completion\r\n", '"prompt","completion"\n'])
@pytest.mark.parametrize("cell", [ANSWER, ANSWER.partition("\n")[2], ANSWER.replace(",", ";")])
def test_a_cell_in_quotation_marks_that_close_is_one_cell_whatever_it_looks_like(header, cell):
    text = header + "q1,a1\n" * 60 + f'list,"{cell}"\n' + "q2,a2\n" * 60
    rows = values([item for item in read_all(text) if isinstance(item, Record)])
    assert rows == [("q1", "a1")] * 60 + [("list", cell)] + [("q2", "a2")] * 60


def test_a_cell_that_may_be_rows_joined_by_two_stray_marks_is_pointed_out():
    text = "a,b\n" + '"x","y"\n' + '1,"open\n' + "x,y\n" * 30 + '1,open"\n' + '"x","y"\n'
    first, told, joined, last = read_all(text)
    assert told == Skipped("t.csv:3", "read as one row: 32 lines in quotation marks that look like rows")
    assert joined.cells["b"].count("\n") == 31
    assert first.cells == last.cells == {"a": "x", "b": "y"}


@pytest.mark.parametrize("between", ["", "\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_title_without_its_delimiters_is_passed_over_above_known_names(between, delimiter):
    lines = ["prompt,completion", "q1,a1", "q2,a2"]
    text = "Table of foods 2024\n" + between + "\n".join(lines).replace(",", delimiter)
    told, *rows = read_all(text)
    assert told == Skipped("t.csv:1", "a title, 'Table of foods 2024'")
    assert values(rows) == [("q1", "a1"), ("q2", "a2")]


@pytest.mark.parametrize("name", ["question", "Frage", "text"])
def test_one_column_with_commas_in_it_has_no_title(name):
    items = read_all(f"{name}\nHow, when?\nWhat, now?\n")
    assert not [item for item in items if isinstance(item, Skipped)]


def test_quotation_marks_in_a_table_without_quoting_are_text():
    assert values(read_all('a\tb\n5" pipe\t"so called" pipe\nx\ty\n')) == [
        ('5" pipe', '"so called" pipe'),
        ("x", "y"),
    ]


def test_a_table_with_tabs_that_shows_no_quoting_has_none():
    rows = "a\tb\n" + PLAIN * 700 + '1\t"AGENT" K\n2\t"open\n3\tclose"\n4\t"word"\n'
    assert values(read_all(rows))[-4:] == [
        ("1", '"AGENT" K'),
        ("2", '"open'),
        ("3", 'close"'),
        ("4", '"word"'),
    ]


def test_a_quoted_field_far_behind_unquoted_rows_is_not_taken_for_plain_text():
    rows = "a\tb\n" + PLAIN * 700 + '1\t"say ""hi"""\n'
    last = read_all(rows)[-1]
    assert last.place == "t.csv:702"
    assert "a field is quoted" in last.reason


def test_stray_quotation_marks_join_no_rows_of_a_table_with_tabs():
    items = read_all('a\tb\n"x"\t"y"\n1\t"open\n2\tclose"\n')
    assert [item.place for item in items if isinstance(item, Rejected)] == ["t.csv:3"]
    assert values(items[::2]) == [("x", "y"), ("2", 'close"')]


def test_cells_with_tabs_and_lines_are_whole_where_the_column_names_are_quoted():
    assert values(read_all('"a"\t"b"\n"x"\t"1\n2\t3\n4\t5"\n')) == [("x", "1\n2\t3\n4\t5")]


def test_a_line_over_the_limit_is_rejected_alone():
    items = read_all("a,b\n1,2\n" + "x" * 300 + "\n3,4\n", limit=100)
    assert [type(item).__name__ for item in items] == ["Record", "Rejected", "Record"]
    assert "more than 100 characters" in items[1].reason


def test_each_reader_keeps_a_limit_of_its_own():
    text = 'a,b\n1,"' + "x" * 300 + '"\n'
    generous = read_table(io.StringIO(text, newline=""), text, "t.csv", 1000)
    strict = read_table(io.StringIO(text, newline=""), text, "t.csv", 100)
    rejected = next(strict)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "the line has more than 100 characters"
    assert next(generous) == Record("t.csv:2", {"a": "1", "b": "x" * 300})


def test_a_row_over_many_lines_keeps_to_the_limit_too():
    lines = [f"line {number}" for number in range(100)]
    text = 'a,b\n1,"' + "\n".join(lines) + '"\n3,4\n'
    assert [type(item) for item in read_all(text, limit=1000)] == [Record, Record]
    cut = read_all(text, limit=300)
    assert cut[-1] == Record("t.csv:102", {"a": "3", "b": "4"})
    assert {type(item) for item in cut[:-1]} == {Rejected}


def test_a_quote_that_never_closes_stops_at_the_limit():
    items = read_all('a,b\n"1","2"\n1,"open\n' + "x,y\n" * 999, limit=200)
    assert sum(isinstance(item, Record) for item in items) == 1000
    assert sum(isinstance(item, Rejected) for item in items) == 1


def test_columns_without_a_name_are_called_by_number():
    assert read_all(",b\n1,2\n")[0].cells == {"column 1": "1", "b": "2"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a,a\n1,2\n", "names the column 'a' twice"),
        ("\n\n", "has no header line"),
        ('"a,b\n1,2\n', "header line"),
    ],
)
def test_a_bad_header_is_an_error(text, what):
    with pytest.raises(DataError, match=what) as caught:
        read_all(text)
    assert caught.value.code == "bad-header"


def test_a_byte_that_could_not_be_decoded_rejects_its_row():
    bad, good = read_all("a,b\n1,\udce9\n3,4\n")
    assert "0xE9" in bad.reason
    assert "\\udce9" in bad.raw
    assert good.cells == {"a": "3", "b": "4"}


def test_a_single_column_is_a_table():
    assert values(read_all('text\n"one, two"\nthree\n')) == [("one, two",), ("three",)]


def test_a_line_cut_off_by_the_end_of_what_is_looked_at_decides_nothing():
    rows = "a,b\n" + f"x,{'y' * 97}\n" * 655 + f'x,"{"y" * 40}, z"\n'
    assert values(read_all(rows))[-1] == ("x", f"{'y' * 40}, z")
