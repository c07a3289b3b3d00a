"""What Envoy is started with: its admin socket, its two listeners and the order of their filters.

Routes and clusters are not here; Envoy reads them from files and reads them again when they are replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slipway.environment import Environment
from slipway.targets.local.xds import MIRRORED_HEADER

Document = dict[str, Any]

_TYPE = "type.googleapis.com/envoy."
_FILTERS = f"{_TYPE}extensions.filters.http."
_AUTHORIZATION_HEADERS = ("cookie", "origin", "accept", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
"""What the portal sees of a request beside its host, method, path and bearer token."""
RAY_HEADER = "x-ray-authorization"
"""Carries Ray's own token, which the portal adds to what it has let through; a client's value is replaced."""


def _source(file: Path) -> Document:
    # Watching the folder is what makes a rename seen; a watch on the file itself would follow the old one.
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": str(file), "watched_directory": {"path": str(file.parent)}},
    }


def _http_filters() -> list[Document]:
    """Both checks are on for every route; the router comes last."""
    exact = [{"exact": name, "ignore_case": True} for name in _AUTHORIZATION_HEADERS]
    key_check = {
        "@type": f"{_FILTERS}api_key_auth.v3.ApiKeyAuth",
        "key_sources": [{"header": "Authorization"}],
        "forwarding": {"hide_credentials": True},
    }
    portal_check = {
        "@type": f"{_FILTERS}ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "failure_mode_allow": False,
        "status_on_error": {"code": 503},
        "allowed_headers": {"patterns": exact},
        "http_service": {
            "server_uri": {"uri": "http://localhost", "cluster": "portal", "timeout": "5s"},
            "path_prefix": "/authorize",
            "authorization_response": {"allowed_upstream_headers": {"patterns": [{"exact": RAY_HEADER}]}},
        },
    }
    buffer = {"@type": f"{_FILTERS}buffer.v3.Buffer", "max_request_bytes": 1 << 20}
    return [
        {"name": "envoy.filters.http.api_key_auth", "typed_config": key_check},
        {"name": "envoy.filters.http.ext_authz", "typed_config": portal_check},
        {"name": "envoy.filters.http.buffer", "disabled": True, "typed_config": buffer},
        {
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": f"{_FILTERS}router.v3.Router", "suppress_envoy_headers": True},
        },
    ]


def _removed_headers() -> Document:
    """What no client may say: Envoy's own headers, by which it would set time-outs and retries (everybody on this
    machine counts as internal), and that a request is a mirrored copy."""
    removed = [
        {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-", "ignore_case": True}}},
        {"remove": MIRRORED_HEADER},
    ]
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": f"{_TYPE}extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": removed,
        },
    }


def _failures_log() -> Document:
    """One JSON line for each answer of 500 and above; the path without its query, which may hold a login code."""
    fields = {
        "timestamp": "%START_TIME%", "event": "answered", "process": "envoy", "level": "warning",
        "method": "%REQ(:METHOD)%", "host": "%REQ(:AUTHORITY)%", "path": "%PATH(NQ)%", "status": "%RESPONSE_CODE%",
        "details": "%RESPONSE_CODE_DETAILS%", "flags": "%RESPONSE_FLAGS%", "cluster": "%UPSTREAM_CLUSTER%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "milliseconds": "%DURATION%",
        "prediction_id": "%REQ(X-PREDICTION-ID)%",
    }  # fmt: skip
    return {
        "name": "envoy.access_loggers.stderr",
        "filter": {
            "status_code_filter": {
                "comparison": {"op": "GE", "value": {"default_value": 500, "runtime_key": "slipway.log_status"}}
            }
        },
        "typed_config": {
            "@type": f"{_TYPE}extensions.access_loggers.stream.v3.StderrAccessLog",
            "log_format": {"json_format": fields},
        },
    }


def _listener(name: str, host: str, port: int, routes: Path, tls: tuple[Path, Path] | None) -> Document:
    manager = {
        "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "rds": {"route_config_name": name, "config_source": _source(routes)},
        "use_remote_address": True,
        "early_header_mutation_extensions": [_removed_headers()],
        # The portal looks paths up by themselves: what it sees and what is routed must be the same.
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {
            "idle_timeout": "300s",
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "request_headers_timeout": "10s",
        "stream_idle_timeout": "120s",
        "server_name": "slipway",
        "access_log": [_failures_log()],
        "http_filters": _http_filters(),
    }
    chain: Document = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if tls:
        certificate, key = tls
        pair = {"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(key)}}
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{_TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                    "tls_certificates": [pair],
                    "alpn_protocols": ["h2", "http/1.1"],
                },
            },
        }
    return {
        "name": name,
        "address": {"socket_address": {"address": host, "port_value": port}},
        # With port reuse, Envoy's default, a second Envoy would silently share the port with this one.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": 1 << 20,
        "filter_chains": [chain],
    }


def bootstrap(environment: Environment, *, folder: Path, admin: Path, ports: dict[str, int]) -> Document:
    """The whole document; routes and clusters are expected as files in `folder`."""
    gateway = environment.settings.gateway
    host = "127.0.0.1" if gateway.host == "localhost" else gateway.host
    tls = (gateway.tls_certificate, gateway.tls_key) if gateway.tls_certificate and gateway.tls_key else None
    connections = {
        "@type": f"{_TYPE}extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": 4096,
    }
    return {
        "node": {"id": environment.settings.name, "cluster": "slipway"},
        # It shows configurations whole, tokens included.
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        # Histograms of latency are merged only then; the default, 5 s, would show a short step without any.
        "stats_flush_interval": "1s",
        "dynamic_resources": {"cds_config": _source(folder / "clusters.json")},
        "static_resources": {
            "listeners": [
                _listener("gateway", host, ports["gateway"], folder / "gateway.json", tls),
                _listener("registry", "127.0.0.1", ports["registry"], folder / "registry.json", None),
            ],
        },
        "overload_manager": {
            "resource_monitors": [
                {"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": connections}
            ]
        },
    }
