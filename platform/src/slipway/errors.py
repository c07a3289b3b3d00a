"""Every error that Slipway raises on purpose.

SlipwayError                  exit 1: something failed
├── NotReady                  a wait ran out of time
├── Conflict                  somebody else changed it first (a stale epoch, a second writer)
├── Refused                   a safety rule said no (bundle, gate, blocked digest, frozen automation)
└── InvalidInput              exit 2: one or more mistakes in what the user gave, all of them at once
    ├── InvalidSettings       an environment file
    ├── InvalidContract       a model.yaml
    └── Unknown               a model, version, service or command object that does not exist

An error is printed as `<where>: <what is wrong>` and, on its own line, `hint: <what to do>`; never as a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake: the dotted key or object, what is wrong with it, and what to type instead."""

    where: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}"
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class SlipwayError(Exception):
    """The root of the tree; `exit_code` is what the command line exits with."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class NotReady(SlipwayError):
    """A wait ran out of time."""


class Conflict(SlipwayError):
    """The state that the caller named is no longer the current one."""


class Refused(SlipwayError):
    """A safety rule said no."""


class InvalidInput(SlipwayError):
    """What the user gave is wrong; carries every mistake, not the first one."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem] | Problem) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InvalidSettings(InvalidInput):
    """An environment file breaks a rule."""


class InvalidContract(InvalidInput):
    """A model contract breaks a rule."""


class Unknown(InvalidInput):
    """The named object does not exist."""

    def __init__(self, kind: str, name: object, known: Sequence[object] = ()) -> None:
        choices = ", ".join(str(item) for item in known)
        hint = f"one of: {choices}" if choices else ""
        super().__init__(Problem(kind, f"{name!r} does not exist", hint))


def of_system(error: OSError) -> SlipwayError:
    """What the system refused, as an error of ours: a folder that nobody may write, a full disk."""
    reason = error.strerror or str(error)
    if not error.filename:
        return SlipwayError(f"the system: {reason}", hint="slipway doctor")
    return SlipwayError(
        f"{error.filename}: {reason}", hint=f"whose is it, and has its disk room? ls -ld {error.filename}"
    )
