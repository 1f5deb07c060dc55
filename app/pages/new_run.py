"""New-run page: choose model, data and settings, see the estimated cost, and start the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st
import yaml
from streamlit.delta_generator import DeltaGenerator

from app.actions import show_errors
from app.commands import Answer, ask, show_failure
from app.fingerprints import fingerprint
from app.first_choice import METHOD, draw_first_choice, offer_fitting
from app.forms import (
    BASIC,
    PRESETS,
    change,
    command_line,
    command_words,
    draw,
    mark,
    settings,
    typed,
)
from app.kept_choice import choose_kept, is_kept
from app.local_models import local_models
from app.phrases import without_marks
from app.start import start_or_queue
from app.studio import studio
from app.views.estimate_card import draw_estimate
from app.views.text import plain
from backend.errors import ConfigError, ModelError, Problem
from backend.manager.planning.estimator import DataFigures, Machine, PastRun, estimate
from backend.manager.planning.model_shape import ModelShape, read_shape
from backend.manager.planning.past_runs import read_past
from backend.run.config import RunConfig, config_yaml
from backend.run.model_names import MODEL_ALIASES, local_folder
from backend.run.reports import DataCheck, DataFinding
from backend.run.settings import parse_config
from backend.utils.config_utils import apply_overrides
from backend.utils.machine_utils import available_cores
from backend.utils.record_utils import record_from_json

# Settings that decide the rows and the model: the estimate command runs again when one of them changes.
_COSTLY = ("model.", "data.", "augmentation.paraphrases", "objective.method")
_KEPT = ("model.", "data.", "objective.", "name")
_LOOKS = "looks at the rows"
# Errors after which the run may still start: the rows were not checked here, so the run checks them itself.
_NOT_LOOKED = frozenset({"timeout", "cancelled", "no-answer"})
_DEFAULTS = "Forget every change but model, data, training method and name."
_SECTIONS = {
    "model": "Model",
    "data": "Data",
    "augmentation": "Augmentation",
    "objective": "Training method",
    "tuning": "Tuning",
    "training": "Training",
    "evaluation": "Evaluation",
    "logging": "Logging",
}


def _parsed(values: Mapping[str, Any]) -> tuple[RunConfig | None, tuple[Problem, ...]]:
    """Return the configuration, or None and all of its problems."""
    try:
        return parse_config(apply_overrides({}, values)), ()
    except ConfigError as error:
        return None, error.problems


def _model_card(name: str) -> None:
    """Draw size, licence and context of the model, if they are known here."""
    alias, folder = MODEL_ALIASES.get(name), local_folder(name)
    facts = (
        [f"{alias.parameters / 1e6:,.0f} M parameters", alias.licence, "comes with Tunesmith"]
        if alias
        else []
    )
    if folder and not alias:
        try:
            shape = read_shape(folder)
            facts = [f"{shape.parameters:,} parameters", f"{shape.context:,} tokens of context"]
            facts += ["see its card for the licence"]
        except ModelError as error:
            facts = [f"{error.message} {without_marks(error.remedy)}"]
    elif not folder and not alias:
        facts = ["not on this machine yet: it is fetched from the Hugging Face Hub, if that is a name there"]
    st.caption(":material/deployed_code: " + plain(" · ".join(facts), 300))


def _presets() -> None:
    """Draw the buttons of presets, which change everything but model, data, training method and name."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("Begin with", width="content")
        for name, (purpose, values) in {**PRESETS, "Defaults": (_DEFAULTS, {})}.items():
            if st.button(name, help=purpose, icon=":material/tune:" if values else ":material/undo:"):
                kept = {key: value for key, value in typed().items() if key.startswith(_KEPT)}
                change(kept | dict(values), forget=True)
                st.rerun()


def _form() -> dict[str, DeltaGenerator]:
    """Draw the basic or all settings; return a place for errors below each."""
    depth = st.radio("Depth", ["Basic", "Expert"], horizontal=True, key="depth")
    return _expert() if depth == "Expert" else _basic()


