"""Feast's online store of a cluster: Valkey (or Redis), by the rules of the SQLite one.

A row never gives way to an older one: the server compares the event times in the script that writes, so that two
writers cannot interleave. Feast's own store for Redis compares whole seconds, and in another round trip than it writes.
A key holds a row's values, which change together, as `feature_repo.online` packs them. Deliberately not supported:
several servers that share the keys, and removing a view's rows (their keys are evicted when memory is short).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from feast.infra.online_stores.online_store import OnlineStore
from feast.repo_config import FeastConfigBaseModel

from feature_repo.online import BETWEEN_NAMES, PackedRows

_SECONDS = 2.0
"""Longest wait for the server: whoever asks has defaults, and asks again."""
_FIELDS = ("names", "packed", "event_us")
# Numbers of a script are doubles: microseconds of event time stay whole until the year 2255.
_WRITE = """\
local held = redis.call('HGET', KEYS[1], 'event_us')
if held and tonumber(held) > tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], 'names', ARGV[1], 'packed', ARGV[2], 'event_us', ARGV[3], 'written_us', ARGV[4])
return 1
"""


class GuardedValkeyOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    type: Literal["feature_repo.valkey.GuardedValkeyOnlineStore"] = "feature_repo.valkey.GuardedValkeyOnlineStore"
    connection_string: str
    """`host:port,password=...,ssl=true,ssl_ca_certs=FILE`, Feast's own spelling; all but the first may be missing."""


class GuardedValkeyOnlineStore(PackedRows, OnlineStore):  # type: ignore[misc]
    """One pool of connections for each process. Whatever goes wrong is a redis.RedisError."""

    def __init__(self) -> None:
        super().__init__()
        self._clients: dict[str, Any] = {}

    def write_packed(
        self, config: Any, table: Any, names: Sequence[str], rows: Iterable[tuple[bytes, bytes, int, int]]
    ) -> int:
        """Each row for itself: a crash in between leaves the rest to be published again."""
        client, prefix, header = self._client(config), _prefix(config, table), BETWEEN_NAMES.join(names)
        write = client.register_script(_WRITE)
        pipeline = client.pipeline(transaction=False)
        for key, packed, event, written in rows:
            write(keys=[prefix + key], args=[header, packed, event, written], client=pipeline)
        taken: list[int] = pipeline.execute()
        return len(taken) - sum(taken)

    def read_packed(self, config: Any, table: Any, keys: Sequence[bytes]) -> dict[bytes, tuple[list[str], bytes, int]]:
        prefix, wanted = _prefix(config, table), list(dict.fromkeys(keys))
        pipeline = self._client(config).pipeline(transaction=False)
        for key in wanted:
            pipeline.hmget(prefix + key, _FIELDS)
        found = zip(wanted, pipeline.execute(), strict=True)
        return {
            key: (names.decode().split(BETWEEN_NAMES), packed, int(event))
            for key, (names, packed, event) in found
            if packed is not None
        }

    def update(self, config: Any, *_: Any, **__: Any) -> None:
        """Keys need no tables. The server is asked all the same: the first look-up then finds a connection."""
        self._client(config).ping()

    def teardown(self, config: Any, tables: Sequence[Any], entities: Sequence[Any]) -> None:
        """Keys stay until they are evicted."""

    def _client(self, config: Any) -> Any:
        address = config.online_store.connection_string
        if address not in self._clients:
            from redis import Redis

            place, *options = address.split(",")
            host, _, port = place.rpartition(":")
            told = dict(option.split("=", 1) for option in options)
            self._clients[address] = Redis(
                host=host,
                port=int(port),
                password=told.get("password") or None,
                ssl=told.get("ssl") == "true",
                ssl_ca_certs=told.get("ssl_ca_certs"),
                socket_timeout=_SECONDS,
                socket_connect_timeout=_SECONDS,
            )
        return self._clients[address]


def _prefix(config: Any, table: Any) -> bytes:
    return f"{config.project}:{table.name}:".encode()
