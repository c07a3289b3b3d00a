"""How the lab's processes are asked whether they are ready."""

from __future__ import annotations

import urllib.error
import urllib.request


def is_healthy(port: int, path: str) -> bool:
    """Whether this port of loopback answers 200."""
    return ask(port, path) is not None


def ask(port: int, path: str) -> str | None:
    """The text of a 200 answer; None for any other and for none."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text if answer.status == 200 else None
    except (OSError, urllib.error.URLError):
        return None
