"""How facts are printed: a table for people, JSON for programs, the same facts in both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")]


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no plain form")


def print_json(facts: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(facts, default=_plain, indent=2))


def print_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows as a table whose columns are the keys of the first row."""
    console = Console()
    if not rows:
        console.print(f"{title}: none")
        return
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table)


def print_facts(title: str, rows: Sequence[Mapping[str, object]], as_json: bool) -> None:
    """A table, or the same rows as JSON."""
    if as_json:
        print_json(list(rows))
    else:
        print_table(title, rows)
