"""Notify a person when a run ends or falls silent, on the desktop or by a webhook to an allowed host.

All of it is off until it is set: ``TUNESMITH_ALERT_DESKTOP=1``, ``TUNESMITH_ALERT_WEBHOOK=https://host/path`` and
``TUNESMITH_ALERT_HOSTS=host,other``. The address may hold a secret and is never logged.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from urllib.parse import SplitResult, urlsplit

from backend.errors import ConfigError, Problem
from backend.run.reports import RunState

DESKTOP, WEBHOOK, HOSTS = (f"TUNESMITH_ALERT_{name}" for name in ("DESKTOP", "WEBHOOK", "HOSTS"))
_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Alert:
    """The content of a notification: the run, its status, the reason and a sentence."""

    run: str
    status: str
    reason: str
    message: str

    @classmethod
    def about(cls, run: str, state: RunState) -> Alert:
        """The alert for where a run stands."""
        return cls(run, str(state.status), state.reason, state.message)


@dataclass(frozen=True)
class AlertSettings:
    """The targets of alerts, none by default. ``hosts`` are the host names that ``webhook`` may have."""

    desktop: bool = False
    webhook: str = ""
    hosts: tuple[str, ...] = ()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> AlertSettings:
        """The settings in the environment."""
        hosts = environ.get(HOSTS, "").split(",")
        return cls(
            desktop=environ.get(DESKTOP) == "1",
            webhook=environ.get(WEBHOOK, ""),
            hosts=tuple(host.strip().lower() for host in hosts if host.strip()),
        )


def check_environ(environ: Mapping[str, str]) -> None:
    """Raises ConfigError with every variable of ours in ``environ`` that would send nothing as it is."""
    settings = AlertSettings.from_environ(environ)
    known = f"There are {DESKTOP}, {WEBHOOK} and {HOSTS}."
    problems = [
        Problem(name, "is no setting of alerts.", known)
        for name in sorted(environ)
        if name.startswith("TUNESMITH_ALERT") and name not in {DESKTOP, WEBHOOK, HOSTS}
    ]
    if environ.get(DESKTOP, "") not in {"", "0", "1"}:
        problems.append(Problem(DESKTOP, "is neither 1 nor 0.", "Set it to 1 to be told on the desktop."))
    if settings.webhook and (wrong := _webhook_problem(settings)):
        problems.append(Problem(WEBHOOK, wrong, "Mend it, or unset it to be told nothing."))
    if problems:
        raise ConfigError(problems)


def send(alert: Alert, settings: AlertSettings) -> tuple[str, ...]:
    """Send an alert wherever the settings say; what went wrong comes back in words. Raises nothing."""
    problems = []
    if settings.desktop:
        problems.append(_to_desktop(alert))
    if settings.webhook:
        problems.append(_to_webhook(alert, settings))
    return tuple(problem for problem in problems if problem)


def _to_desktop(alert: Alert) -> str:
    program = shutil.which("notify-send")
    if program is None:
        return "There is no notify-send on this machine."
    text = [f"{alert.run}: {alert.status}", alert.message]
    try:
        subprocess.run([program, "--", *text], check=True, timeout=_TIMEOUT_SECONDS, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"notify-send did not work ({type(error).__name__})."
    return ""


def _to_webhook(alert: Alert, settings: AlertSettings) -> str:
    """One POST, no redirects, to a host that the person has listed."""
    if wrong := _webhook_problem(settings):
        return wrong
    import http.client  # noqa: PLC0415 - every run has a supervisor, and few ever tell anybody

    address = urlsplit(settings.webhook)
    host, port = address.hostname or "", address.port
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=_TIMEOUT_SECONDS)
    try:
        body = json.dumps({**asdict(alert), "text": f"{alert.run}: {alert.message}"})
        connection.request("POST", _path(address), body, {"Content-Type": "application/json"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{host} could not be reached ({type(error).__name__})."
    finally:
        connection.close()
    return "" if status < 300 else f"{host} answered {status}."


def _path(address: SplitResult) -> str:
    return (address.path or "/") + (f"?{address.query}" if address.query else "")


def _webhook_problem(settings: AlertSettings) -> str:
    """Return the reason why the address cannot be used; the address is not shown, since it may hold a secret."""
    try:
        address = urlsplit(settings.webhook)
        host, _ = (address.hostname or "").lower(), address.port
    except ValueError:
        return "TUNESMITH_ALERT_WEBHOOK is no web address."
    if host not in settings.hosts:
        return f"The host {host!r} is not listed in TUNESMITH_ALERT_HOSTS, so no alert is sent."
    if address.scheme not in {"https", "http"}:
        return "TUNESMITH_ALERT_WEBHOOK must begin with https:// or http://."
    return ""
