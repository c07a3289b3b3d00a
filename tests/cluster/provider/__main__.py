"""`pulumi-resource-kubernetes ENGINE`: serve the provider on loopback and print its port, as the engine expects."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
from pulumi.runtime._grpc_settings import _GRPC_CHANNEL_OPTIONS
from pulumi.runtime.proto import provider_pb2_grpc

from tests.cluster.provider.servicer import KubernetesServicer

_CHILDREN = 512


async def serve(engine: str) -> None:
    """Serve until the engine ends this process."""
    # Each child of a component holds a thread until the engine has made it, and children wait for one another.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_CHILDREN))
    engine_process = os.getppid()
    server = grpc.aio.server(options=_GRPC_CHANNEL_OPTIONS)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(KubernetesServicer(engine), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    # An engine that was killed ends nobody.
    while os.getppid() == engine_process:
        await asyncio.sleep(1)
    await server.stop(grace=None)


def main() -> None:
    """The engine's address is the first argument that is not a flag."""
    # The client says of each full pool that it drops a connection.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    addresses = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    asyncio.run(serve(addresses[0]))


if __name__ == "__main__":
    main()
