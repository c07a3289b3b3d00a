"""What Pulumi says when it fails, as an error of ours: what is wrong with what, and the remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pulumi.automation import CommandError

from slipway.environment import Environment
from slipway.errors import InvalidInput, Problem, SlipwayError
from slipway.settings import ENVIRONMENTS

_PASSPHRASE = ("incorrect passphrase", "passphrase must be set", "cipher: message authentication failed")
_PLUGIN = re.compile(r"resource plugin 'pulumi-resource-(?P<name>[\w-]+)'(?:[^\n]*?version (?P<version>v[\d.]+))?")
_UNREACHABLE = re.compile(r"(connection refused|no such host|i/o timeout|Max retries exceeded)", re.IGNORECASE)
_THERE_ALREADY = re.compile(r"(already exists|is there already)")
_WEBHOOK = re.compile(r'failed calling webhook "(?P<name>[^"]+)"')
# All that the provider says of a removal that does not end.
_HELD = "timed out waiting for the condition"
# Of gRPC, when the process at the other end is gone.
_PROVIDER_GONE = ("code = Unavailable", "error reading from server", "transport is closing")
_FORBIDDEN = re.compile(r'User "(?P<user>[^"]+)" cannot (?P<right>[^:\n]+)')
# What everything else says once one thing has failed.
_ECHOES = (
    "client connection is closing",
    "resource monitor shut down",
    "update failed",
    "preview failed",
    "context canceled",
)
_MOST = 12


def spell(environment: Environment) -> str:
    """What to type after `--env` for this environment: its name where that is found, or else its file."""
    shipped = ENVIRONMENTS / f"{environment.settings.name}.toml"
    return environment.settings.name if environment.file == shipped else str(environment.file)


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
                f"pulumi plugin install resource {name}{version} (without the internet: docs/operations.md, Air gap)",
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
    if is_without_provider(text):
        hint = "Pulumi's provider died: the same command goes on, and looks first at what it had begun"
    elif _HELD in text:
        hint = "what holds it: docs/troubleshooting.md, `timed out waiting`; then the same command again"
    elif match := _WEBHOOK.search(text):
        hint = f"nobody answers for {match['name']}: `kubectl get pods -A` tells whether its operator runs"
    elif _UNREACHABLE.search(text):
        hint = "is the cluster up, and is kubernetes.kubeconfig its file? `slipway doctor` tells"
    elif _THERE_ALREADY.search(text):
        hint = "something of that name is there and not in the state: docs/troubleshooting.md, `is there already`"
    return SlipwayError(f"{stack} failed:\n" + "\n".join(f"  {line}" for line in told), hint=hint)


def is_passing(errors: Sequence[str]) -> bool:
    """Whether all that failed is that webhooks did not answer: those of an operator do so a moment after its pods."""
    causes = [text for text in errors if not any(echo in text for echo in _ECHOES)]
    return bool(causes) and all(_WEBHOOK.search(text) for text in causes)


def is_without_provider(text: str) -> bool:
    """Whether Pulumi's provider died before it answered: nobody knows then what it had done."""
    return any(sign in text for sign in _PROVIDER_GONE)


def _told(error: CommandError, errors: Sequence[str]) -> list[str]:
    """The engine's errors without their repetitions, or else what stands on Pulumi's own error lines."""
    told = [
        line
        for text in dict.fromkeys(errors)
        if not any(echo in text for echo in _ECHOES)
        for line in _without_traceback(text).splitlines()[:_MOST]
        if line.strip()
    ]
    if not told:
        told = [line.strip() for line in str(error).splitlines() if "error:" in line]
    return told[: 3 * _MOST] or [line for line in str(error).splitlines() if line.strip()][-3:]


def _without_traceback(text: str) -> str:
    """What a resource of ours raised in Pulumi's process, without the way that it took through Pulumi."""
    head, mark, trace = text.partition("Traceback (most recent call last):")
    raised = [line for line in trace.splitlines() if line and not line[0].isspace()]
    return f"{head}{raised[-1].partition(': ')[2]}" if mark and raised else head
