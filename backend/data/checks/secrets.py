"""Check 13: secrets, by the formats that issuers document (prefix, alphabet, length) and by the words before them.

Placeholders of documentation (``AKIAIOSFODNN7EXAMPLE``, ``<password>``, ``$PASSWORD``) do not count. Patterns take
runs of characters possessively (``++``), so that the time is linear in the length of a text; no group, since Python
before 3.11.5 matches those wrongly (gh-106052).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backend.data.checks.base import Check
from backend.data.records import Row
from backend.data.texts import texts


@dataclass(frozen=True)
class Secret:
    """A kind of secret: its pattern, and a test of the match.

    ``marks``: the pattern cannot match a text that contains none of these strings, which are quick to look for.
    """

    kind: str
    marks: tuple[str, ...]
    pattern: re.Pattern[str]
    proves: Callable[[str], bool]

    def find(self, text: str) -> Iterator[re.Match[str]]:
        """Yield each match of such a secret that is not a placeholder."""
        if any(mark in text for mark in self.marks):
            yield from (each for each in self.pattern.finditer(text) if self.proves(self.token(each)))

    def token(self, found: re.Match[str]) -> str:
        """Return the secret part of a match."""
        return found.group("token") if "token" in self.pattern.groupindex else found.group()


_PLACEHOLDER = re.compile(
    r"(?i)example|placeholder|dummy|redacted|changeme|change_me|your[_-]|[_-]your|[_-]here\b|insert|x{6}|\*{3}|0{12}|\.{3}"
)
_WORDS = re.compile(r"[a-z]{1,16}(?:[-_.]{1,2}[a-z0-9]{1,16})+")
_USUAL = (
    "password passwd pass pwd passphrase secret mypassword my_password userpassword yourpassword dbpassword test "
    "testing foo bar baz foobar qwerty letmein welcome admin administrator root user username guest default none "
    "null true false postgres mysql mongo rabbitmq redis token key apikey api_key string str value pw p4ssw0rd "
    "passw0rd hello abc xyz demo sample todo"
)
"""Words for passwords in documentation, and default passwords of programs."""
_COMMON = frozenset(_USUAL.split())


def _is_random(token: str) -> bool:
    """Return whether a token does not look like a placeholder."""
    return not _PLACEHOLDER.search(token)


def _is_no_name(token: str) -> bool:
    """Return whether a token has digits and is neither a placeholder nor a name made of words."""
    return _is_random(token) and bool(re.search(r"\d", token)) and not _WORDS.fullmatch(token)


def _is_mixed(token: str) -> bool:
    """Return whether a token has letters and digits and is not a placeholder, unlike a word after "basic"."""
    return _is_random(token) and bool(re.search(r"\d", token) and re.search(r"[A-Za-z]", token))


def _is_password(token: str) -> bool:
    """Return whether a value is a real password: no variable, no code, no placeholder, no default."""
    plain = token.strip("\"'`.,;:!?")
    named = plain.lower().strip("0123456789!@#_-")
    return (
        len(plain) >= 6
        and named not in _COMMON
        and not _PLACEHOLDER.search(plain)
        and not re.search(r"^[$%<{(*/~.]|[\[\]]|[)}>]$|\$\{|%\(|://|^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+$", plain)
        and bool(re.search(r"\d|[^\w.-]", plain))
    )


def _is_url_password(token: str) -> bool:
    """Return whether ``user:password`` of a URL is not a placeholder; here a plain word may be a password."""
    user, _, password = token.partition(":")
    named = password.lower()
    return (
        len(password) >= 3
        and named not in _COMMON
        and named != user.lower()
        and not _PLACEHOLDER.search(password)
        and not re.match(r"[$%<{\[(*]|x+$|\d{1,5}(?:/|$)", named)
    )


def _always(_: str) -> bool:
    return True


def _secret(
    kind: str,
    marks: str,
    pattern: str,
    proves: Callable[[str], bool] = _is_random,
    start: str = r"(?<![\w-])",
) -> Secret:
    return Secret(kind, tuple(marks.split()), re.compile(start + pattern), proves)


_QUOTE = r"[\"'`]?"
_SET = rf"{_QUOTE}\s{{0,3}}(?:=>|:=|[:=])\s{{0,3}}{_QUOTE}"

_BODY = r"[A-Za-z0-9+/=\s\\:,.]"
"""A character of a key in PEM, but for the hyphen."""

SECRETS: tuple[Secret, ...] = (
    _secret(
        "private key",
        "KEY",
        r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,4}PRIVATE KEY(?: BLOCK)?-----"  # with all that follows up to its end
        rf"(?:{_BODY}*+(?:-(?!-){_BODY}*+)*-----END [A-Z0-9 ]{{1,60}}-----|(?:\s{{1,2}}[A-Za-z0-9+/=]{{30,76}}\b)*)",
        _always,
        start="",
    ),
    _secret("AWS access key", "AKIA ASIA", r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![\w])", start=r"(?<![A-Za-z0-9])"),
    _secret(
        "AWS secret key",
        "secret SECRET Secret",
        rf"(?i:aws[_.-]?)?(?i:secret[_.-]?(?:access[_.-]?)?key){_SET}(?P<token>[A-Za-z0-9/+]{{40}})(?![\w/+=])",
        start=r"(?<![a-z])",
    ),
    _secret("GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{36,255}(?!\w)"),
    _secret("GitHub token", "github_pat_", r"github_pat_[A-Za-z0-9_]{50,255}"),
    _secret("GitLab token", "gl", r"gl(?:pat|rt|dt|ptt|ft|soat|agent|oas|cbt|imt|ffct)-[A-Za-z0-9_.-]{20,}+"),
    _secret("Anthropic key", "sk-ant-", r"sk-ant-[A-Za-z0-9_-]{20,}+"),
    _secret("OpenAI key", "sk-", r"sk-[A-Za-z0-9_-]{32,}+", _is_no_name),
    _secret("Groq key", "gsk_", r"gsk_[A-Za-z0-9]{40,}+"),
    _secret("xAI key", "xai-", r"xai-[A-Za-z0-9]{60,}+"),
    _secret("Perplexity key", "pplx-", r"pplx-[A-Za-z0-9]{32,}+"),
    _secret("Replicate token", "r8_", r"r8_[A-Za-z0-9]{30,}+"),
    _secret("Slack token", "xox xapp", r"(?:xox[abcdeoprs]|xapp)-[A-Za-z0-9-]{10,}+"),
    _secret(
        "webhook",
        "hooks.slack",
        r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/]{20,}+",
        start="",
    ),
    _secret(
        "webhook",
        "/api/webhooks/",
        r"discord(?:app)?\.com/api/webhooks/\d{15,20}/[A-Za-z0-9_-]{40,}+",
        start=r"(?<![\w-])(?:(?:ptb|canary)\.)?",
    ),
    _secret("webhook", "webhook.office", r"webhook\.office\.com/webhookb2/[A-Za-z0-9@/-]{40,}+", start=""),
    _secret(
        "Discord token",
        "M N O",
        r"[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,45}(?![\w-])",
    ),
    _secret("Telegram token", ":A", r"\d{8,10}:AA?[A-Za-z0-9_-]{33,35}(?![\w-])"),
    _secret("Google API key", "AIza", r"AIza[0-9A-Za-z_-]{35}"),
    _secret(
        "Google token", "ya29. GOCSPX- 1//0", r"(?:ya29\.[\w-]{20,}+|GOCSPX-[\w-]{20,}+|1//0[\w-]{40,}+)"
    ),
    _secret("Hugging Face token", "hf_ api_org_", r"(?:hf|api_org)_[A-Za-z0-9]{30,}+"),
    _secret("npm token", "npm_", r"npm_[A-Za-z0-9]{36}(?!\w)"),
    _secret("PyPI token", "pypi-", r"pypi-[A-Za-z0-9_-]{32,}+", _is_no_name),
    _secret("RubyGems key", "rubygems_", r"rubygems_[0-9a-f]{48}"),
    _secret("Docker token", "dckr_", r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}+"),
    _secret("Databricks token", "dapi", r"dapi[0-9a-f]{32}(?:-\d)?(?!\w)"),
    _secret("DigitalOcean token", "do", r"do[opr]_v1_[0-9a-f]{64}"),
    _secret("Stripe key", "k_live_ k_test_ whsec_", r"(?:[rs]k_(?:live|test)_|whsec_)[0-9A-Za-z]{16,}+"),
    _secret("Twilio key", "SK AC", r"(?:SK|AC)[0-9a-f]{32}(?!\w)"),
    _secret("SendGrid key", "SG.", r"SG\.[A-Za-z0-9_-]{16,40}\.[A-Za-z0-9_-]{16,80}"),
    _secret("Mailgun key", "key-", r"key-[0-9a-f]{32}(?!\w)"),
    _secret("Mailchimp key", "-us", r"[0-9a-f]{32}-us\d{1,2}(?!\w)"),
    _secret("Shopify token", "shp", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),
    _secret("Square token", "sq0 EAAA", r"(?:sq0(?:atp|csp|idp)-[\w-]{22,43}|EAAA[\w-]{60})(?![\w-])"),
    _secret("Facebook token", "EAA", r"EAA[CBGM][A-Za-z0-9]{60,}+"),
    _secret("Notion token", "secret_ ntn_", r"(?:secret|ntn)_[A-Za-z0-9]{40,}+"),
    _secret("Linear key", "lin_", r"lin_(?:api|oauth)_[A-Za-z0-9]{32,}+"),
    _secret("Figma token", "figd_", r"figd_[\w-]{38,}+"),
    _secret("Postman key", "PMAK-", r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}"),
    _secret("Atlassian token", "ATATT3", r"ATATT3[\w=-]{100,}+"),
    _secret("Vault token", "hv", r"hv[sbr]\.[\w-]{24,}+"),
    _secret("Terraform token", ".atlasv1.", r"[A-Za-z0-9]{14}\.atlasv1\.[\w-]{60,}+"),
    _secret("Grafana token", "gl", r"gl(?:sa|c)_[A-Za-z0-9+/=_]{32,}+"),
    _secret("New Relic key", "NRA NRI", r"NR(?:AK|II|AA|JS)-[A-Z0-9a-z]{27,}+"),
    _secret("Sentry token", "sntry", r"sntry[su]_[A-Za-z0-9+/=_]{40,}+"),
    _secret("PlanetScale token", "pscale_", r"pscale_(?:tkn|pw|oauth)_[\w.-]{32,}+"),
    _secret("Supabase token", "sbp_", r"sbp_[0-9a-f]{40}"),
    _secret(
        "Doppler token", "dp.", r"dp\.(?:pt|st|ct|sa|scim|audit)\.(?:[a-z0-9_-]{2,35}\.)?[A-Za-z0-9]{40,}+"
    ),
    _secret(
        "Azure key",
        "AccessKey= AccountKey=",
        r"(?:Account|SharedAccess)Key=(?P<token>[A-Za-z0-9+/]{43,88}={1,2})",
    ),
    _secret("Azure secret", "8Q~", r"[\w~.]{3}8Q~[\w~.-]{31,34}(?![\w~.-])"),
    _secret("JSON web token", "eyJ", r"eyJ[A-Za-z0-9_-]{10,}+\.eyJ[A-Za-z0-9_-]{10,}+\.[A-Za-z0-9_-]{10,}+"),
    _secret(
        "authorization",
        "earer asic BEARER oken",
        r"(?i:bearer|basic|authorization: token) {1,3}(?P<token>[A-Za-z0-9._~+/-]{20,}+={0,2})",
        _is_mixed,
    ),
    _secret(
        "password in a URL",
        "://",
        r"[a-z][a-z0-9+.-]{1,20}://(?P<token>[^\s/:@\"'<>]{0,100}:[^\s/@\"']{3,200})@[\w.\[-]",
        _is_url_password,
        start=r"(?<![A-Za-z0-9])",
    ),
    _secret(
        "API key",
        "key KEY Key token TOKEN Token secret SECRET Secret",
        r"(?i:api|access|auth|client|consumer|encryption|signing|service|account|app|bot|master|secret)[_ .-]?"
        rf"(?i:key|token|secret){_SET}(?P<token>[A-Za-z0-9+/_=.~-]{{16,}}+)",
        lambda token: _is_random(token) and _is_password(token),
        start=r"(?<![a-z])",
    ),
    _secret(
        "password",
        "ass PASS wd PWD hrase",
        rf"(?i:pass(?:word|wd|phrase|code)?|pwd|kennwort|passwort|contraseña|mot de passe){_SET}"
        r"(?P<token>[^\s\"'`<>{}()]{6,100})",
        _is_password,
        start=r"(?<![a-z])",
    ),
)


def find_secret(text: str) -> tuple[str, re.Match[str]] | None:
    """Return the kind and the match of the first secret found in a text, or None."""
    return next(((each.kind, found) for each in SECRETS for found in each.find(text)), None)


def redact(text: str) -> str:
    """Return the text with each secret replaced by its kind in brackets, for example ``[GitHub token]``."""
    for each in SECRETS:
        text = _without(text, each)
    return text


def _without(text: str, secret: Secret) -> str:
    parts, end = [], 0
    for found in secret.find(text):
        start, stop = found.span("token" if "token" in secret.pattern.groupindex else 0)
        parts += [text[end:start], f"[{secret.kind}]"]
        end = stop
    return "".join([*parts, text[end:]]) if parts else text


def secret(row: Row) -> str | None:
    """Return a description of a row's first secret, with its first four characters only; None if there is none."""
    for text in (*texts(row), row.tools or ""):
        if found := find_secret(text):
            return f"a {found[0]} beginning with {found[1].group()[:4]}…"
    return None


SECRET_CHECKS = (
    Check(
        13,
        "secrets",
        "Texts hold secrets",
        "block",
        "A model can be made to repeat its training data; a key in it must be counted as published.",
        by_row=secret,
        fix="redact-secrets",
    ),
)
