"""Events as plain tuples, so that every process can read them, whatever it has imported."""

from __future__ import annotations

import os
from typing import Any

from ffbench.engine.crew import Done, Event, Gone, Opened, Raised
from ffbench.errors import UserError


def encode(event: Event) -> tuple[Any, ...]:
    """An event as a tuple."""
    match event:
        case Opened():
            return ("opened",)
        case Done(value):
            return ("done", value)
        case Raised(UserError() as error):
            return ("asks", error.what, error.fix)
        case Raised(OSError() as error):
            return ("full", error.errno)
        case Raised(error):
            return ("raised", str(error))
        case Gone(reason):
            return ("gone", reason)


def decode(message: tuple[Any, ...]) -> Event:
    """The event of a tuple that `encode` made."""
    match message:
        case ("opened",):
            return Opened()
        case ("done", value):
            return Done(value)
        case ("asks", what, fix):
            return Raised(UserError(what, fix))
        case ("full", number):
            return Raised(OSError(number, os.strerror(number)))
        case ("raised", text):
            return Raised(RuntimeError(text))
        case ("gone", reason):
            return Gone(reason)
    raise ValueError(f"{message!r} is no event")
