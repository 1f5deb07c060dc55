"""The openai client, as people use it, against a real server process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from openai import OpenAI

from backend.inferencer import Inferencer
from backend.run.folder import RunDir
from tests.eventually import eventually
from tests.runs import SHORT, child_environment, make_run

TOKEN = "a token of ours"
CANARY = "canary-5f1e"


CALLING = (
    "{% if tools %}{{ tools | tojson }} as <tool_call>{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FOOD = {
    "type": "object",
    "properties": {"food": {"enum": ["ham"]}},
    "required": ["food"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "weigh", "parameters": FOOD}}


@pytest.fixture(scope="module")
def calling(learner: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run that was not trained, whose template knows tools."""
    changes = SHORT | {"model.chat_template": CALLING}
    return make_run(tmp_path_factory.mktemp("calling"), learner, rows_file, changes)


@pytest.fixture(scope="module")
def server(trained: RunDir, calling: RunDir) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A served root behind a token; yields its address and its process."""
    command = [sys.executable, "-m", "backend.commands.cli", "serve", str(trained.path), str(calling.path)]
    command += ["--port", "0", "--json"]
    environment = child_environment(TUNESMITH_SERVER_TOKEN=TOKEN, SOME_SECRET=CANARY)
    with subprocess.Popen(
        [*command, "--root", str(trained.path.parent)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        said = "".join(iter(child.stdout.readline, "}\n")) + "}"
        yield json.loads(said)["url"], child
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=30)
        assert child.returncode in {0, -signal.SIGTERM}
        assert TOKEN not in errors
        assert CANARY not in errors


@pytest.fixture
def client(server: tuple[str, subprocess.Popen[str]]) -> Iterator[OpenAI]:
    with OpenAI(base_url=server[0], api_key=TOKEN, max_retries=0, timeout=120) as made:
        yield made


def _user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def _say(client: OpenAI, model: str, text: str = "test input", **options: Any) -> str:
    asked = {"messages": _user(text), "temperature": 0, **options}
    answer = client.chat.completions.create(model=model, **asked)
    return str(answer.choices[0].message.content)


def test_chat(client: OpenAI, trained: RunDir) -> None:
    answer = client.chat.completions.create(
        model=trained.id, messages=_user("test input"), temperature=0, logprobs=True, top_logprobs=2
    )

    assert answer.choices[0].message.content == "expected output"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.choices[0].logprobs is not None
    assert "".join(each.token for each in answer.choices[0].logprobs.content or ()) == "expected output"
    assert [model.id for model in client.models.list()] == ["base", trained.id]


def test_stream(client: OpenAI, trained: RunDir) -> None:
    stream = client.chat.completions.create(
        model=trained.id, messages=_user("test input"), temperature=0,
        stream=True, stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)

    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == "expected output"
    assert len([text for text in said if text]) > 3
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 3


def test_calls_of_tools(client: OpenAI, calling: RunDir) -> None:
    """The model is held to a call, and says it like any other text."""
    said = 'Well. <tool_call>{"name": "weigh", "arguments": {"food": "ham"}}</tool_call>'
    asked: dict[str, Any] = {
        "model": f"{calling.id}@base", "messages": _user("hi"), "tools": [TOOL], "tool_choice": "auto",
        "extra_body": {"structured_outputs": {"choice": [said]}},
    }  # fmt: skip
    choice = client.chat.completions.create(**asked).choices[0]
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    plain = client.chat.completions.create(**asked | {"tool_choice": "none"}).choices[0]

    (call,) = choice.message.tool_calls or ()
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Well.")
    assert (call.type, call.function.name, call.function.arguments) == (
        "function",
        "weigh",
        '{"food": "ham"}',
    )
    (streamed,) = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    assert streamed.function is not None
    assert (streamed.index, streamed.function.arguments) == (0, call.function.arguments)
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "Well."
    assert chunks[-1].finish_reason == "tool_calls"
    assert (plain.finish_reason, plain.message.content, plain.message.tool_calls) == ("stop", said, None)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weigh"}}])
def test_a_call_that_was_asked_for_and_the_turn_after_it(
    client: OpenAI, calling: RunDir, choice: Any
) -> None:
    """The whole message object goes back as it came, null fields and all."""
    messages = _user("hi")
    asked: dict[str, Any] = {
        "model": f"{calling.id}@base",
        "messages": messages,
        "tools": [TOOL],
        "temperature": 0,
    }
    first = client.chat.completions.create(**asked, tool_choice=choice, parallel_tool_calls=False).choices[0]
    (call,) = first.message.tool_calls or ()
    messages.append(first.message)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "5 kg"})
    second = client.chat.completions.create(**asked, max_tokens=3).choices[0]
    messages.append(second.message)
    third = client.chat.completions.create(**asked | {"messages": [*messages, *_user("hi")]}, max_tokens=3)

    assert (first.finish_reason, first.message.content, call.function.name) == ("tool_calls", None, "weigh")
    assert json.loads(call.function.arguments) == {"food": "ham"}
    assert third.usage is not None


def test_what_clients_send_besides(client: OpenAI, trained: RunDir) -> None:
    nulls: Any = dict.fromkeys(
        ("top_p", "n", "stop", "max_tokens", "seed", "tools", "logit_bias", "response_format")
    )
    labels: Any = {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "test input"}]}]
    answer = client.chat.completions.create(
        model=trained.id, messages=messages, temperature=0, **nulls, **labels
    )
    as_developer, as_system = (
        _say(client, trained.id, messages=[{"role": role, "content": "Be kind."}, *messages], max_tokens=4)
        for role in ("developer", "system")
    )

    assert answer.choices[0].message.content == "expected output"
    assert as_developer == as_system


def test_one_call_at_a_time(client: OpenAI, calling: RunDir) -> None:
    call = '<tool_call>\n{"name": "weigh", "arguments": {}}\n</tool_call>'
    asked: dict[str, Any] = {
        "model": f"{calling.id}@base", "messages": _user("hi"), "tools": [TOOL],
        "extra_body": {"structured_outputs": {"choice": [f"{call}\n{call}"]}},
    }  # fmt: skip
    both, one = (
        client.chat.completions.create(**asked, parallel_tool_calls=parallel).choices[0]
        for parallel in (True, False)
    )

    assert [len(choice.message.tool_calls or ()) for choice in (both, one)] == [2, 1]
    assert both.finish_reason == one.finish_reason == "tool_calls"


def test_texts(client: OpenAI, trained: RunDir) -> None:
    made = client.completions.create(
        model=trained.id, prompt=["hello", "test"], echo=True, max_tokens=2, temperature=0
    )

    assert [choice.text[:4] for choice in made.choices] == ["hell", "test"]
    with pytest.raises(openai.BadRequestError, match="only text is taken"):
        client.completions.create(model=trained.id, prompt=[1, 2])


def test_embeddings(client: OpenAI, trained: RunDir) -> None:
    """The client asks for base64 by itself, and decodes it."""
    made = client.embeddings.create(model=trained.id, input=["food pork", "hello"])
    assert [len(each.embedding) for each in made.data] == [32, 32]
    assert sum(value * value for value in made.data[0].embedding) == pytest.approx(1)


def test_abort_ends_the_work(client: OpenAI, server: tuple[str, subprocess.Popen[str]]) -> None:
    def rows() -> float:
        page = client.with_options().get("../metrics", cast_to=str)
        return sum(
            float(line.split()[1]) for line in str(page).splitlines() if line.startswith("tunesmith_rows ")
        )

    stream = client.chat.completions.create(
        model="base", messages=_user("hello"), temperature=2, max_tokens=400, stream=True
    )
    next(iter(stream))
    stream.close()

    eventually(lambda: rows() == 0)


@pytest.mark.parametrize(
    ("options", "error", "field"),
    [
        ({"model": "nothing"}, openai.NotFoundError, "model"),
        ({"temperature": 5}, openai.BadRequestError, "temperature"),
        ({"n": 0}, openai.BadRequestError, "n"),
        ({"store": True}, openai.BadRequestError, "store"),
        ({"logit_bias": {"5": 1}}, openai.BadRequestError, "logit_bias"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": _user("word " * 600)}, openai.BadRequestError, "messages"),
        ({"extra_body": {"foo": 1}}, openai.BadRequestError, "foo"),
    ],
)
def test_errors(
    client: OpenAI, options: dict[str, Any], error: type[openai.APIStatusError], field: str
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "base", "messages": _user("hi"), **options})

    assert caught.value.body["param"] == field
    assert caught.value.body["message"].endswith(".")


def test_without_the_token_nothing_is_answered(server: tuple[str, subprocess.Popen[str]]) -> None:
    stranger = OpenAI(base_url=server[0], api_key="guess", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_adapters_are_swapped_without_loading_the_base_again(client: OpenAI, trained: RunDir) -> None:
    names: dict[str, dict[str, Any]] = {
        trained.id: {}, "base": {"base": True}, f"{trained.id}@10": {"checkpoint": 10},
        f"{trained.id}@latest": {"checkpoint": "latest"},
    }  # fmt: skip
    expected = {}
    with Inferencer(trained) as model:
        for name, options in names.items():
            model.use(trained, **options)
            expected[name] = model.infer("food pear", max_new_tokens=8)

    for name in [*names, *reversed(names)]:
        assert _say(client, name, "food pear", max_tokens=8) == expected[name]

    metrics = str(client.get("../metrics", cast_to=str))
    assert "tunesmith_model_loads_total 1.0" in metrics


def test_200_at_once_are_never_crossed(client: OpenAI, trained: RunDir) -> None:
    asked = [
        (name, text) for name in (trained.id, "base") for text in ("test input", "food pork", "x", "hello")
    ]
    alone = {(name, text): _say(client, name, text, max_tokens=5) for name, text in asked}

    with ThreadPoolExecutor(200) as pool:
        wanted = [asked[number % len(asked)] for number in range(200)]
        said = list(pool.map(lambda one: _say(client, *one, max_tokens=5), wanted))

    assert said == [alone[one] for one in wanted]


def test_forms(client: OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["meat", "fruit"]}}}

    assert json.loads(_say(client, "base", response_format=form)) in {"meat", "fruit"}


def test_a_big_body_is_refused_and_nothing_else_changes(
    client: OpenAI, server: tuple[str, subprocess.Popen[str]], trained: RunDir
) -> None:
    before = psutil.Process(server[1].pid).memory_info().rss
    with pytest.raises(openai.APIStatusError) as caught:
        _say(client, trained.id, "x" * 10 * 2**20)

    assert caught.value.status_code == 413
    assert _say(client, trained.id) == "expected output"
    assert psutil.Process(server[1].pid).memory_info().rss < before + 64 * 2**20
