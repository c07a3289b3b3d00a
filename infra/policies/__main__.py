"""What the engine runs: serves the pack until the engine ends it, or is no more."""

from __future__ import annotations

import os
import threading
import time

from infra.policies.pulumi_pack import serve

_LOOK_EVERY = 1.0


def end_with_parent() -> None:
    """End this process soon after its parent: an engine that is killed tells nobody, and its packs would stay."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    serve()
