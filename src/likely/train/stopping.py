"""SIGINT and SIGTERM: the first asks training to save and stop, the second does what it always did."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """While this context is open, `caught` is the number of the signal that came, or 0.

    The handler only sets it. A second signal goes to whoever handled it before: at once, as without us. Outside the
    main thread, where Python allows no handlers, nothing is changed.
    """

    def __init__(self) -> None:
        self.caught = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.caught:
            self._restore()
            signal.raise_signal(number)
        self.caught = number

    def _restore(self) -> None:
        while self._before:
            number, before = self._before.popitem()
            signal.signal(number, signal.SIG_DFL if before is None else before)
