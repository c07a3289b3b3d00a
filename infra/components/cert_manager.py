"""cert-manager, and an authority of our own that signs what nobody outside needs to trust.

Does not ask a public authority for certificates: name a ClusterIssuer that does in `cert_manager.issuer`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.components import names, network
from infra.components.chart import HelmChart, HelmChartArgs
from infra.components.component import Component, Site
from infra.components.pods import Requests, SecretFiles

API = "cert-manager.io/v1"
AUTHORITY = "authority"
"""Secret with the authority's own certificate, in each namespace whose pods ask a part of ours by TLS."""
AUTHORITY_FILES = SecretFiles("/etc/slipway/authority", AUTHORITY, only=("ca.crt",))
"""Where they all find it, whoever's image they run."""
AUTHORITY_FILE = f"{AUTHORITY_FILES.path}/ca.crt"
_SECRET = "slipway-authority"  # noqa: S105  (its name)
_TRUSTING = (names.SYSTEM, names.SERVING, names.TRAINING)
"""Namespaces that are always there; a part that brings one of its own makes that one's."""


@dataclass(frozen=True)
class CertManagerArgs:
    site: Site


class CertManager(Component):
    """Issues and renews certificates; `issuer` is the ClusterIssuer for names inside the cluster."""

    def __init__(self, name: str, args: CertManagerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cert_manager", name, args.site, opts)
        self.issuer = names.GATEWAY_NAME
        operator: pulumi.Resource
        if args.site.settings.parts.cert_manager.existing:
            operator = self._look_up_definition("certificates.cert-manager.io")
        else:
            operator = self._create_operator()
        self._create_authority(operator)
        self.register_outputs({"issuer": self.issuer})

    def _create_operator(self) -> HelmChart:
        return HelmChart(
            "cert-manager",
            HelmChartArgs(
                site=self.site,
                part=self.part,
                pin="cert_manager",
                namespace=names.CERT_MANAGER,
                pods={
                    "cert-manager": Requests("10m", "64Mi", memory_limit="256Mi"),
                    "cert-manager-cainjector": Requests("10m", "64Mi", memory_limit="256Mi"),
                    "cert-manager-webhook": Requests("10m", "32Mi", memory_limit="128Mi"),
                },
                # An authority outside is reached over HTTPS, which the rule for the API server covers.
                ingress_from=network.from_api_server(10250),
                values={
                    # Not kept: definitions that stay behind would make the next `up` fail on what it did not make.
                    "crds": {"enabled": True, "keep": False},
                    # Its check of the own API is a Helm hook, which nothing here runs.
                    "startupapicheck": {"enabled": False},
                    "prometheus": {"enabled": True, "servicemonitor": {"enabled": False}},
                    "global": {"leaderElection": {"namespace": names.CERT_MANAGER}},
                },
            ),
            self._options(),
        )

    def _create_authority(self, operator: pulumi.Resource) -> None:
        root = self._create_custom(API, "ClusterIssuer", "slipway-root", None, {"selfSigned": {}}, after=[operator])
        # A ClusterIssuer reads its Secret from cert-manager's own namespace.
        authority = self._create_custom(
            API,
            "Certificate",
            _SECRET,
            names.CERT_MANAGER,
            {
                "isCA": True,
                "commonName": f"slipway {self.site.environment}",
                "secretName": _SECRET,
                "duration": "87600h",
                # One key for as long as the Secret is there: what the authority has signed stays good when it is made
                # anew, and clients that know it from before believe what it signs then.
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Never"},
                "issuerRef": {"name": "slipway-root", "kind": "ClusterIssuer", "group": "cert-manager.io"},
            },
            after=[root],
        )
        issuer = self._create_custom(
            API, "ClusterIssuer", self.issuer, None, {"ca": {"secretName": _SECRET}}, after=[authority]
        )
        for namespace in _TRUSTING:
            self._create_custom(*authority_of(namespace), after=[issuer])


def authority_of(namespace: str) -> tuple[str, str, str, str, dict[str, object]]:
    """The object by which a namespace gets `AUTHORITY`: a certificate that nobody shows.

    With it comes the authority's own, which is what pods mount, and cert-manager keeps it up to date.
    """
    spec = certificate_spec(AUTHORITY, [f"{AUTHORITY}.{namespace}"], names.GATEWAY_NAME)
    return API, "Certificate", f"{namespace}-{AUTHORITY}", namespace, spec


def certificate_spec(secret: str, host_names: list[str], issuer: str) -> dict[str, object]:
    """A certificate of 90 days, renewed after 60, for servers and clients alike."""
    return {
        "secretName": secret,
        "dnsNames": host_names,
        "duration": "2160h",
        "renewBefore": "720h",
        "usages": ["digital signature", "key encipherment", "server auth", "client auth"],
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        "issuerRef": {"name": issuer, "kind": "ClusterIssuer", "group": "cert-manager.io"},
    }
