"""Says what a mirror lacks: every item that is missing, differs from its digest, or was never looked up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slipway.errors import InvalidInput, Problem
from slipway.mirror.download import digest_of
from slipway.mirror.layout import Layout
from slipway.mirror.pins import Pin


@dataclass(frozen=True)
class Fault:
    """One item that an installation from this mirror would miss."""

    pin: Pin
    state: str
    """`missing`, `differs`, or `no digest`."""
    found: str


def check(folder: Path, pins: list[Pin], *, images: bool = True) -> list[Fault]:
    """Every fault, all content read again. Raises InvalidInput when there is no such folder."""
    if not folder.is_dir():
        raise InvalidInput(Problem("DIR", f"{folder}: there is no such folder", f"slipway mirror pull {folder}"))
    return [fault for pin in pins if images or pin.kind != "images" for fault in _faults(folder, pin)]


def is_there(folder: Path, pin: Pin) -> bool:
    """Whether the item has its place; its content is not read."""
    if pin.kind == "images":
        return bool(pin.digest) and Layout(folder / pin.file).images().get(pin.address) == pin.digest
    return (folder / pin.file).is_file()


def _faults(folder: Path, pin: Pin) -> Iterator[Fault]:
    if pin.kind == "images":
        yield from _image_faults(Layout(folder / pin.file), pin)
        return
    file = folder / pin.file
    if not file.is_file():
        yield Fault(pin, "missing", f"{pin.file} is not there")
    elif not pin.digest:
        yield Fault(pin, "no digest", "nobody has looked it up")
    elif (found := digest_of(file)) != pin.digest:
        yield Fault(pin, "differs", f"{pin.file} is {found}, pinned is {pin.digest}")


def _image_faults(layout: Layout, pin: Pin) -> Iterator[Fault]:
    held = layout.images().get(pin.address)
    if not held:
        yield Fault(pin, "missing", f"{pin.address} is not in images/index.json")
    elif not pin.digest:
        yield Fault(pin, "no digest", "nobody has looked it up")
    elif held != pin.digest:
        yield Fault(pin, "differs", f"is {held}, pinned is {pin.digest}")
    else:
        for text in layout.faults(held):
            yield Fault(pin, "missing" if "missing" in text else "differs", text)
