"""Being told to stop: SIGTERM and SIGINT set an event, which the loops of our processes wait on."""

from __future__ import annotations

import _thread
import signal
from threading import Event


def stop_on_signals() -> Event:
    """An event that SIGTERM or SIGINT sets. To be called in the main thread.

    A handler runs in the main thread, in the middle of whatever that does. One that called `Event.set` itself might
    find the event's lock held by the very `wait` that it has interrupted, and would never return; a thread of its own
    waits its turn. `_thread`, since `threading.Thread.start` takes locks of the same kind.
    """
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _thread.start_new_thread(stop.set, ()))
    return stop
