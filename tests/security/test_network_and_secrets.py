"""S10 to S14, S17, S18: nothing is fetched or offered unasked, no secret is written, foreign text is only shown."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from pathlib import Path

import pytest

from backend import data_pipeline, trainer_main
from backend.commands.cli import main
from backend.errors import DataError
from backend.manager import process_manager
from backend.manager.alerts import Alert, AlertSettings, send
from backend.manager.log_view import clean_lines
from backend.manager.ranks import _rank_environ
from backend.run.config import DataConfig
from backend.run.folder import RunDir
from backend.run.reports import RunStatus
from tests.runs import SHORT, learner_folder, make_run, write_rows

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("backend/**/*.py"), *ROOT.glob("app/**/*.py")])
CANARIES = {
    name: f"canary-{number:02}-{'s3cr3t' * 3}"
    for number, name in enumerate(
        [
            *(
                "HF_TOKEN",
                "HUGGING_FACE_HUB_TOKEN",
                "OPENAI_API_KEY",
                "AWS_SECRET_ACCESS_KEY",
                "WANDB_API_KEY",
            ),
            *(
                "GITHUB_TOKEN",
                "TUNESMITH_ALERT_WEBHOOK",
                "DATABASE_URL",
                "SSH_AUTH_SOCK",
                "PASSWORD",
                "API_KEY",
                "TOKEN",
            ),
        ]
    )
}


class TestFetching:
    @pytest.mark.parametrize(
        "address",
        [
            "http://169.254.169.254/latest/meta-data",
            "https://example.com/rows.jsonl",
            "ftp://example.com/rows.jsonl",
            "file:///etc/passwd",
            "http://127.0.0.1:1/rows.jsonl",
        ],
    )
    def test_s10_no_address_is_fetched(self, address: str) -> None:
        """The guard on sockets of these tests would name any attempt."""
        with pytest.raises(DataError):
            data_pipeline.load(DataConfig(train=address), seed=1)

    @pytest.mark.parametrize(
        "webhook",
        [
            "http://169.254.169.254/x",
            "https://allowed.example@evil.example/x",
            "https://allowed.example.evil.example/x",
            "file://allowed.example/etc/passwd",
            "https://[::1]/x",
        ],
    )
    def test_s10_alerts_go_to_listed_hosts_only(self, webhook: str) -> None:
        settings = AlertSettings(webhook=webhook, hosts=("allowed.example",))
        (problem,) = send(Alert("run", "finished", "completed", "Done."), settings)
        assert "no alert is sent" in problem or "must begin with" in problem


class TestOffering:
    def test_s11_nothing_of_ours_listens_on_every_address(self) -> None:
        texts = {
            f"{path.name}:{node.lineno}"
            for path in SOURCES
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Constant) and node.value in {"0.0.0.0", "::"}  # noqa: S104 - looked for
        }
        assert texts == set()

    def test_s11_processes_that_train_together_talk_over_loopback(self) -> None:
        environ = _rank_environ(1, 2)
        assert {environ["GLOO_SOCKET_IFNAME"], environ["NCCL_SOCKET_IFNAME"]} <= {"lo", "lo0"}
        assert {"MASTER_ADDR", "MASTER_PORT"} & environ.keys() == set()

    def test_s12_the_studio_keeps_to_this_machine_and_tells_nobody(self) -> None:
        settings = tomllib.loads((ROOT / "app/.streamlit/config.toml").read_text("utf-8"))
        assert settings["server"]["address"] == "127.0.0.1"
        assert settings["server"]["enableStaticServing"] is False
        assert settings["server"].get("enableXsrfProtection", True) is True
        assert settings["browser"]["gatherUsageStats"] is False
        assert settings["client"]["showErrorDetails"] == "none"


def every_byte(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_s14_no_secret_of_the_environment_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve of them; a run that finishes, supervised, and one that fails, with every file they leave."""
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    model, rows = learner_folder(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    good = make_run(tmp_path / "runs", model, rows, SHORT)
    bad = make_run(tmp_path / "runs", model, tmp_path / "gone.jsonl", SHORT)
    process_manager.start(good)
    trainer_main.main([str(bad.path)])
    process_manager.wait(good, timeout_seconds=120)
    assert (good.status(), bad.status()) == (RunStatus.FINISHED, RunStatus.FAILED)
    written = every_byte(tmp_path / "runs")
    told = [
        (name, path)
        for path, data in written.items()
        for name, value in CANARIES.items()
        if value.encode() in data
    ]
    assert told == []
    assert len(written) > 15


def test_s14_no_secret_stands_in_a_command_line(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "a", "seed: 1")
    command = process_manager.trainer_command(run)
    assert [
        word for word in command if any(value in word for value in os.environ.values() if len(value) > 40)
    ] == []


def test_s17_what_is_installed_is_pinned_and_weaknesses_have_an_address() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    known = {name.lower().replace("_", "-") for name in pinned}
    asked = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in project["dependencies"]}  # type: ignore[index]
    assert asked - known == set()
    assert "privately" in (ROOT / "SECURITY.md").read_text("utf-8")


ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31m[bold red]evil[/] <script>alert(1)</script>"


class TestForeignText:
    def test_s18_a_log_cannot_steer_the_terminal(self, tmp_path: Path) -> None:
        log = tmp_path / "train.log"
        log.write_text(f"before\n{ESCAPES}\nafter\n")
        shown = "\n".join(clean_lines(log.read_bytes()))
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert "evil" in shown

    def test_s18_a_name_is_shown_as_it_is(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = RunDir.create(tmp_path / "runs", "a", "seed: 1")
        name = "[bold red]evil[/] <b>x</b>"
        assert main(["runs", "rename", run.id, name, "--runs", str(tmp_path / "runs")]) == 0
        assert main(["runs", "show", run.id, "--runs", str(tmp_path / "runs")]) == 0
        assert main(["runs", "list", "--runs", str(tmp_path / "runs")]) == 0
        assert "[bold" in capsys.readouterr().out
