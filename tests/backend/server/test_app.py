"""Every endpoint over HTTP, and what cannot be asked: backend/server/app.py."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from backend.inferencer import Inferencer
from backend.run.folder import RunDir
from backend.server.app import BODY_BYTES
from tests.backend.server.conftest import QUESTION, Server
from tests.eventually import eventually

CHAT = "/v1/chat/completions"
NULLABLE = (
    "top_p",
    "n",
    "stop",
    "max_tokens",
    "seed",
    "stream",
    "tools",
    "response_format",
    "logit_bias",
    "user",
)
WEIGH = {"type": "function", "function": {"name": "weigh"}}
PARTS = [{"type": "text", "text": "food "}, {"type": "text", "text": "pork"}]


def _events(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream, which ends as it must."""
    lines = [line for line in text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


class TestModels:
    def test_the_base_and_every_finished_run(self, server: Server, learner: Path) -> None:
        base, run = server.ask("GET", "/v1/models").json["data"]
        assert (base["id"], base["base_model"]) == ("base", learner.name)
        assert (run["id"], run["checkpoints"], run["owned_by"]) == (server.run, [10, 20], "tunesmith")
        assert run["best_checkpoint"] in run["checkpoints"]
        assert server.ask("GET", f"/v1/models/{server.run}").json == run

    @pytest.mark.parametrize("name", ["nothing", "..", "a/b", "%2e%2e%2f", "x" * 256, "x" * 300])
    def test_one_that_is_not_there(self, server: Server, name: str) -> None:
        assert server.ask("GET", f"/v1/models/{name}").status == 404
        refused = server.chat(model=name)
        assert (refused.status, refused.error["param"]) in {(404, "model"), (400, "model")}

    @pytest.mark.parametrize(
        "name", ["base", "{run}@base", "{run}@10", "{run}@latest", "{run}@best", "{run}"]
    )
    def test_each_name_answers_with_what_it_names(self, server: Server, name: str, trained: RunDir) -> None:
        options = {
            "base": {"base": True},
            "{run}@base": {"base": True},
            "{run}@10": {"checkpoint": 10},
            "{run}@latest": {"checkpoint": "latest"},
            "{run}@best": {"checkpoint": "best"},
            "{run}": {},
        }[name]
        with Inferencer(trained, **options) as model:
            expected = model.infer("test input", max_new_tokens=12)
        assert server.say(model=name.format(run=server.run), max_tokens=12) == expected

    @pytest.mark.parametrize("checkpoint", ["7", "nonsense", "", "../adapter"])
    def test_a_checkpoint_that_is_not_there(self, server: Server, checkpoint: str) -> None:
        refused = server.chat(model=f"{server.run}@{checkpoint}")
        assert (refused.status, refused.error["code"]) == (404, "no_such_checkpoint")


class TestChat:
    def test_an_answer(self, server: Server, trained: RunDir) -> None:
        answered = server.chat()
        whole = answered.json
        assert whole["choices"][0]["message"] == {
            "role": "assistant", "content": "expected output", "refusal": None,
        }  # fmt: skip
        assert whole["choices"][0]["finish_reason"] == "stop"
        with Inferencer(trained) as model:
            (said,) = model.answers("test input")
            assert whole["usage"] == {
                "prompt_tokens": len(model.render("test input")),
                "completion_tokens": len(said.tokens),
                "total_tokens": len(model.render("test input")) + len(said.tokens),
            }

    def test_a_stream_says_the_same_with_usage_at_its_end(self, server: Server) -> None:
        chunks = _events(server.chat(stream=True, stream_options={"include_usage": True}).text)
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert "".join(delta.get("content", "") for delta in deltas) == "expected output"
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]][-2:] == [None, "stop"]
        assert {json.dumps(chunk["usage"]) for chunk in chunks[:-1]} == {"null"}
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == server.chat().json["usage"]
        assert len({chunk["id"] for chunk in chunks}) == 1

    def test_without_asking_a_stream_has_no_usage(self, server: Server) -> None:
        assert not [chunk for chunk in _events(server.chat(stream=True).text) if "usage" in chunk]

    def test_several_answers_each_from_its_own_seed(self, server: Server, trained: RunDir) -> None:
        wanted = {"temperature": 2.0, "seed": 11, "max_tokens": 6}
        choices = server.chat(n=3, **wanted).json["choices"]
        with Inferencer(trained) as model:
            said = model.answers("test input", n=3, temperature=2.0, seed=11, max_new_tokens=6)
        assert [choice["message"]["content"] for choice in choices] == [answer.text for answer in said]
        chunks = _events(server.chat(n=3, stream=True, **wanted).text)
        streamed = ["", "", ""]
        for choice in (chunk["choices"][0] for chunk in chunks):
            streamed[choice["index"]] += choice["delta"].get("content", "")
        assert streamed == [answer.text for answer in said]

    def test_without_a_seed_it_is_another_each_time(self, server: Server) -> None:
        said = {server.say(temperature=2.0, top_p=0.99, max_tokens=8) for _ in range(5)}
        assert len(said) > 1

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"max_tokens": 1}, "e"),
            ({"max_completion_tokens": 1}, "e"),
            (dict.fromkeys(NULLABLE), "expected output"),
            ({"stop": "out"}, "expected "),
            ({"stop": ["zzz", "put"]}, "expected out"),
            ({"temperature": 2, "top_k": 1}, "expected output"),
            ({"structured_outputs": {"choice": ["Ham"]}}, "Ham"),
            ({"structured_outputs": {"regex": "[0]{3}"}}, "000"),
            ({"messages": [{"role": "user", "content": PARTS}]}, "meat"),
        ],
    )  # fmt: skip
    def test_fields_reach_the_model(self, server: Server, fields: dict[str, Any], expected: str) -> None:
        assert server.say(**fields) == expected

    def test_json_by_a_schema(self, server: Server) -> None:
        schema = {
            "type": "object",
            "properties": {"kind": {"enum": ["meat", "fruit"]}},
            "required": ["kind"],
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": "kind", "schema": schema}}
        assert json.loads(server.say(response_format=form, max_tokens=200))["kind"] in {"meat", "fruit"}

    def test_logprobs(self, server: Server, trained: RunDir) -> None:
        content = server.chat(logprobs=True, top_logprobs=2).json["choices"][0]["logprobs"]["content"]
        with Inferencer(trained) as model:
            (said,) = model.answers("test input", top_logprobs=2)
        assert "".join(each["token"] for each in content) == "expected output"
        assert [each["logprob"] for each in content] == pytest.approx(
            [token.logprob for token in said.tokens[:-1]], abs=1e-4
        )
        assert {len(each["top_logprobs"]) for each in content} == {2}
        assert bytes(content[0]["bytes"]).decode() == content[0]["token"]

    def test_the_adapter_by_strength(self, server: Server) -> None:
        base = server.say(model="base", max_tokens=8)
        assert server.say(adapter_strength=0, max_tokens=8) == base
        assert server.say(adapter_strength=1) == "expected output"
        assert server.chat(model="base", adapter_strength=0.5).error["param"] == "adapter_strength"

    def test_plain_text_is_continued(self, server: Server) -> None:
        asked = {"model": server.run, "prompt": "hello world", "temperature": 0, "logprobs": 1}
        choice = server.ask("POST", "/v1/completions", asked).json["choices"][0]
        assert choice["finish_reason"] in {"stop", "length"}
        assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
        chunks = _events(server.ask("POST", "/v1/completions", {**asked, "stream": True}).text)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == choice["text"]

    def test_many_texts_are_answered_as_if_each_were_alone(self, server: Server) -> None:
        asked = {"model": server.run, "temperature": 2, "seed": 5, "n": 2, "max_tokens": 4}
        texts = ["hello world", "test input", "x"]
        many = server.ask("POST", "/v1/completions", {**asked, "prompt": texts}).json
        alone = [server.ask("POST", "/v1/completions", {**asked, "prompt": text}).json for text in texts]
        said = [choice["text"] for each in alone for choice in each["choices"]]
        assert [choice["text"] for choice in many["choices"]] == said
        assert [choice["index"] for choice in many["choices"]] == list(range(6))
        assert many["usage"]["total_tokens"] == sum(each["usage"]["total_tokens"] for each in alone)
        assert len(set(said)) > 3

    @pytest.mark.parametrize("echo", [True, False])
    def test_no_token_may_be_asked_for(self, server: Server, echo: bool) -> None:
        asked = {"model": server.run, "prompt": ["hello world", "x"], "max_tokens": 0, "echo": echo, "n": 2}
        whole = server.ask("POST", "/v1/completions", asked).json
        streamed = server.ask("POST", "/v1/completions", {**asked, "stream": True}).text
        ends = [chunk["choices"][0] for chunk in _events(streamed)][-4:]
        said = ["hello world", "hello world", "x", "x"]
        assert [each["text"] for each in whole["choices"]] == [text * echo for text in said]
        assert {each["finish_reason"] for each in [*whole["choices"], *ends]} == {"length"}
        assert [each["index"] for each in ends] == [0, 1, 2, 3]
        assert (whole["usage"]["completion_tokens"], whole["usage"]["prompt_tokens"] > 0) == (0, True)

    @pytest.mark.parametrize("prompt", ["hello world", ["hello world", "x"]])
    def test_a_stream_of_texts_adds_up_with_echo_and_usage(self, server: Server, prompt: Any) -> None:
        asked = {"model": server.run, "prompt": prompt, "temperature": 0, "max_tokens": 3, "echo": True}
        whole = server.ask("POST", "/v1/completions", asked).json
        streamed = {**asked, "stream": True, "stream_options": {"include_usage": True}}
        *chunks, last = _events(server.ask("POST", "/v1/completions", streamed).text)
        texts = [""] * len(whole["choices"])
        for choice in (chunk["choices"][0] for chunk in chunks):
            texts[choice["index"]] += choice["text"]
        assert texts == [choice["text"] for choice in whole["choices"]]
        assert texts[0].startswith("hello world")
        assert (last["usage"], last["choices"]) == (whole["usage"], [])

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"tools": [WEIGH]}, "tools"),
            ({"tools": [WEIGH], "tool_choice": "required"}, "tool_choice"),
            ({"messages": [{"role": "judge", "content": "x"}]}, "messages.0.role"),
        ],
    )
    def test_what_this_models_template_knows_nothing_of(
        self, server: Server, fields: dict[str, Any], param: str
    ) -> None:
        assert server.chat(**fields).error["param"] == param
        assert server.say(tools=[WEIGH], tool_choice="none") == "expected output"


