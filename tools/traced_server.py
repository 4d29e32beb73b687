"""Run ``python -m rankserver`` from the current folder, and record its Python calls when told to.

``trace_calls.py`` starts it: ``traced_server.py CONTROL ARGUMENTS…``, where CONTROL is the descriptor of a
socket. When the server wakes up and finds a ``+`` there, the recording starts with its next wait. A ``-``
ends it, and the calls of all complete turns between the two are sent back as a line of JSON.

A turn begins when the server calls ``select`` and ends when it calls it again: nothing else is assumed of it.
"""

from __future__ import annotations

import json
import os
import runpy
import selectors
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import FrameType

# Bytes read at once from the control socket.
MAX_ORDERS: Final = 16


class Recorder:
    """Stands in front of ``select`` and records the calls that are made from one to the next."""

    def __init__(self, control: socket.socket) -> None:
        """Take orders from ``control``; nothing is recorded until the first."""
        self._control = control
        self._select = selectors.DefaultSelector.select
        self._is_recording = False
        self._complete: list[tuple[str, str]] = []
        self._turn: list[tuple[str, str]] = []

    def install(self) -> None:
        """Replace ``select`` of the default selector."""

        def select(selector: Any, timeout: float | None = None) -> Any:
            return self._wait(selector, timeout)

        selectors.DefaultSelector.select = select  # type: ignore[assignment,method-assign]

    def _wait(self, selector: Any, timeout: float | None) -> Any:
        sys.setprofile(None)
        self._complete += self._turn
        self._turn = []
        sys.setprofile(self._note if self._is_recording else None)
        ready = self._select(selector, timeout)
        profile = sys.getprofile()
        sys.setprofile(None)
        self._obey()
        sys.setprofile(profile if self._is_recording else None)
        return ready

    def _obey(self) -> None:
        try:
            order = self._control.recv(MAX_ORDERS, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        self._is_recording = order == b"+"
        if not self._is_recording:
            self._control.sendall(json.dumps(self._complete).encode() + b"\n")
        self._complete, self._turn = [], []

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename != __file__:
            self._turn.append((code.co_filename, getattr(code, "co_qualname", code.co_name)))


def main() -> None:
    """Run the server with the recorder in place."""
    control = socket.socket(fileno=int(sys.argv[1]))
    Recorder(control).install()
    sys.path[0] = os.getcwd()
    sys.argv[1:] = sys.argv[2:]
    runpy.run_module("rankserver", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
