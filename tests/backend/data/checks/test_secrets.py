import pytest

from backend.data.checks.secrets import (
    SECRETS,
    find_personal,
    find_secret,
    passes_luhn,
    passes_mod_97,
    redact,
    secret,
)
from tests.backend.data.rows import pair

KEYS = {
    "AWS access key": "ASIA" + "A1" * 8,
    "GitHub token": "github_pat_" + "a1_" * 20,
    "GitLab token": "glpat-" + "a1" * 10,
    "Anthropic key": "sk-ant-" + "a1" * 12,
    "OpenAI key": "sk-proj-" + "a1" * 20,
    "Slack token": "xoxb-" + "12345-abcde",
    "Google API key": "AIza" + "a" * 35,
    "Hugging Face token": "hf_" + "aB" * 17,
    "Stripe key": "sk_live_" + "a1" * 10,
    "SendGrid key": "SG." + "a" * 22 + "." + "b" * 43,
    "JSON web token": "eyJ" + "a" * 12 + ".eyJ" + "b" * 12 + "." + "c" * 12,
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "password in a URL": "https://me:secret1@host.org",
}


@pytest.mark.parametrize("kind", KEYS)
def test_each_kind_of_secret_is_found_and_redacted(kind):
    text = f"use {KEYS[kind]} now"
    assert find_secret(text)[0] == kind
    assert redact(text).startswith(f"use [{kind}]")
    assert find_secret(redact(text)) is None


def test_every_pattern_has_a_case():
    assert set(KEYS) == {each.kind for each in SECRETS}


def test_both_kinds_of_github_token_are_found():
    assert find_secret("ghp_" + "a1" * 18)[0] == "GitHub token"


def test_a_secret_is_never_shown_whole():
    assert KEYS["GitHub token"] not in secret(pair("q", KEYS["GitHub token"]))
    assert secret(pair("q", "a")) is None


@pytest.mark.parametrize(
    ("digits", "good"), [("4111111111111111", True), ("4111111111111112", False), ("0" * 16, False)]
)
def test_passes_luhn(digits, good):
    assert passes_luhn(digits) is good


@pytest.mark.parametrize(
    ("account", "good"), [("DE89370400440532013000", True), ("DE88370400440532013000", False)]
)
def test_passes_mod_97(account, good):
    assert passes_mod_97(account) is good


@pytest.mark.parametrize(
    "text", ["", "no data here", "10.0.0.1", "ISBN 978-3-16-148410-0", "2020-01-02 10:00", "@handle"]
)
def test_ordinary_text_holds_no_personal_data(text):
    assert find_personal(text) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("call +44 20 7946 0958 now", True),
        ("call +49-170-123-4567", True),
        ("call +1 555 123 4567.", True),
        ("it rose by +3 10 points", False),
        ("add +12 345", False),
    ],
)
def test_phone_numbers_in_several_groups(text, found):
    assert (find_personal(text) == "a phone number") is found