class TestLooks:
    def test_the_prompt_and_every_token_of_the_answer(self, server: Server, trained: RunDir) -> None:
        seen = server.ask(
            "POST", "/tunesmith/v1/token-view", {"model": server.run, "messages": QUESTION}
        ).json
        with Inferencer(trained) as model:
            ids = model.render("test input")
            (said,) = model.answers("test input")
        assert [token["id"] for token in seen["prompt"]["tokens"]] == ids
        assert "<|im_start|>user\ntest input<|im_end|>" in seen["prompt"]["text"]
        assert seen["answer"]["text"] == "expected output"
        tokens = seen["answer"]["tokens"]
        assert [token["id"] for token in tokens] == [token.token_id for token in said.tokens]
        assert [token["logprob"] for token in tokens] == pytest.approx(
            [token.logprob for token in said.tokens], abs=1e-3
        )
        assert all(len(token["top"]) == 5 and token["top"][0]["id"] == token["id"] for token in tokens)

    def test_an_answer_of_the_clients_own(self, server: Server) -> None:
        asked = {"model": server.run, "prompt": "test input", "answer": "nonsense", "top": 1}
        answer = server.ask("POST", "/tunesmith/v1/token-view", asked).json["answer"]
        assert "".join(t["text"] for t in answer["tokens"] if not t["special"]) == "nonsense"
        assert answer["tokens"][-1]["text"] == "<|im_end|>"
        assert answer["tokens"][0]["probability"] < 0.5

    def test_base_and_tuned_side_by_side(self, server: Server) -> None:
        asked = {"model": server.run, "prompt": "test input", "max_tokens": 30}
        seen = server.ask("POST", "/tunesmith/v1/compare", asked).json
        assert seen["tuned"]["text"] == "expected output"
        assert seen["base"]["text"] == server.say(model="base", max_tokens=30)
        assert (seen["tuned"]["model"], seen["base"]["model"]) == (server.run, f"{server.run}@base")
        assert seen["first_difference"] == 0
        assert len(seen["divergence"]) == len(seen["tuned"]["tokens"])
        assert min(place["kl"] for place in seen["divergence"]) >= 0
        assert seen["mean_kl"] > 0.1

    def test_a_model_does_not_differ_from_itself(self, server: Server) -> None:
        asked = {"model": server.run, "against": server.run, "prompt": "test input"}
        seen = server.ask("POST", "/tunesmith/v1/compare", asked).json
        assert (seen["first_difference"], seen["mean_kl"]) == (None, 0)