def _basic() -> dict[str, DeltaGenerator]:
    _, first, data, *others = BASIC
    places = draw_first_choice()
    model = typed().get(first, settings()[first].default)
    field, here = st.columns(2)
    with field:
        places |= draw([first])
    with here:
        _models_here(first, model)
    _model_card(typed().get(first, settings()[first].default))
    field, here = st.columns(2)
    with field:
        places |= draw([data])
    with here:
        source = typed().get(data, "")
        kept = choose_kept(source)
    if kept != (source if is_kept(source) else ""):
        change({data: kept, "data.columns": {}})
        st.rerun()
    if not source:
        st.page_link("pages/data.py", label="Look at your data first", icon=":material/arrow_back:")
    return places | _in_two_columns(others)


def _models_here(name: str, chosen: str) -> None:
    """Draw the choice of models on this machine; the chosen one goes into the model field."""
    known = local_models(studio())
    taken = st.selectbox(
        "Or one already here",
        list(known),
        index=None,
        format_func=lambda one: f"{Path(one).name if Path(one).is_absolute() else one} · {known[one]}",
        placeholder="Choose",
        key=f"local model {chosen}",
    )
    if taken is not None and taken != chosen:
        change({name: taken})
        st.rerun()


def _expert() -> dict[str, DeltaGenerator]:
    names = list(settings())
    places = _in_two_columns([name for name in names if "." not in name])
    for section, title in _SECTIONS.items():
        with st.expander(title, expanded=section in {"model", "data"}):
            places |= _in_two_columns([name for name in names if name.startswith(f"{section}.")])
    return places


def _in_two_columns(names: Sequence[str]) -> dict[str, DeltaGenerator]:
    """Draw the widgets row by row, so that the Tab key follows the order on the screen."""
    places: dict[str, DeltaGenerator] = {}
    for start in range(0, len(names), 2):
        for column, name in zip(st.columns(2), names[start : start + 2], strict=False):
            with column:
                places |= draw([name])
    return places


def _machine() -> Machine:
    sample = studio().sampler.sample()
    gpu = sample.gpus[0] if sample.gpus else None
    memory = gpu.memory_total_bytes if gpu else sample.memory_total_bytes
    return Machine(available_cores(), memory, sample.disk_free_bytes, "cuda" if gpu else "cpu")


@st.cache_data(ttl=30, show_spinner=False)
def _past(root: str) -> list[PastRun]:
    return read_past(Path(root))


def _cost(config: RunConfig) -> Answer | None:
    """Draw the estimated cost and return the answer of the command that reads rows and model.

    Only a change of rows or model runs the command again; other settings are estimated in this process as one types.
    """
    looked = {name: value for name, value in typed().items() if name.startswith(_COSTLY)}
    words = ["estimate", *command_words(looked), "--runs", str(studio().runs.root)]
    version = _version(config)
    answer = ask("Reading rows and model", words, version=version)
    if answer is None:
        return None
    if not answer.ok:
        show_failure(answer, words=words, version=version)
        offer_fitting(answer)
        return answer
    shape = record_from_json(ModelShape, answer.value["shape"])
    data = record_from_json(DataFigures, answer.value["data"])
    draw_estimate(estimate(config, shape, data, _machine(), _past(str(studio().runs.root))))
    st.caption(
        plain(
            f"{data.rows:,} rows to train on, {data.validation_rows:,} held out; {answer.value['read_as']}.",
            300,
        )
    )
    offer_fitting(answer)
    for warning in answer.value["warnings"]:
        st.warning(plain(without_marks(warning), 1000))
    return answer


def _version(config: RunConfig) -> str:
    """Return the version of the estimate's answer: it changes with every file it reads and with "Look again"."""
    held_out = config.data.validation if isinstance(config.data.validation, str) else ""
    sources = (config.data.train, held_out, config.augmentation.paraphrases, config.model.model_name_or_path)
    return f"{fingerprint(*sources)}:{st.session_state.get(_LOOKS, 0)}"


