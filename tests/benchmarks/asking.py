"""A client that costs next to nothing: prepared bytes over kept connections, answers read to their stated length."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path

LIMIT = 30.0
"""Seconds for one answer."""


@dataclass(frozen=True)
class Door:
    """Where to ask, and the request as bytes."""

    request: bytes
    socket: Path | None = None
    port: int = 0

    @classmethod
    def of(cls, path: str, document: object, *, socket: Path | None = None, port: int = 0, token: str = "") -> Door:
        body = json.dumps(document).encode()
        head = [f"POST {path} HTTP/1.1", f"host: 127.0.0.1:{port}", "content-type: application/json"]
        head += [f"authorization: Bearer {token}"] if token else []
        head += [f"content-length: {len(body)}", "", ""]
        return cls("\r\n".join(head).encode() + body, socket, port)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.socket is not None:
            return await asyncio.open_unix_connection(str(self.socket))
        return await asyncio.open_connection("127.0.0.1", self.port)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """Raises RuntimeError for anything but 200."""
    writer.write(request)
    async with asyncio.timeout(LIMIT):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        length = int(head.split(b"content-length:")[1].split(b"\r\n", 1)[0])
        body = await reader.readexactly(length)
    if status != 200:
        raise RuntimeError(f"answered {status}: {body[:300]!r}")
    return body


def ask_once(door: Door) -> bytes:
    """One request on a connection of its own."""

    async def run() -> bytes:
        reader, writer = await door.connect()
        try:
            return await _ask(reader, writer, door.request)
        finally:
            writer.close()

    return asyncio.run(run())


def measure_latency(door: Door, requests: int) -> float:
    """Median milliseconds of requests one after the other on one connection."""

    async def run() -> list[float]:
        reader, writer = await door.connect()
        spent = []
        for _ in range(requests):
            begun = time.perf_counter()
            await _ask(reader, writer, door.request)
            spent.append(time.perf_counter() - begun)
        writer.close()
        return spent

    spent = sorted(asyncio.run(run()))
    return spent[len(spent) // 2] * 1000


def measure_throughput(door: Door, requests: int, connections: int = 8) -> float:
    """Requests a second over some connections that each ask one after the other."""

    async def client(count: int) -> None:
        reader, writer = await door.connect()
        for _ in range(count):
            await _ask(reader, writer, door.request)
        writer.close()

    async def run() -> float:
        begun = time.perf_counter()
        await asyncio.gather(*(client(requests // connections) for _ in range(connections)))
        return (requests // connections) * connections / (time.perf_counter() - begun)

    return asyncio.run(run())
