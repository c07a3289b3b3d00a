"""Who may do what with the cluster's feature store. Its servers let everybody do everything where nothing is declared.

By namespace and not by role: Feast reads an account's name, and so its roles, from a token whose signature it does not
check, but an account's namespace from what the API server says of the token.
"""

from __future__ import annotations

from typing import Any

READERS = ("slipway-system", "slipway-training", "slipway-serving")
"""Namespaces of the platform's own pods: revisions, runs and their runner, monitors."""


def feast_permissions() -> list[Any]:
    """Readers see definitions and values. No server changes any, for nobody: a release's Job does, in the database."""
    from feast.feast_object import ALL_RESOURCE_TYPES
    from feast.permissions.action import READ, AuthzedAction
    from feast.permissions.permission import Permission
    from feast.permissions.policy import NamespaceBasedPolicy

    return [
        Permission(
            name="read",
            types=ALL_RESOURCE_TYPES,
            actions=[AuthzedAction.DESCRIBE, *READ],
            policy=NamespaceBasedPolicy(list(READERS)),
        )
    ]
