"""How the command line asks the platform through its gateway: with a role's token, trusting whom that gateway shows.

A cluster's gateway has a certificate of the platform's own authority unless another issuer is named; its public half is
read from the cluster. Nothing is retried here.
"""

from __future__ import annotations

import ssl
from base64 import b64decode
from typing import TYPE_CHECKING, Any

from slipway.endpoints import gateway_url
from slipway.environment import Environment
from slipway.errors import NotReady, SlipwayError
from slipway.kubernetes_settings import KubernetesSettings
from slipway.targets.kubernetes import names
from slipway.tokens import Role, read_token, token_file

if TYPE_CHECKING:
    import httpx

_SECONDS = 30.0


def request_code(environment: Environment, role: Role) -> str:
    """A code for a one-time address of the portal: what it opens may do what the role may.

    Raises NotReady when the platform is not up or not reached, SlipwayError when it does not take the token.
    """
    response = ask(environment, role, "/api/login")
    if response.status_code in (401, 403):
        refused = f"the portal refused the token in {token_file(environment, role)}"
        raise SlipwayError(refused, hint="was it rotated, or made on another machine? slipway up puts it in force")
    if response.status_code != 200:
        raise SlipwayError(f"the gateway answered {response.status_code}: {response.text[:200]}")
    return str(response.json()["code"])


def ask(environment: Environment, role: Role, path: str, document: Any = None) -> httpx.Response:
    """The answer to a POST, whatever its status. Raises NotReady when there is none."""
    import httpx

    token = read_token(environment, role)  # first: it says that there was no `up` yet
    url = httpx.URL(gateway_url(environment) + path)
    trust = _trust(environment)
    headers, extensions = {"authorization": f"Bearer {token}"}, {}
    if environment.settings.kubernetes and url.host.endswith(".localhost"):
        # Browsers take these names for this machine; its resolver may not know them.
        headers["host"], extensions["sni_hostname"] = url.netloc.decode(), url.host
        url = url.copy_with(host="127.0.0.1")
    try:
        # trust_env: a proxy or .netrc of the user's must never see the token.
        with httpx.Client(verify=trust, timeout=httpx.Timeout(_SECONDS, connect=10), trust_env=False) as client:
            return client.post(url, json=document, headers=headers, extensions=extensions)
    except httpx.HTTPError as error:
        raise _unreached(environment, error) from error


def _trust(environment: Environment) -> ssl.SSLContext:
    """This machine's authorities, and the one that has signed for the gateway."""
    trust = ssl.create_default_context()
    if environment.settings.kubernetes:
        secret = _read(environment, f"/api/v1/namespaces/{names.GATEWAY_NAMESPACE}/secrets/{names.TLS}")
        if not secret:
            raise NotReady(f"{environment.settings.name} is not up: its cluster has no gateway", hint="slipway up")
        # Absent where a public authority has signed.
        if authority := b64decode(secret.get("data", {}).get("ca.crt") or ""):
            trust.load_verify_locations(cadata=authority.decode())
    elif certificate := environment.settings.gateway.tls_certificate:
        trust.load_verify_locations(cafile=certificate)
    return trust


def _unreached(environment: Environment, error: Exception) -> NotReady:
    cluster = environment.settings.kubernetes
    if cluster is None:
        return NotReady(f"the gateway does not answer: {error}", hint="slipway status")
    message = f"the gateway of {environment.settings.name} does not answer at {gateway_url(environment)}: {error}"
    return NotReady(message, hint=f"*.{cluster.domain} must lead to {_address(environment, cluster)}")


def _address(environment: Environment, cluster: KubernetesSettings) -> str:
    """Where the Gateway says it is."""
    if cluster.provider == "kind":
        return "127.0.0.1, and kind's ports 80 and 443 be open there"
    path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{names.GATEWAY_NAMESPACE}/gateways/{names.GATEWAY}"
    found = _read(environment, path).get("status", {}).get("addresses") or []
    look = f"kubectl -n {names.GATEWAY_NAMESPACE} get gateway {names.GATEWAY}"
    return ", ".join(each["value"] for each in found) or f"the gateway, which has no address yet: {look}"


def _read(environment: Environment, path: str) -> dict[str, Any]:
    """An object of the environment's cluster, as the kubeconfig's user; empty where there is none."""
    from slipway.targets.kubernetes.doctor import KUBECONFIG
    from slipway.targets.kubernetes.examined_cluster import open_cluster

    settings = environment.settings.kubernetes
    return open_cluster(settings, environment.state.secrets / KUBECONFIG).get(path) if settings else {}
