"""Amounts of CPU, memory and disk as Kubernetes writes them. Exact: `100m` and `0.1` are the same."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

_UNITS = {"": Decimal(1)}
_UNITS |= {
    unit: Decimal(10) ** power for unit, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)
}
_UNITS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)}
_WRITTEN = re.compile(r"(\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d+)|([A-Za-z]*))")


def parse_quantity(value: Any) -> Decimal:
    """`500m`, `1.5`, `2Gi`, `1e3` in plain units: cores, bytes. Raises ValueError for anything else."""
    match = _WRITTEN.fullmatch(str(value))
    if not match or (match[3] or "") not in _UNITS:
        raise ValueError(f"{value!r} is no quantity")
    return Decimal(match[1]) * (Decimal(10) ** int(match[2]) if match[2] else _UNITS[match[3] or ""])


def parse_bytes(value: Any) -> int:
    """Whole bytes."""
    return int(parse_quantity(value))
