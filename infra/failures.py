"""What Pulumi says when it fails, as an error of ours: what is wrong with what, and the remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pulumi.automation import CommandError

from slipway.errors import InvalidInput, Problem, SlipwayError

_PASSPHRASE = ("incorrect passphrase", "passphrase must be set", "cipher: message authentication failed")
_PLUGIN = re.compile(r"no resource plugin 'pulumi-resource-(?P<name>[\w-]+)'(?:[^\n]*?version (?P<version>v[\d.]+))?")
_UNREACHABLE = re.compile(r"(connection refused|no such host|i/o timeout|Max retries exceeded)", re.IGNORECASE)
_FORBIDDEN = re.compile(r'User "(?P<user>[^"]+)" cannot (?P<right>[^:\n]+)')
# What everything else says once one thing has failed.
_ECHOES = ("client connection is closing", "resource monitor shut down", "update failed", "preview failed")
_MOST = 12


def explain(error: CommandError, errors: Sequence[str], *, stack: str, passphrase_file: object) -> SlipwayError:
    """The one of our errors that says it best. `errors`: what the engine reported while it ran."""
    text = f"{error}\n" + "\n".join(errors)
    if any(sign in text for sign in _PASSPHRASE):
        return InvalidInput(
            Problem(
                "kubernetes.backend.passphrase_file",
                f"{passphrase_file} is not the passphrase that {stack} was encrypted with",
                "put the file back from your backup",
            )
        )
    if match := _PLUGIN.search(text):
        name = match["name"]
        version = f" {match['version']}" if match["version"] else ""
        return InvalidInput(
            Problem(
                f"pulumi-resource-{name}",
                f"Pulumi's provider for {name} is not installed",
                f"pulumi plugin install resource {name}{version}",
            )
        )
    if match := _FORBIDDEN.search(text):
        return InvalidInput(
            Problem(
                "kubernetes.context",
                f"{match['user']} may not {match['right'].strip()}",
                "a context with these rights, or have them granted",
            )
        )
    told = _told(error, errors)
    hint = "nothing is lost: mend the cause and run the same command again"
    if _UNREACHABLE.search(text):
        hint = "is the cluster up, and is kubernetes.kubeconfig its file? `slipway doctor` tells"
    return SlipwayError(f"{stack} failed:\n" + "\n".join(f"  {line}" for line in told), hint=hint)


def _told(error: CommandError, errors: Sequence[str]) -> list[str]:
    """The engine's errors without their repetitions, or else what stands on Pulumi's own error lines."""
    told = [
        line
        for text in dict.fromkeys(errors)
        if not any(echo in text for echo in _ECHOES)
        for line in text.partition("Traceback (most recent call last)")[0].splitlines()[:_MOST]
        if line.strip()
    ]
    if not told:
        told = [line.strip() for line in str(error).splitlines() if "error:" in line]
    return told[: 3 * _MOST] or [line for line in str(error).splitlines() if line.strip()][-3:]