def _look_again() -> None:
    st.session_state[_LOOKS] = st.session_state.get(_LOOKS, 0) + 1


def _accepted(stops: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Draw the findings that stop a run; return the names of their checks if the person accepts them."""
    if not stops:
        return ()
    for stop in stops:
        st.error(plain(without_marks(f"{stop['message']} {stop['remedy']}"), 1000), icon=":material/block:")
    anyway = st.checkbox(
        "Train anyway",
        help="The run and its model card say that this was found and accepted.",
        key=f"anyway {' '.join(stop['field'] for stop in stops)}",
    )
    return tuple(stop["field"] for stop in stops) if anyway else ()


def _start(config: RunConfig | None, looked: Answer | None, problems: Sequence[Problem]) -> None:
    """Draw the buttons to start and to queue; off, with the reason, while rows are read or a problem is left."""
    refused = config is None or (looked is not None and not looked.ok and looked.code not in _NOT_LOOKED)
    reading = config is not None and looked is None
    stops = looked.value["stops"] if looked is not None and looked.ok else ()
    accepted = _accepted(stops)
    off = refused or reading or len(accepted) < len(stops)
    with st.container(horizontal=True):
        now = st.button("Start now", type="primary", icon=":material/play_arrow:", disabled=off)
        later = st.button("Add to the queue", icon=":material/queue:", disabled=off)
    if reading:
        st.caption(
            "Rows and model are read first. Cancel that to start at once: the run then looks at its rows itself."
        )
    if refused:
        known = settings()
        named = [known[each.field].label if each.field in known else each.field for each in problems]
        fields = ", ".join(named) or "what is marked in red"
        st.caption(f"Still missing or wrong: {plain(fields, 300)}.")
    if looked is not None:
        st.button("Look again", icon=":material/refresh:", type="tertiary", on_click=_look_again)
    if config is not None and looked is not None and (now or later):
        checked = config.accepting(accepted).pinned(looked.value["sha256"]) if looked.ok else config
        with show_errors():
            run = start_or_queue(studio(), checked, queue=later, checked=_found(looked, checked))
            st.switch_page("pages/run.py", query_params={"run": run.id})


def _found(looked: Answer, config: RunConfig) -> DataCheck | None:
    """Return the findings of the data check for the run to keep; None, and it checks itself, if there are none."""
    if not looked.ok:
        return None
    findings = (record_from_json(DataFinding, each) for each in looked.value["findings"])
    return DataCheck(tuple(findings), tuple(config.data.accept))


def _equivalent(config: RunConfig | None) -> None:
    with st.expander("The same as a file and as a command", expanded=True):
        st.caption("Everything this page does can be done without it.")
        if not typed():
            st.caption("Both appear here with your first choice.")
            return
        st.code(command_line(typed()), language=None, wrap_lines=True)
        text = (
            config_yaml(config) if config else yaml.safe_dump(apply_overrides({}, typed()), sort_keys=False)
        )
        st.download_button(
            "Save as run.yaml", text, "run.yaml", "application/yaml", icon=":material/download:"
        )
        with st.container(height=320 if config else "content", border=False):
            st.code(text, language=None, wrap_lines=True)


def _page() -> None:
    st.title("New run")
    _presets()
    form, cost = st.columns([5, 4], gap="large")
    with form:
        elsewhere = st.container()
        places = _form()
    config, problems = _parsed(typed())
    shown = problems if typed().keys() - {METHOD} else ()  # no errors on an untouched form
    for problem in mark(shown, places):
        elsewhere.error(plain(str(problem), 400), icon=":material/error:")
    with cost:
        looked = _cost(config) if config else None
        if config is None:
            st.info(
                "The cost of the run appears here once the settings are complete.",
                icon=":material/calculate:",
            )
        _start(config, looked, problems)
        _equivalent(config)


_page()
