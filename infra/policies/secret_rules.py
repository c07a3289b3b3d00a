"""Rules that keep secrets out of what everybody may read. Messages name where, never what was found."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from itertools import zip_longest

from infra.policies.objects import UNKNOWN, KubeObject, items, mapping, texts
from infra.policies.pods import pods_of

SECRET_NAME = re.compile(
    r"(passw(or)?d|passphrase|secret|token|credential|api_?key|access_?key|private_?key|secret_?key|encryption_?key)s?$",
    re.I,
)
"""How a variable, flag or key that holds a secret ends; `_FILE`, `_PATH` or `_NAME` after it holds none."""

SECRET_TEXT = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36,}\b"),
    # The userinfo of a URL, unless it is a reference that is filled in later.
    re.compile(r"\b[a-z][a-z0-9+.-]*://[^/\s:@$]*:(?!\$[({]|<|\*)[^/\s@]+@"),
)
"""What is a secret wherever it stands."""

REFERENCE = re.compile(r"^(\$[({].+[)}]|)$")
"""`$(NAME)` and `${NAME}` are filled in by Kubernetes or the program; empty is none."""

PUBLISHED = {
    "12345", "123456", "admin", "admin123", "changeit", "changeme", "default", "minio", "minio123", "minioadmin",
    "mysql", "pass", "password", "password1", "postgres", "prom-operator", "root", "secret", "test",
}  # fmt: skip
"""Passwords that charts and manuals ship with."""

NOT_SECRET = {"true", "false", "none", "null", "disabled", "enabled", "on", "off", "yes", "no"}
_ASSIGNMENT = re.compile(r"""^[ \t-]*["']?([A-Za-z_][\w.-]*)["']?[ \t]*[:=][ \t]*["']?([^\s"',#]+)""", re.MULTILINE)


def no_literal_secret(thing: KubeObject) -> Iterator[str]:
    """No variable, argument or ConfigMap holds a secret; it is named from a Secret, or read from its file."""
    for pod in pods_of(thing):
        for container in pod.containers():
            for variable in map(mapping, items(container.body.get("env"))):
                name, value = str(variable.get("name", "")), str(variable.get("value") or "")
                if holds_secret(name, value):
                    yield f"{container.where}.env[{name}] holds a secret; use valueFrom.secretKeyRef"
            arguments = [*items(container.body.get("command")), *items(container.body.get("args"))]
            yield from _in_arguments(container.where, [str(argument) for argument in arguments])
    if thing.kind == "ConfigMap" and not thing.group:
        for key, text in texts(mapping(thing.body.get("data")), "data"):
            if any(pattern.search(text) for pattern in SECRET_TEXT) or holds_secret(key.rpartition(".")[2], text):
                yield f"{key} holds a secret; put it into a Secret"
            for name, value in _assignments(text):
                if holds_secret(name, value):
                    yield f"{key} sets {name} to a secret; put it into a Secret, or name its file"
    for key, text in texts(mapping(thing.metadata.get("annotations")), "metadata.annotations"):
        if any(pattern.search(text) for pattern in SECRET_TEXT):
            yield f"{key} holds a secret; leave it out"


def no_published_password(thing: KubeObject) -> Iterator[str]:
    """No Secret holds a password that came with a chart or a manual; ours are generated."""
    if thing.kind != "Secret" or thing.group:
        return
    for field in ("data", "stringData"):
        for key, value in mapping(thing.body.get(field)).items():
            text = _decoded(str(value)) if field == "data" else str(value)
            if text.lower() in PUBLISHED and SECRET_NAME.search(key.replace("-", "_")):
                yield f"{field}.{key} is a password that everybody knows; leave it to the secret store"


def holds_secret(name: str, value: str) -> bool:
    """Whether `value`, called `name`, looks like a secret in clear."""
    if any(pattern.search(value) for pattern in SECRET_TEXT):
        return True
    if not SECRET_NAME.search(name.replace("-", "_")) or REFERENCE.match(value) or value == UNKNOWN:
        return False
    # A path, a number, a switch or a structure under such a name says where the secret is, how long it lives, whether
    # there is one, or what it is called.
    return not (
        value.startswith(("/", "{", "[", "|", ">"))
        or value.lower() in NOT_SECRET
        or re.fullmatch(r"\d+(\.\d+)?[a-z]*", value)
    )


def _in_arguments(where: str, words: list[str]) -> Iterator[str]:
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        flag, equals, value = word.lstrip("-").partition("=")
        told = value if equals else following
        if any(pattern.search(word) for pattern in SECRET_TEXT) or (
            word.startswith("-") and not told.startswith("-") and holds_secret(flag, told)
        ):
            yield f"{where} has a secret among its arguments, in --{flag}; name a file instead"


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    """(name, value) of what a file sets: JSON, or lines of nearly any other format."""
    try:
        document = json.loads(text)
    except ValueError:
        yield from ((match[1], match[2]) for match in _ASSIGNMENT.finditer(text))
    else:
        yield from ((path.rpartition(".")[2], value) for path, value in texts(document))


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
