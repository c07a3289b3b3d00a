"""The tokens that open the platform's doors, one per role, in files of mode 0600.

Whoever presents a role's token has that role and no other. Tokens are passed on as paths of these files, never as
arguments, in the environment of jobs, or in logs. What a browser holds instead is in `slipway.sessions`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from slipway.environment import Environment
from slipway.errors import InvalidInput, NotReady, Problem, SlipwayError, Unknown
from slipway.files import sync_folder, write_atomically
from slipway.pod import TOKENS

Role = Literal["predict", "labels", "read", "operate", "internal"]
ROLES: tuple[Role, ...] = get_args(Role)
MEANING: dict[Role, str] = {
    "predict": "ask a model for predictions",
    "labels": "deliver labels",
    "read": "see the pages, the dashboards and their numbers",
    "operate": "all that `read` sees, and change it: delete a run, submit a job",
    "internal": "the platform's own processes: tracking and registry",
}

_BYTES = 32


def token_file(environment: Environment, role: Role) -> Path:
    """Where the role's token is, to be passed on instead of the token. Raises Unknown for a role that is none."""
    if role not in ROLES:
        raise Unknown("role", role, ROLES)
    return environment.state.tokens / role


def read_token(environment: Environment, role: Role) -> str:
    """The token of a role. Raises NotReady before the first start, SlipwayError when others may read the file."""
    file = token_file(environment, role)
    if environment.pod is not None:
        return environment.pod.read(f"{TOKENS}/{role}")
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise NotReady(f"there is no token for role {role}", hint="slipway up makes the tokens") from None
    except OSError as error:
        raise SlipwayError(f"{file}: {error.strerror}", hint=f"slipway token rotate {role}") from error
    with os.fdopen(descriptor) as stream:
        if os.fstat(descriptor).st_mode & 0o077:
            raise SlipwayError(f"{file}: others may read it", hint=f"slipway token rotate {role}")
        token = stream.read().strip()
    if not token:
        raise SlipwayError(f"{file}: is empty", hint=f"slipway token rotate {role}")
    return token


def prepare(environment: Environment) -> list[Role]:
    """Make the tokens that are missing; those that exist stay, a pod's are given. Returns the roles that got one."""
    environment.state.prepare()
    if environment.pod is not None:
        return []
    return [role for role in ROLES if _create(token_file(environment, role))]


def rotate(environment: Environment, roles: Sequence[str] = ROLES) -> list[Path]:
    """Replace the tokens of these roles, all or none when a name is wrong; the old ones are refused as soon as the
    gateway has its new routes (`traffic.render`). Returns the files. Raises InvalidInput with every wrong name.
    """
    wrong = [role for role in roles if role not in ROLES]
    if wrong:
        hint = f"one of: {', '.join(ROLES)}"
        raise InvalidInput([Problem("role", f"{name!r} does not exist", hint) for name in wrong])
    environment.state.prepare()
    files = [token_file(environment, role) for role in ROLES if role in roles]
    for file in files:
        write_atomically(file, secrets.token_urlsafe(_BYTES) + "\n")
    return files


def _create(file: Path) -> bool:
    """Make the file with a new token unless it exists; of several processes one succeeds, and no one sees half."""
    if file.exists():
        return False
    draft = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        # A link fails where a rename would overwrite the token that another process has just handed out.
        os.link(draft, file)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(file.parent)
    return True
