"""Passes connections on: `python relay.py [--addresses CIDR] LISTEN=TARGET ...`, as long as it runs.

Each end is `unix:PATH` or `ADDRESS:PORT`. A socket file is seen by all network namespaces of a machine, so a relay
inside one and another outside lead connections through the wall. With `--addresses` it first gives loopback of its own
namespace these addresses. It imports nothing of Slipway and knows nothing of what passes.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import ipaddress
import socket
import struct
from contextlib import suppress

_UP = 0x1
_SET_FLAGS, _SET_ADDRESS, _SET_MASK = 0x8914, 0x8916, 0x891C
"""Requests to a network interface, from linux/sockios.h."""
_CHUNK = 65536

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def give_addresses(network: str) -> None:
    """Start loopback and give it a whole network: the kernel takes every address of it for this machine's own."""
    wanted = ipaddress.IPv4Network(network)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))
        for request, address in ((_SET_ADDRESS, wanted.network_address), (_SET_MASK, wanted.netmask)):
            fcntl.ioctl(handle, request, struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, address.packed))


async def relay(pairs: list[str]) -> None:
    for pair in pairs:
        here, _, there = pair.partition("=")

        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str = there) -> None:
            try:
                far_reader, far_writer = await _open(target)
            except OSError:
                writer.close()
                return
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
            for each in (writer, far_writer):
                each.close()

        if here.startswith("unix:"):
            await asyncio.start_unix_server(pass_on, here.removeprefix("unix:"))
        else:
            address, _, port = here.rpartition(":")
            await asyncio.start_server(pass_on, address, int(port))
    await asyncio.Event().wait()


async def _open(target: str) -> Streams:
    if target.startswith("unix:"):
        return await asyncio.open_unix_connection(target.removeprefix("unix:"))
    address, _, port = target.rpartition(":")
    return await asyncio.open_connection(address, int(port))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    with suppress(OSError):
        writer.write_eof()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--addresses", default="")
    parser.add_argument("pairs", nargs="*")
    options = parser.parse_args()
    if options.addresses:
        give_addresses(options.addresses)
    asyncio.run(relay(options.pairs))


if __name__ == "__main__":
    main()
