"""Data page: choose a file, see how it is read, check it and mend it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from app.commands import Answer, ask, show_failure
from app.fingerprints import fingerprint
from app.forms import change, draw, settings, typed
from app.kept_choice import called, choose_kept, is_kept
from app.mending import choose_fix, draw_mending
from app.phrases import without_marks
from app.studio import studio
from app.uploads import keep
from app.views.cards import draw_nothing_yet
from app.views.charts import draw_bars
from app.views.duplicate_list import draw_duplicates
from app.views.problem_list import draw_findings
from app.views.table import draw_table
from app.views.text import plain
from app.views.token_view import draw_legend, draw_row
from backend.utils.text_utils import counted

_TYPES = ["jsonl", "json", "csv", "tsv", "txt", "parquet", "arrow", "gz", "zst", "zip", "xlsx"]
_READING = ("data.encoding", "data.delimiter", "data.sheet", "data.whole_file")
_PARTS_A_ROW = 4
_PAGE_ROWS = 20
_CHARS_A_CELL = 2_000


def _choose_source() -> str:
    """Draw the choice of data (upload, kept file, path or hub id) and return its source, "" for none."""
    before = typed().get("data.train", "")
    words = "Choose other data" if before else "Choose your data"
    with st.expander(words, expanded=not before):
        upload = st.file_uploader("Upload a file", _TYPES, help="It is kept once, by its content.")
        if upload is not None and upload.file_id != st.session_state.get("uploaded"):
            st.session_state["uploaded"] = upload.file_id
            _take(str(keep(studio().root, upload.name, upload.getvalue())))
        left, right = st.columns(2)
        named = "" if is_kept(before) else before
        path = left.text_input(
            "Or a path or hub id",
            named,
            placeholder="rows.jsonl, a folder, hf://owner/name",
            key=f"source {before}",
        ).strip()
        with right:
            again = choose_kept(before)
    chosen = path if path != named else again or named
    if chosen != before:
        _take(chosen)
    return chosen


def _take(source: str) -> None:
    """Switch to another source and forget the options and columns of the one before."""
    change(
        {"data.train": source, "data.columns": {}, **{name: settings()[name].default for name in _READING}}
    )
    st.rerun()


def _reading_options() -> None:
    """Draw the reading options: encoding, delimiter, sheet, and one row per text file."""
    given = any(name in typed() for name in _READING)
    with st.expander("How the file is read", expanded=given):
        for name, column in zip(_READING, st.columns(len(_READING)), strict=True):
            with column:
                draw([name])


def _reading_words() -> list[str]:
    """Return the flags for how the source is read and which column holds which part."""
    known = typed()
    words = [word for name in _READING if name in known for word in _flag(name, known[name])]
    columns: Mapping[str, str] = known.get("data.columns", {})
    return [*words, *(word for part, column in columns.items() for word in (f"--columns.{part}", column))]


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    return [flag] if value is True else [f"{flag}={value}"]


def _read_as(found: Mapping[str, Any]) -> None:
    """Draw how the rows are read and why, and the form to read them another way."""
    if found["problem"]:
        problem = found["problem"]
        st.error(plain(f"{problem['message']} {problem['remedy']}", 600), icon=":material/error:")
    else:
        st.markdown(plain(found["read_as"][:1].upper() + found["read_as"][1:], 400) + ".")
    if not found["columns"]:
        return
    with st.expander("Read the columns another way", expanded=bool(found["problem"])):
        shapes = list(found["parts"])
        place = shapes.index(found["shape"]) if found["shape"] in shapes else 0
        shape = st.selectbox("The rows are", shapes, place, key=f"shape {found['shape']}")
        mapping: dict[str, str] = {}
        for number, part in enumerate(found["parts"][shape]):
            if number % _PARTS_A_ROW == 0:
                columns = st.columns(_PARTS_A_ROW)
            column = columns[number % _PARTS_A_ROW]
            known = found["roles"].get(part)
            choices = found["columns"]
            chosen = column.selectbox(
                part.capitalize(),
                choices,
                index=choices.index(known) if known in choices else None,
                key=f"part {shape} {part}",
            )
            mapping |= {part: chosen} if chosen else {}
        use, detect = st.columns(2)
        if use.button("Read them this way", disabled=not mapping, icon=":material/check:", width="stretch"):
            change({"data.columns": mapping})
            st.rerun()
        if detect.button("Detect automatically", icon=":material/auto_awesome:", width="stretch"):
            change({"data.columns": {}})
            st.rerun()


def _answer_to(what: str, words: list[str], version: str) -> Answer | None:
    """Return a command's answer if it succeeded; else draw its progress or its error and return None."""
    answer = ask(what, words, version=version)
    if answer is not None and not answer.ok:
        show_failure(answer, words=words, version=version)
        return None
    return answer


