"""Passwords and tokens of one environment: made once, kept in files of mode 0600, handed on as Pulumi secrets.

They live beside the environment's other secrets, so that a lost Pulumi state does not lock anybody out, and the command
line reads the very tokens that the cluster checks. Rotating is deleting the file and standing up again.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import pulumi

from slipway.errors import SlipwayError
from slipway.files import write_atomically

_BYTES = 32


@dataclass(frozen=True)
class SecretStore:
    """The folder of one environment's secrets."""

    folder: Path

    def read(self, name: str) -> pulumi.Output[str]:
        """The secret called `name` (`database/mlflow`), made on first use; encrypted in state, masked in outputs."""
        return pulumi.Output.secret(self.value(name))

    def value(self, name: str) -> str:
        """The secret as text, for no object's plain field. Raises SlipwayError when others may read its file."""
        file = self.folder / name
        if not file.exists():
            for folder in (self.folder, file.parent):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                folder.chmod(0o700)
            write_atomically(file, secrets.token_urlsafe(_BYTES) + "\n")
        if file.stat().st_mode & 0o077:
            raise SlipwayError(f"{file}: others may read it", hint=f"chmod 600 {file}")
        return file.read_text().strip()
