"""Checks 13 and 14: secrets and personal data, by patterns that hardly ever match by chance.

The formats are those that the issuers document (prefix and length); card numbers must pass the Luhn test
(ISO/IEC 7812-1) and account numbers the remainder test of ISO 13616.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from backend.data.checks.base import Check
from backend.data.records import Row
from backend.data.texts import texts


@dataclass(frozen=True)
class Secret:
    """A kind of secret: the pattern, and the letters without one of which it cannot match."""

    kind: str
    marks: tuple[str, ...]
    pattern: re.Pattern[str]


def _secret(kind: str, marks: str, pattern: str) -> Secret:
    return Secret(kind, tuple(marks.split()), re.compile(pattern))


SECRETS: tuple[Secret, ...] = (
    _secret("AWS access key", "AKIA ASIA", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    _secret("GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b"),
    _secret("GitHub token", "github_pat_", r"\bgithub_pat_[A-Za-z0-9_]{60,255}\b"),
    _secret("GitLab token", "glpat-", r"\bglpat-[A-Za-z0-9_-]{20,}\b"),
    _secret("Anthropic key", "sk-ant-", r"\bsk-ant-[A-Za-z0-9_-]{20,}"),
    _secret("OpenAI key", "sk-", r"\bsk-(?:proj-)?[A-Za-z0-9_-]{32,}\b"),
    _secret("Slack token", "xox", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}\b"),
    _secret("Google API key", "AIza", r"\bAIza[0-9A-Za-z_-]{35}\b"),
    _secret("Hugging Face token", "hf_", r"\bhf_[A-Za-z0-9]{34,}\b"),
    _secret("Stripe key", "k_live_", r"\b[rs]k_live_[0-9A-Za-z]{16,}\b"),
    _secret("SendGrid key", "SG.", r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}\b"),
    _secret("JSON web token", "eyJ", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\b"),
    _secret("private key", "KEY", r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    _secret("password in a URL", "://", r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/:@]{3,}@[\w.-]+"),
)

_MAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,4}\.[A-Za-z]{2,24}\b")
_PHONE = re.compile(
    r"(?<![\w.+-])\+\d{1,3}(?:[ -]\d{2,5}){2,5}(?![\w-]|\.\w|[ -]\d)|"
    r"(?<![\w.+-])(?<!\d[ -])(?:\+\d{1,3}[ -]?)?(?:\(\d{2,4}\)[ -]?)?"
    r"\d{3,4}[ -]\d{3,8}(?:[ -]\d{2,4})?(?![\w-]|\.\w|[ -]\d)"
)
_CARD = re.compile(r"(?<![\w.-])(?:\d[ -]?){12,18}\d(?![\w.-])")
_ACCOUNT = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_ADDRESS = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
_DIGITS = re.compile(r"\d\D{0,3}\d")
_EXAMPLE_MAIL = re.compile(r"@(?:[\w-]+\.)*example\.(?:com|org|net)$", re.IGNORECASE)


def find_secret(text: str) -> tuple[str, re.Match[str]] | None:
    """The kind and the match of the first secret in a text."""
    for each in _possible(text):
        if found := each.pattern.search(text):
            return each.kind, found
    return None


def redact(text: str) -> str:
    """The text with each secret replaced by its kind in brackets, for example ``[GitHub token]``."""
    for each in _possible(text):
        text = each.pattern.sub(f"[{each.kind}]", text)
    return text


def _possible(text: str) -> list[Secret]:
    return [each for each in SECRETS if any(mark in text for mark in each.marks)]


def secret(row: Row) -> str | None:
    """The first secret of a row, shown by its first four characters only."""
    for text in texts(row):
        if found := find_secret(text):
            return f"a {found[0]} beginning with {found[1].group()[:4]}…"
    return None


def personal_data(row: Row) -> str | None:
    """The first e-mail address, phone number, card, account or public network address of a row."""
    for text in texts(row):
        if kind := find_personal(text):
            return kind
    return None


def find_personal(text: str) -> str | None:
    """The kind of the first personal data in a text, None when there is none."""
    if "@" in text and any(not _EXAMPLE_MAIL.search(found.group()) for found in _MAIL.finditer(text)):
        return "an e-mail address"
    if _DIGITS.search(text):
        for kind, pattern, proves in _NUMBERS:
            if any(proves(found.group()) for found in pattern.finditer(text)):
                return kind
    return None


def passes_luhn(digits: str) -> bool:
    """Whether 13 to 19 digits, not all equal, pass the check of ISO/IEC 7812-1 for card numbers."""
    doubled = [int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(digits))]
    total = sum(each - 9 * (each > 9) for each in doubled)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and total % 10 == 0


def passes_mod_97(account: str) -> bool:
    """Whether 15 to 34 characters pass the check of ISO 13616 for account numbers."""
    turned = account[4:] + account[:4]
    return 15 <= len(account) <= 34 and int("".join(str(int(each, 36)) for each in turned)) % 97 == 1


def _is_phone(text: str) -> bool:
    digits = sum(each.isdigit() for each in text)
    return 9 <= digits <= 15 and (text.startswith(("+", "(")) or len(re.split(r"[ -]", text)) == 3)


def _is_public(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


_NUMBERS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("a card number", _CARD, lambda found: passes_luhn(re.sub(r"\D", "", found))),
    ("a bank account number (IBAN)", _ACCOUNT, lambda found: passes_mod_97(found.replace(" ", ""))),
    ("a phone number", _PHONE, _is_phone),
    ("a public network address", _ADDRESS, _is_public),
)

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
    Check(
        14,
        "personal-data",
        "Texts hold personal data",
        "warn",
        "A model can be made to repeat it; make sure you may use it and that it is needed.",
        by_row=personal_data,
    ),
)