class TestAroundIt:
    def test_health(self, server: Server) -> None:
        said = server.ask("GET", "/health").json
        assert said["status"] == "ok"
        assert len(said["instance"]) == 16

    def test_metrics_count(self, server: Server) -> None:
        before = server.metric("tunesmith_generated_tokens_total")
        spoken = server.chat(max_tokens=3).json["usage"]["completion_tokens"]
        server.chat(foo=1)
        assert spoken > 0
        assert server.metric("tunesmith_generated_tokens_total") == before + spoken
        assert server.metric("tunesmith_rows") == server.metric("tunesmith_waiting") == 0
        assert 'tunesmith_requests_total{endpoint="chat",status="400"}' in server.ask("GET", "/metrics").text

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", CHAT, 405),
            ("POST", "/v1/models", 405),
            ("DELETE", "/health", 405),
            ("GET", "/", 404),
            ("GET", "/v1/files", 404),
            ("GET", "/v1/../etc/passwd", 404),
            ("POST", "/v1/moderations", 404),
        ],
    )
    def test_endpoints_that_are_none(self, server: Server, method: str, path: str, status: int) -> None:
        refused = server.ask(method, path)
        assert refused.status == status
        assert refused.error

    def test_a_client_who_leaves_ends_the_work(self, server: Server) -> None:
        asked = {"model": "base", "messages": QUESTION, "temperature": 2, "max_tokens": 400, "stream": True}
        bodies = [json.dumps(asked), json.dumps({**asked, "stream": False})]
        for body in bodies:
            before = server.metric("tunesmith_generated_tokens_total")
            head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            with socket.create_connection(("127.0.0.1", server.port)) as wire:
                wire.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
                eventually(lambda: server.metric("tunesmith_rows") > 0)
            eventually(lambda: server.metric("tunesmith_rows") == 0)
            assert server.metric("tunesmith_generated_tokens_total") - before < 350

    def test_many_at_once_are_never_crossed(self, server: Server) -> None:
        asked = ["test input", "food pork", "food pear", "x", "hello\nworld"] * 8
        alone = {text: server.say(messages=[{"role": "user", "content": text}]) for text in set(asked)}
        said: dict[int, str] = {}

        def ask(number: int) -> None:
            said[number] = server.say(messages=[{"role": "user", "content": asked[number]}])

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert said == {number: alone[text] for number, text in enumerate(asked)}


