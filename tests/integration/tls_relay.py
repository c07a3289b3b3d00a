"""Speaks TLS for a server that cannot: `python tls_relay.py PORT TARGET CERTIFICATE KEY`, on loopback.

TARGET is a port of loopback; or the unix socket of a PostgreSQL, whose clients ask in clear whether to begin with TLS
(protocol 3.0, SSLRequest): they are told yes, and whoever does not ask is cut off.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from contextlib import suppress

_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


async def relay(port: int, target: str, context: ssl.SSLContext) -> None:
    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(target))
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        writer.close()

    async def pass_on_once_asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(len(_SSL_REQUEST)) == _SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(context)
                far_reader, far_writer = await asyncio.open_unix_connection(target)
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        writer.close()

    if target.isdigit():
        listening = await asyncio.start_server(pass_on, "127.0.0.1", port, ssl=context)
    else:
        listening = await asyncio.start_server(pass_on_once_asked, "127.0.0.1", port)
    async with listening as server:
        await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


def main() -> None:
    port, target, certificate, key = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asyncio.run(relay(int(port), target, context))


if __name__ == "__main__":
    main()
