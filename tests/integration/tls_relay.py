"""Speaks TLS for a server that cannot: `python tls_relay.py PORT TARGET CERTIFICATE KEY`, both ports on loopback."""

from __future__ import annotations

import asyncio
import ssl
import sys
from contextlib import suppress


async def relay(port: int, target: int, context: ssl.SSLContext) -> None:
    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        writer.close()

    async with await asyncio.start_server(pass_on, "127.0.0.1", port, ssl=context) as server:
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
    asyncio.run(relay(int(port), int(target), context))


if __name__ == "__main__":
    main()
