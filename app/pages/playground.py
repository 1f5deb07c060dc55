"""Playground page: chat with a model, compare it with its base, see its tokens, answer a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import streamlit as st

from app.actions import show_errors
from app.chat_client import ChatClient, ServedModel
from app.drafts import draft, keep_draft
from app.rows_to_ask import read_prompts
from app.serving import client, manager
from app.studio import studio
from app.views.cards import draw_nothing_yet
from app.views.chat import draw_alternatives, draw_messages, draw_prompt, draw_side, draw_sureness
from app.views.table import draw_table
from app.views.text import plain
from backend.errors import InferenceError
from backend.run.folder import RunDir
from backend.run.root import BASE
from backend.utils.file_utils import UnsafeNameError, safe_join
from backend.utils.jsonl_utils import last_records

_TALK = "playground"
_AT_ONCE = 4
_SUGGESTED = 3
_GENERAL = (
    "Why is the sky blue? Answer in one sentence.",
    "Write a short, polite note that declines an invitation.",
    "Name three fruits and three vegetables.",
)
"""Suggested questions for a model without held-out rows."""


def _server() -> ChatClient | None:
    """Return a client of the running server; if there is none, draw the button that starts it."""
    found = manager().find()
    if found is not None:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge("Server running", icon=":material/dns:", color="green")
            st.caption(f"Other programs can ask it too, as they ask OpenAI: {plain(found.url)}")
            if st.button("Stop the server", icon=":material/power_settings_new:", type="tertiary"):
                with show_errors(), st.spinner("Stopping"):
                    manager().stop()
                st.rerun()
        return client(found.url)
    draw_nothing_yet(
        "The server is not running", "Start it to talk to a model; it loads one when first asked."
    )
    with st.container(horizontal_alignment="center"):
        pressed = st.button("Start the server", type="primary", icon=":material/play_arrow:")
    if pressed:
        with show_errors(), st.spinner("Starting the inference server"):
            manager().start()
            st.rerun()
    return None


def _choose_model(models: Sequence[ServedModel]) -> ServedModel:
    """Draw the choice of a model and return it."""
    by_id = {model.id: model for model in models}
    wanted = st.query_params.get("run", "")
    ids = list(by_id)
    chosen = st.selectbox(
        "Model",
        ids,
        ids.index(wanted) if wanted in by_id else min(1, len(ids) - 1),
        format_func=lambda one: by_id[one].title,
        key="chat model",
        width=360,
    )
    return by_id[chosen]


def _choose_how(served: ServedModel) -> tuple[str, dict[str, Any]]:
    """Draw the controls and return the model, at its checkpoint, and the options of a request."""
    model = name = served.id
    options = dict[str, Any]()
    if served.checkpoints:
        choices: list[Any] = [*sorted(served.checkpoints), "result"]
        chosen = st.select_slider("Checkpoint", choices, "result", key=f"checkpoint {model}")
        name = model if chosen == "result" else f"{model}@{chosen}"
    if model != BASE:
        strength = st.slider(
            "Adapter strength", 0.0, 2.0, 1.0, 0.05, help="0 is the base, 1 what was trained."
        )
        options |= {} if strength == 1.0 else {"adapter_strength": strength}
    options["temperature"] = st.slider("Temperature", 0.0, 2.0, 0.0, 0.05, help="0 takes the likeliest word.")
    options["max_tokens"] = int(st.number_input("Longest answer in tokens", 1, 4096, 256))
    options["seed"] = int(st.number_input("Seed", 0, 2**31 - 1, 42))
    return name, options


def _with_system(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    system = str(st.session_state.get("system words", "")).strip()
    head = [{"role": "system", "content": system}] if system else []
    return head + [{"role": each["role"], "content": each["content"]} for each in messages]


def _chat(ask: ChatClient, model: str, options: Mapping[str, Any]) -> None:
    turns: list[dict[str, str]] = draft(_TALK).setdefault("turns", [])
    _keep_stopped_answer(turns)
    talk = st.container()
    question = st.chat_input("Say something") or st.session_state.pop("suggested", "")
    with talk:
        if not turns and not question:
            _suggestions(ask, model)
        draw_messages(turns)
        if question:
            turns.append({"role": "user", "content": question})
            draw_messages(turns[-1:])
            _say(ask, model, options, turns)
    keep_draft(_TALK, {"turns": list(turns)})
    if turns and st.button("Start over", icon=":material/refresh:", type="tertiary"):
        keep_draft(_TALK, {})
        st.rerun()


def _suggestions(ask: ChatClient, model: str) -> None:
    """Draw questions to begin with: prompts held out by the run; for the base, by the first run that has some."""
    runs = [one.id for one in ask.models()] if model == BASE else [model.partition("@")[0]]
    prompts = next(filter(None, map(_held_out, runs)), [])
    words = "ask what it was never trained on:" if prompts else "begin with one of these:"
    draw_nothing_yet("What will it say?", f"Write to it below, or {words}")
    for number, prompt in enumerate(prompts or _GENERAL):
        words = plain(prompt, 160)
        key = f"suggested {number}"
        st.button(words, key=key, on_click=_suggest, args=(prompt,), width="stretch", wrap=True)


def _suggest(prompt: str) -> None:
    st.session_state["suggested"] = prompt


def _held_out(run: str) -> list[str]:
    """Return a few prompts of the run's held-out rows from its samples; none if there is no such run."""
    try:
        samples = last_records(RunDir(safe_join(studio().runs.root, run)).samples_file)
    except UnsafeNameError:
        return []
    prompts = (sample.get("prompt") for sample in samples)
    return list(dict.fromkeys(prompt for prompt in prompts if isinstance(prompt, str) and prompt))[
        :_SUGGESTED
    ]


