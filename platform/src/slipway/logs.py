"""Structured logs: one JSON object a line on standard error, from our own code and from every library.

Secrets never reach a line: values under a telling key are masked, and so are bearer tokens inside a text.
It writes no files: supervisord keeps and rotates what a process prints.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRET_KEY = re.compile(r"token|secret|passw|authorization|cookie|credential|private_?key|api_?key", re.IGNORECASE)
_NOT_SECRET = re.compile(r"(_file|_path|_count|_role|_id)$", re.IGNORECASE)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_IN_ADDRESS = re.compile(r"(?i)([?&](?:token|key|code|secret)=)[^&\s\"']+")
MASK = "***"

# Their own lines at INFO say nothing about Slipway: a request each, a migration step each.
_CHATTY = ("httpx", "httpcore", "urllib3", "asyncio", "alembic", "matplotlib", "filelock", "git")


def mask_text(text: str) -> str:
    """The text without bearer tokens and without secrets in the query part of addresses."""
    return _IN_ADDRESS.sub(rf"\1{MASK}", _BEARER.sub(rf"\1 {MASK}", text))


def _mask(key: str, value: Any) -> Any:
    if _SECRET_KEY.search(key) and not _NOT_SECRET.search(key) and value is not None:
        return MASK
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, dict):
        return {name: _mask(str(name), item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mask(key, item) for item in value]
    return value


def mask_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: masks the values of telling keys at any depth."""
    for key in list(event):
        if key not in ("_record", "_from_structlog"):
            event[key] = _mask(key, event[key])
    return event


def _drop_terminal_colours(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("color_message", None)  # uvicorn's second copy of its text
    return event


def configure(process: str, *, level: int = logging.INFO) -> None:
    """Send everything that this process logs to standard error as JSON lines that carry the process's name.

    Fields: `timestamp` (RFC 3339, UTC, wall clock), `level`, `process`, `event`, and whatever the caller adds.
    Python warnings become lines as well. Calling it again replaces the former configuration.
    """

    def name_process(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("process", process)
        return event

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_process,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        mask_secrets,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.PositionalArgumentsFormatter(), *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _drop_terminal_colours,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # Access lines would repeat Envoy's own, with addresses that may carry a login code.
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def get_logger(name: str = "slipway") -> structlog.stdlib.BoundLogger:
    """A logger: `get_logger().info("promoted", model="flight_delay", version=3)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
