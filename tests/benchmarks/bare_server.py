"""A peer: KServe's own server with the same booster, which is sent the finished features and keeps no log.

`python -m tests.benchmarks.bare_server MODEL_FILE PORT`, on loopback (KServe would bind every interface by itself).
"""

from __future__ import annotations

import socket
import sys
from typing import Any


def main() -> None:
    file, port = sys.argv[1], int(sys.argv[2])
    sys.argv[1:] = []  # KServe parses it when it is imported

    import lightgbm
    import numpy as np
    from kserve import Model, ModelServer
    from kserve.protocol.rest.server import RESTServer

    class Bare(Model):  # type: ignore[misc] # KServe ships no types
        def __init__(self) -> None:
            super().__init__("bare")
            self.booster = lightgbm.Booster(model_file=file)
            self.ready = True

        def predict(self, payload: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
            matrix = np.asarray(payload["instances"], dtype=np.float64)
            return {"predictions": self.booster.predict(matrix, num_threads=1).tolist()}

    models = ModelServer(workers=1, enable_grpc=False)
    models.register_model(Bare())
    server = RESTServer("kserve.model_server:app", models.dataplane, models.model_repository_extension, port)
    listener = socket.create_server(("127.0.0.1", port))
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
