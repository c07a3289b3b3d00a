"""Exceptions from rules: each named, reasoned, dated and owned, in exceptions.toml."""

from __future__ import annotations

import datetime
import fnmatch
import re
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from slipway.errors import InvalidSettings, Problem
from slipway.section import Section
from slipway.validation import problems_of

CHECKOV = re.compile(r"CKV2?_K8S_\d+")
"""Its checks share the file, so that there is one place to look for what is let through."""

FILE = Path(__file__).with_name("exceptions.toml")


class PolicyException(Section):
    """What may break which rule, and why."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    """What people call it."""
    rule: str
    """The rule that is broken, or a check of checkov's; never all of them."""
    objects: Annotated[tuple[str, ...], Field(min_length=1)]
    """Kind, namespace and name, as messages write them; `*` within a part."""
    reason: str = Field(min_length=20)
    """Why it cannot be otherwise, and what makes up for it."""
    brought_by: str = ""
    """Pin (`charts.gpu_operator`) of the chart that renders the objects: only where it is rendered is this needed."""
    date: datetime.date
    """When it was decided."""
    owner: str = Field(min_length=2)
    """The team that answers for it."""

    def covers(self, rule: str, where: str) -> bool:
        return rule == self.rule and any(_matches(where, pattern) for pattern in self.objects)


class _Document(Section):
    exception: tuple[PolicyException, ...] = ()


def load_exceptions(rules: set[str], file: Path = FILE) -> tuple[PolicyException, ...]:
    """Read and check the file. Raises InvalidSettings with every mistake, an unknown rule among them."""
    try:
        exceptions = _Document.model_validate(tomllib.loads(file.read_text())).exception
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(Problem(str(file), f"not TOML: {error}")) from error
    except ValidationError as error:
        raise InvalidSettings(problems_of(error, _Document)) from error
    problems = [
        Problem(f"exception {entry.name}", f"{entry.rule!r} is no rule", f"one of: {', '.join(sorted(rules))}")
        for entry in exceptions
        if entry.rule not in rules and not CHECKOV.fullmatch(entry.rule)
    ]
    names = [entry.name for entry in exceptions]
    problems += [
        Problem(f"exception {name}", "stands there twice", "give each its own name")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    problems += [
        Problem(f"exception {entry.name}", f"{pattern!r} names no kind", "Kind/namespace/name")
        for entry in exceptions
        for pattern in entry.objects
        if not pattern[:1].isupper()
    ]
    if problems:
        raise InvalidSettings(problems)
    return exceptions


def _matches(where: str, pattern: str) -> bool:
    """Part by part, so that `*` never reaches into another namespace."""
    given, wanted = where.split("/"), pattern.split("/")
    return len(given) == len(wanted) and all(map(fnmatch.fnmatchcase, given, wanted))