def _problems(source: str, version: str) -> None:
    words = ["data", "check", source, *_reading_words()]
    answer = _answer_to("Looking for problems", words, version)
    if answer is None:
        return
    fixes: dict[str, bool] = {}
    draw_findings(answer.value, partial(choose_fix, fixes, source))
    if fixes:
        draw_mending(answer.value["source"], fixes, words, version, _take)


def _rows(source: str, version: str) -> None:
    left, right = st.columns([3, 1])
    text = left.text_input("Search", key="row search", placeholder="Any word in a row").strip()
    page = right.number_input("Page", 1, step=1, key=f"row page {text}")
    words = ["data", "rows", source, f"--limit={_PAGE_ROWS}", f"--offset={(page - 1) * _PAGE_ROWS}"]
    words += _reading_words()
    words += [f"--text={text}"] if text else []
    answer = _answer_to("Reading the rows", words, version)
    if answer is None:
        return
    found = answer.value
    pages = max(1, -(-found["matching"] // _PAGE_ROWS))
    of = f"{found['matching']:,} of {counted(found['total'], 'row')} · page {page} of {pages}"
    st.caption(f"{of} · double-click a cell to read all of it")
    if not found["rows"]:
        st.info("No matching row.", icon=":material/search_off:")
        return
    draw_table(_table(found["rows"]), height="content")


def _table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {"place": row["place"]} | {name: _cell(value) for name, value in row["cells"].items()} for row in rows
    ]


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:_CHARS_A_CELL]


def _duplicates(source: str, version: str) -> None:
    answer = _answer_to("Looking for repeats", ["data", "duplicates", source, *_reading_words()], version)
    if answer is not None:
        draw_duplicates(answer.value)


def _tokens(source: str, version: str) -> None:
    left, right = st.columns([3, 1])
    model = left.text_input(
        "Model", typed().get("model.model_name_or_path", "smollm2-135m"), key="token model"
    )
    rows = right.number_input("Rows to show", 1, 50, 3, key="token rows")
    length = typed().get("data.max_length", 1024)
    words = ["data", "preview", source, "--model", model, f"--rows={rows}", f"--max-length={length}"]
    if typed().get("objective.method") == "cpt":
        words += ["--objective", "cpt"]
    words += _reading_words()
    answer = _answer_to("Turning rows into tokens", words, version)
    if answer is None:
        return
    _figures(answer.value)
    draw_legend()
    for row in answer.value["rows"]:
        draw_row(row)


def _figures(preview: Mapping[str, Any]) -> None:
    epoch, lengths = preview["epoch"], preview["lengths"]
    sign = "about " if epoch["is_estimate"] else ""
    with st.grid(4, min_column_width=150):
        st.metric("Rows that train", f"{sign}{epoch['rows']:,}")
        st.metric("Tokens an epoch", f"{sign}{epoch['tokens']:,}")
        st.metric("Trained tokens", f"{sign}{epoch['trained_tokens']:,}")
        st.metric("Longest row", f"{lengths['longest']:,} tokens")
    lost = [(epoch[name], name) for name in ("cut", "dropped", "refused") if epoch[name]]
    if lost:
        st.warning(
            " · ".join(f"{counted(count, 'row')} {how}" for count, how in lost), icon=":material/content_cut:"
        )
    for warning in preview["warnings"]:
        st.warning(plain(without_marks(warning), 1000))
    bars = {f"{one['low']}–{one['high']}": one["rows"] for one in lengths["bins"]}
    if bars:
        draw_bars(bars, "Length of a row in tokens", "Rows")


_VIEWS = {"Problems": _problems, "Rows": _rows, "Duplicates": _duplicates, "Tokens": _tokens}


def _page() -> None:
    st.title("Data")
    source = _choose_source()
    if not source:
        draw_nothing_yet(
            "No data yet", "Upload a file of questions and answers, or name one. Nothing leaves this machine."
        )
        return
    _reading_options()
    version = fingerprint(source)
    words = ["data", "rows", source, "--limit=0", *_reading_words()]
    answer = _answer_to("Reading", words, version)
    if answer is None:
        return
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        st.header(f"{plain(Path(source).name)} · {counted(answer.value['total'], 'row')}", width="content")
        st.page_link(
            "pages/new_run.py", label="**Train on it**", icon=":material/arrow_forward:", width="content"
        )
    if source != Path(source).name:
        st.caption(plain(f"Kept by the studio: {called(source)}" if is_kept(source) else source, 400))
    _read_as(answer.value)
    view = st.radio("Look at", list(_VIEWS), horizontal=True, key="data view", label_visibility="collapsed")
    _VIEWS[view](source, version)


_page()
