"""A worker process of this machine: tasks in by a socket, events out. `ffbench.engine.local` starts it."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

from ffbench.engine.crew import Desk, Raised
from ffbench.engine.wire import encode
from ffbench.worker import end_group, leave


def _follow_parent() -> None:
    """Ask Linux to kill this process with its parent; elsewhere the end of the socket has to do."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _read(link: Connection, inbox: queue.Queue[Any], desk: Desk) -> None:
    try:
        while (message := link.recv()) is not None:
            inbox.put(message)
            for payload in message:
                desk.ahead(payload)
    except EOFError:
        end_group()  # the caller is dead; what is in work is nobody's
    inbox.put(None)


def main() -> None:
    """Work until the caller says so or is gone; what is printed goes to stderr."""
    link = Connection(int(sys.argv[2]))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _follow_parent()
    desk = Desk(*link.recv())
    inbox: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_read, args=(link, inbox, desk), daemon=True).start()
    opened = desk.open()
    link.send(encode(opened))
    if isinstance(opened, Raised):
        return
    while (message := inbox.get()) is not None:
        for event in desk.do(message, lambda: [one for one in tuple(inbox.queue) if one]):
            link.send(encode(event))
    desk.close()
    leave()
