"""The table of an environment file: frozen, typed, unknown keys refused, each key explained by its docstring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from slipway.validation import HINT

ROOT = Path(__file__).resolve().parents[3]
"""Of the repository: where relative paths in an environment file begin."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


def _find(path: Path) -> Path:
    # Programs that are handed such a path work in other folders, and expand nothing.
    try:
        return ROOT / path.expanduser()
    except RuntimeError:
        raise ValueError(f"names nobody's home{HINT}write the whole path") from None


LocalPath = Annotated[Path, AfterValidator(_find)]
"""A path on this machine: `~` is the user's home, and what is relative begins at the repository."""
