"""What one check of `slipway doctor` found; the same on every target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One check: what it is called, whether all is well, what was found."""

    check: str
    ok: bool
    found: str
    remedy: str = ""
    """What to type or change; empty when all is well."""


def finding(check: str, ok: bool, found: object, remedy: str) -> Finding:
    """A finding that keeps its remedy only where one is needed."""
    return Finding(check, ok, str(found), "" if ok else remedy)