DEEP = "[" * 40 + "]" * 40


class TestBadInput:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *[("temperature", value) for value in (-0.1, 2.1, "1", True, [])],
            *[("top_p", value) for value in (0, -1, 1.1)],
            *[("top_k", value) for value in (-1, 1.5, 10**7)],
            *[("n", value) for value in (0, -1, 17, 1.0)],
            *[("max_tokens", value) for value in (0, -1, 2**21, 10**40, "5")],
            *[("seed", value) for value in (-(2**63) - 1, 2**63, 1.5)],
            *[("stop", value) for value in ("", [""], ["a"] * 17, "a" * 257, 5)],
            *[("stream", value) for value in ("yes", 1)],
            ("stream_options", {"include_usage": True}),
            *[("presence_penalty", value) for value in (-2.1, 2.1)],
            *[("frequency_penalty", value) for value in (-2.1, 2.1)],
            *[("repetition_penalty", value) for value in (0, 11)],
            *[("adapter_strength", value) for value in (-0.1, 2.1)],
            *[("logprobs", value) for value in (1, "true")],
            *[("top_logprobs", value) for value in (1, -1, 21)],
            *[("messages", value) for value in ([], "hi", [{}], [{"role": "judge", "content": "x"}])],
            ("messages", [{"role": "user", "content": 5}]),
            ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]),
            ("messages", [{"role": "user", "content": "word " * 600}]),
            *[("model", value) for value in ("", 5, None)],
            ("response_format", {"type": "xml"}),
            *[("structured_outputs", value) for value in ([], {"choice": []}, {"regex": "("}, 5)],
            ("structured_outputs", {"choice": ["a"], "regex": "a"}),
            *[("tools", value) for value in ([{}], [{"type": "code"}], {})],
            *[(name, 1) for name in ("logit_bias", "user", "best_of", "tool_choice", "foo", "", "store")],
        ],
    )  # fmt: skip
    def test_a_field_out_of_range_is_named(self, server: Server, field: str, value: Any) -> None:
        refused = server.chat(**{field: value})
        assert refused.status == 400
        assert field in (refused.error["param"] or refused.error["message"]) or refused.error["code"] in {
            "bad_constraint"
        }

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 400),
            (b"{", 400),
            (b"null", 400),
            (b"[]", 400),
            (b"5", 400),
            (b'{"model": "base", "messages": [{"role": "user", "content": "\xff\xfe"}]}', 400),
            (b'{"model": "base", "messages": [{"role": "user", "content": "\\ud800"}]}', 400),
            (b'{"model": "base", "temperature": NaN, "messages": []}', 400),
            (b'{"model": "base", "temperature": 1e999, "messages": []}', 400),
            (b'{"tools": ' + DEEP.encode() + b"}", 400),
            (b"[" * 100_000, 400),
            (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400),
            (b'{"model": "' + b"x" * 2 * BODY_BYTES + b'"}', 413),
            (b'{"model": "' + b"x" * 10 * 2**20 + b'"}', 413),
        ],
        ids=lambda part: str(part)[:30],
    )
    def test_a_body_that_cannot_be_read(self, server: Server, body: bytes, status: int) -> None:
        refused = server.ask("POST", CHAT, body)
        assert refused.status == status
        assert refused.error

    def test_a_body_without_end_is_cut_off(self, server: Server) -> None:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as wire:
            wire.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
            for _ in range(BODY_BYTES // 0x10000 + 1):
                wire.sendall(piece)
            assert wire.recv(65536).startswith(b"HTTP/1.1 413")

    @pytest.mark.parametrize(
        "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
    )
    def test_what_a_foreign_page_can_send_without_asking(self, server: Server, kind: str) -> None:
        body = json.dumps({"model": "base", "messages": QUESTION}).encode()
        assert server.ask("POST", CHAT, body, {"Content-Type": kind}).status == 415

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Host": "evil.example"}, 403),
            ({"Host": "evil.example:8000"}, 403),
            ({"Host": "127.0.0.1.evil.example"}, 403),
            ({"Host": "localhost"}, 200),
            ({"Host": "[::1]:80"}, 200),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "http://localhost:8501"}, 200),
        ],
        ids=str,
    )
    def test_s11_strangers_are_turned_away(
        self, server: Server, headers: dict[str, str], status: int
    ) -> None:
        assert server.ask("GET", "/v1/models", headers=headers).status == status

    def test_s13_no_error_tells_a_path_or_a_traceback(self, server: Server, trained: RunDir) -> None:
        asked = ["../x", str(trained.path), "a\x00b", "@", "@latest", f"{server.run}@/etc/passwd"]
        said = [server.chat(model=name) for name in asked]
        assert {answered.status for answered in said} == {404}
        for answered in said:
            assert not any(
                part in answered.text for part in ("Traceback", str(trained.path.parent) + "/", 'File "')
            )

    def test_afterwards_it_answers_as_before(self, server: Server) -> None:
        assert server.say() == "expected output"
