"""Help page: a five-minute tour, the glossary, and what to do when something goes wrong."""

from __future__ import annotations

import streamlit as st

from app.views.glossary import TERMS

_TOUR = (
    ("home", "Home", "See what is running. **Start the example** begins a small real training in one click."),
    (
        "data",
        "Data",
        (
            "Give a file of questions and answers. The studio says how it reads it and why, lists what would spoil a "
            "training, mends a copy, and shows which tokens the model will learn."
        ),
    ),
    (
        "new_run",
        "New run",
        (
            "Choose a model and press **Start now**. Beside the settings stands what the run will cost in time, "
            "memory and disk, and the same run as a file and as a command."
        ),
    ),
    (
        "run",
        "Runs",
        "Watch the loss fall. Stop, pause or resume whenever you like; nothing is ever deleted by that.",
    ),
    ("compare", "Compare", "Lay the curves of several runs over each other and see which settings differ."),
    (
        "playground",
        "Playground",
        "Talk to what you trained, beside the base model, and see how sure it was of every token.",
    ),
    (
        "export",
        "Export",
        (
            "Export the model for Ollama, llama.cpp or Hugging Face, with a certificate that the export is what "
            "was trained."
        ),
    ),
)


def _tour() -> None:
    st.header("Five minutes")
    for number, (page, title, text) in enumerate(_TOUR, 1):
        with st.container(border=True, gap="xsmall"):
            st.page_link(f"pages/{page}.py", label=f"**{number} · {title}**", icon=":material/arrow_forward:")
            st.markdown(text)


def _words() -> None:
    st.header("Words")
    wanted = st.text_input("Find a word", key="term", placeholder="loss, token, adapter …").strip().casefold()
    found = {term: text for term, text in TERMS.items() if wanted in f"{term} {text}".casefold()}
    for term, text in found.items():
        st.markdown(f"**{term}**  \n{text}")
    if not found:
        st.info("That word is not here.", icon=":material/search_off:")


def _trouble() -> None:
    st.header("When something goes wrong")
    st.markdown(
        "- A failed run says why on its page, with what to do. Its folder holds everything it wrote.\n"
        "- `tunesmith doctor` says what this machine has and lacks.\n"
        "- Closing the browser or the studio stops no run: they go on by themselves.\n"
        "- What the pages do, commands do too; `tunesmith --help` lists them."
    )


st.title("Help")
_tour()
_words()
_trouble()