def _say(ask: ChatClient, model: str, options: Mapping[str, Any], turns: list[dict[str, str]]) -> None:
    """Draw the next answer as it comes. The Stop button runs the page again, which closes the stream."""
    with st.chat_message("assistant", avatar=":material/graphic_eq:"), show_errors():
        place, stop = st.empty(), st.empty()
        place.caption("Thinking …")
        stop.button("Stop", icon=":material/stop:", key=f"stop {len(turns)}")
        st.session_state["saying"] = ""
        with closing(ask.stream(model, _with_system(_answered(turns)), **options)) as pieces:
            for piece in pieces:
                st.session_state["saying"] += piece
                place.text(st.session_state["saying"])
        turns.append({"role": "assistant", "content": st.session_state.pop("saying")})
        stop.empty()


def _answered(turns: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the turns without questions that got no answer, since templates want roles to alternate."""
    following = [*(turn["role"] for turn in turns[1:]), ""]
    return [
        turn for turn, then in zip(turns, following, strict=True) if (turn["role"], then) != ("user", "user")
    ]


def _keep_stopped_answer(turns: list[dict[str, str]]) -> None:
    """Add an answer that was stopped half-way to the turns."""
    text = st.session_state.pop("saying", None)
    if text and turns and turns[-1]["role"] == "user":
        turns.append({"role": "assistant", "content": text, "note": "Stopped."})


def _prompt_form(
    key: str, button: str, more: Callable[[], None] = lambda: None
) -> list[dict[str, str]] | None:
    """Draw a prompt field and a button; return the messages once it is pressed. ``more`` draws in between."""
    text = st.text_area("Prompt", key=f"prompt {key}", placeholder="Ask something")
    more()
    pressed = st.button(button, type="primary", icon=":material/send:")
    if pressed and not text.strip():
        st.warning("Write a prompt first.", icon=":material/edit:")
    return _with_system([{"role": "user", "content": text}]) if pressed and text.strip() else None


def _side_by_side(ask: ChatClient, model: str, options: Mapping[str, Any]) -> None:
    messages = _prompt_form("sides", "Ask both")
    if messages is None:
        st.caption("The base model and the tuned one answer with the same seed; dots mark where they differ.")
        return
    with show_errors():
        with st.spinner("Both are answering"):
            found = ask.compare(model, messages, **options)
        parted = found.get("first_difference")
        left, right = st.columns(2)
        with left:
            draw_side("Base", found["base"], parted)
        with right:
            draw_side("Tuned", found["tuned"], parted)
        if parted is None:
            st.info("Both say the same.", icon=":material/equal:")
        distance = found.get("mean_kl")
        if isinstance(distance, int | float):
            st.caption(f"Along the tuned answer the two differ by {distance:.3f} nats a token on average.")
        with st.expander("The exact prompt"):
            draw_prompt(found["prompt"])


def _tokens(ask: ChatClient, model: str, options: Mapping[str, Any]) -> None:
    def judge() -> None:
        st.text_input("Judge this answer", key="judged", placeholder="Leave empty and the model answers")

    messages = _prompt_form("tokens", "Look", judge)
    answer = str(st.session_state["judged"])
    if messages is None:
        st.caption("Every token of the answer, and how likely the model found it.")
        return
    judged = {"answer": answer} if answer else {}
    with show_errors():
        with st.spinner("Asking"):
            found = ask.token_view(model, messages, top=5, **judged, **options)
        draw_sureness(found["answer"]["tokens"])
        draw_alternatives(found["answer"]["tokens"])
        with st.expander("The exact prompt", expanded=True):
            draw_prompt(found["prompt"])


def _file(ask: ChatClient, model: str, options: Mapping[str, Any]) -> None:
    upload = st.file_uploader(
        "A file of prompts", ["txt", "jsonl", "csv"], help="One a line, or a column prompt."
    )
    if upload is None:
        st.caption("Text with a prompt a line, JSONL with prompt or messages, or CSV with a column prompt.")
        return
    with show_errors():
        rows = read_prompts(upload.name, upload.getvalue())
        st.caption(f"{len(rows):,} prompts")
        if st.button("Answer them all", type="primary", icon=":material/play_arrow:"):
            st.session_state["answers"] = []
            stop = st.empty()
            stop.button("Stop", icon=":material/stop:", key="stop file")
            bar = st.progress(0.0, "Answering")
            for number, line in enumerate(_answers(ask, model, rows, options), 1):
                st.session_state["answers"].append(line)
                bar.progress(number / len(rows), f"{number:,} of {len(rows):,}")
            bar.empty()
            stop.empty()
    answers: list[dict[str, str]] = st.session_state.get("answers", [])
    if answers:
        draw_table(answers)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in answers)
        st.download_button("Save the answers", text, "answers.jsonl", icon=":material/download:")


def _answers(
    ask: ChatClient, model: str, rows: Sequence[Sequence[Mapping[str, str]]], options: Mapping[str, Any]
) -> Iterator[dict[str, str]]:
    """Yield the answers in the order of the rows; an error concerns only its own row."""

    def one(messages: Sequence[Mapping[str, str]]) -> dict[str, str]:
        prompt = messages[-1]["content"]
        try:
            return {"prompt": prompt, "answer": ask.answer(model, list(messages), **options), "error": ""}
        except InferenceError as error:
            return {"prompt": prompt, "answer": "", "error": str(error)}

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, len(rows), _AT_ONCE):
            yield from pool.map(one, [_with_system(row) for row in rows[start : start + _AT_ONCE]])


_WAYS = {"Chat": _chat, "Side by side": _side_by_side, "Tokens": _tokens, "A file": _file}


def page() -> None:
    """Draw the page."""
    st.title("Playground")
    ask = _server()
    if ask is None:
        return
    with show_errors():
        models = ask.models()
        if not models:
            draw_nothing_yet("No model to talk to", "Finish a run first; it appears here by itself.")
            return
        served = _choose_model(models)
        talk, controls = st.columns([3, 1], gap="large")
        with controls:
            model, options = _choose_how(served)
            st.text_area("System message", key="system words", placeholder="None")
        with talk:
            way = st.radio("Way", list(_WAYS), horizontal=True, key="way", label_visibility="collapsed")
            _WAYS[way](ask, model, options)


page()
