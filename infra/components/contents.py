"""What Secrets and ConfigMaps hold, as digests: a pod that reads one starts anew when it changes.

Kubernetes changes a mounted file under a running program and tells it nothing, and a variable stays as it was; no
program of the platform reads its password twice. A digest stands in a plain annotation, so it is keyed by a secret of
the environment: nobody who reads it can try passwords against it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi


@dataclass(frozen=True)
class Contents:
    """The digests of what the program has created so far."""

    key: str = field(repr=False)
    """Any secret of the environment that stays the same."""
    _digests: dict[tuple[str, str, str], pulumi.Output[str]] = field(default_factory=dict)

    def remember(self, kind: str, namespace: str, name: str, values: Mapping[str, pulumi.Input[str]]) -> None:
        """Take down what an object is created with."""
        digest = pulumi.Output.all(**values).apply(lambda read: digest_of(self.key, read))
        # Keyed, so it tells nothing of what it was made from; a secret would hide the pod's whole template in diffs.
        self._digests[kind, namespace, name] = pulumi.Output.unsecret(digest)

    def digest(self, kind: str, namespace: str, name: str) -> pulumi.Output[str]:
        """Changes whenever the object's values do; empty for what the program does not create itself."""
        return self._digests.get((kind, namespace, name)) or pulumi.Output.from_input("")


def digest_of(key: str, values: Mapping[str, str]) -> str:
    """HMAC-SHA-256 of the values, names included."""
    return hmac.new(key.encode(), json.dumps(values, sort_keys=True).encode(), hashlib.sha256).hexdigest()
