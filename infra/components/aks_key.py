"""A key of Key Vault that encrypts Kubernetes Secrets in the cluster's own store.

The vault answers from the internet, to whom Entra ID lets in: AKS reaches a closed one only inside its own network.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
from pulumi_azure_native import authorization, keyvault, managedidentity, resources

from infra.components import cloud
from infra.components.cluster_component import ClusterComponent, ClusterSite

CRYPTO_USER = "12338af0-0e69-4776-bea7-57ae8d297424"
"""Azure's own id of the role `Key Vault Crypto User`."""
RECOVERABLE = 7
"""Days for which a deleted vault can be had back; the least that Azure allows."""


@dataclass(frozen=True)
class AksKeyArgs:
    site: ClusterSite
    group: resources.ResourceGroup
    identity: managedidentity.UserAssignedIdentity


class AksKey(ClusterComponent):
    """`key_id`: with its version. A new version is taken when it stands here."""

    def __init__(self, name: str, args: AksKeyArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(name, args.site, opts)
        self.args = args
        vault = self._create_vault()
        key = keyvault.Key(
            f"{name}-secrets",
            resource_group_name=args.group.name,
            vault_name=vault.name,
            key_name="secrets",
            properties=keyvault.KeyPropertiesArgs(kty="RSA", key_size=3072, key_ops=["encrypt", "decrypt"]),
            opts=self._options(),
        )
        authorization.RoleAssignment(
            f"{name}-user",
            principal_id=args.identity.principal_id,
            principal_type="ServicePrincipal",
            role_definition_id=role_id(args.site, CRYPTO_USER),
            scope=vault.id,
            opts=self._options(),
        )
        self.key_id = key.key_uri_with_version
        self.register_outputs({"key": self.key_id})

    def _create_vault(self) -> keyvault.Vault:
        tenant = authorization.get_client_config_output(opts=pulumi.InvokeOptions(parent=self)).tenant_id
        return keyvault.Vault(
            # Names of vaults are the whole world's, and short: Pulumi puts some letters behind it.
            "slipway",
            resource_group_name=self.args.group.name,
            properties=keyvault.VaultPropertiesArgs(
                tenant_id=tenant,
                sku=keyvault.SkuArgs(family="A", name="standard"),
                enable_rbac_authorization=True,
                enable_soft_delete=True,
                soft_delete_retention_in_days=RECOVERABLE,
            ),
            tags=cloud.tags(self.site.environment),
            opts=self._options(),
        )


def role_id(site: ClusterSite, role: str) -> str:
    """The full id of one of Azure's own roles."""
    subscription = site.settings.network.subscription
    return f"/subscriptions/{subscription}/providers/Microsoft.Authorization/roleDefinitions/{role}"
