"""Where Pulumi keeps the state of an environment, and the passphrase that encrypts the secrets in it.

By default both lie below the environment's own folder: `pulumi/` and `secrets/pulumi-passphrase`. Losing the second
makes the first unreadable, so a new passphrase is only ever made where there is no state yet.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from slipway.environment import Environment
from slipway.errors import InvalidInput, Problem
from slipway.settings import Settings

LOGS_KEPT = 200
"""MB of Pulumi's own logs below PULUMI_HOME that a run leaves of earlier ones, unless the user says otherwise."""
_LOGS = "PULUMI_LOG_ROTATION_MAX_TOTAL_MB"
_DRAFTED_WITHIN = 10.0
"""Seconds: an older draft of a state file belongs to no living run."""
_OVERRIDES = ("PULUMI_CONFIG_PASSPHRASE",)
_PASSPHRASE = "pulumi-passphrase"  # noqa: S105  (the file's name)
_KEY = "kubernetes.backend.passphrase_file"


@dataclass(frozen=True)
class Backend:
    """An opened place for state."""

    url: str
    passphrase_file: Path
    folder: Path
    """Pulumi's project and stack settings; also the state itself, unless the settings name another backend."""

    def variables(self) -> dict[str, str]:
        """What Pulumi reads from its surroundings; the passphrase itself never stands there."""
        return {
            "PULUMI_BACKEND_URL": self.url,
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(self.passphrase_file),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_SKIP_CONFIRMATIONS": "true",
            # What we state is ours: a field that somebody changed by hand is taken back. Objects that were there before
            # us are safe, since creating never takes over what exists.
            "PULUMI_K8S_ENABLE_PATCH_FORCE": "true",
            # Four for each core, by default: on a small machine all of them would wait for pods of Deployments, whose
            # service accounts stand in the queue behind them.
            "PULUMI_PARALLEL": "64",
            # It keeps a log of all it does, 80 to 250 MB a run, and no switch is there for that; what holds secrets is
            # encrypted with the passphrase.
            _LOGS: os.environ.get(_LOGS, str(LOGS_KEPT)),
        }

    def work_folder(self, project: str) -> Path:
        return self.folder / project


def may_have(environment: Environment, project: str) -> bool:
    """Whether a stack of this project may be there. Looks from outside, and makes nothing."""
    settings, folder = environment.settings, environment.state.root / "pulumi"
    file = _chosen(settings) or environment.state.secrets / _PASSPHRASE
    if not file.exists():
        return _has_state(folder)
    # What another machine made in a place of the team is not known here.
    return (folder / project).is_dir() or bool(_place_of_the_team(settings))


def open_backend(environment: Environment) -> Backend:
    """Make folders and, the first time, the passphrase. Raises InvalidInput: lost, readable by others, overridden."""
    settings, state = environment.settings, environment.state
    folder = state.root / "pulumi"
    chosen = _chosen(settings)
    file = chosen or state.secrets / _PASSPHRASE
    for variable in _OVERRIDES:
        if variable in os.environ:
            raise InvalidInput(Problem(variable, "is set and would win over the passphrase file", f"unset {variable}"))
    for place in (state.root, folder, state.secrets):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        place.chmod(0o700)
    if file.exists():
        _check_file(file)
    elif chosen or _has_state(folder):
        raise InvalidInput(_lost(file, folder))
    else:
        _write_passphrase(file)
    url = _without_sidecars(_place_of_the_team(settings) or folder.resolve().as_uri())
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        _sweep(Path(unquote(parts.path)) / ".pulumi")
    return Backend(url, file, folder)


def _chosen(settings: Settings) -> Path | None:
    return settings.kubernetes.backend.passphrase_file if settings.kubernetes else None


def _place_of_the_team(settings: Settings) -> str:
    return settings.kubernetes.backend.url if settings.kubernetes else ""


def _without_sidecars(url: str) -> str:
    """Pulumi renames a whole file into its place, but writes `FILE.attrs` beside it where it is to stay: killed in the
    middle of that, it leaves an empty one, and can read the file no more (`failed to load checkpoint: EOF`).
    """
    parts = urlsplit(url)
    if parts.scheme != "file":
        return url
    return parts._replace(query=urlencode({"metadata": ["skip"], **parse_qs(parts.query)}, doseq=True)).geturl()


def _sweep(bookkeeping: Path) -> None:
    """Take away what killed runs left beside the state: sidecars, and drafts. A draft of a lock would count as one."""
    for file in bookkeeping.rglob("*.attrs"):
        file.unlink(missing_ok=True)
    for draft in bookkeeping.rglob("*.json.*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - draft.stat().st_mtime > _DRAFTED_WITHIN:
                draft.unlink(missing_ok=True)


def _has_state(folder: Path) -> bool:
    """A stack was made with the passphrase that belonged here: its settings carry the salt, wherever its state is."""
    return any(folder.glob(".pulumi/stacks/**/*.json")) or any(folder.glob("*/Pulumi.*.yaml"))


def _write_passphrase(file: Path) -> None:
    # Whole or not at all: a passphrase that a crash cut in half would encrypt the state and then be replaced.
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_urlsafe(32))
        stream.flush()
        os.fsync(stream.fileno())
    draft.rename(file)


def _check_file(file: Path) -> None:
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise InvalidInput(Problem(_KEY, f"{file} can be read by others", f"chmod 600 {file}"))
    if not file.read_text().strip():
        raise InvalidInput(Problem(_KEY, f"{file} is empty", "put the passphrase back from your backup"))


def _lost(file: Path, folder: Path) -> Problem:
    return Problem(
        _KEY,
        f"{file} is not there, and the secrets in the state are encrypted with it",
        f"put the file back from your backup; if it is lost for good, remove the stack's objects by hand and {folder}",
    )
