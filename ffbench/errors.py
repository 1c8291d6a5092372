"""Errors that a user can mend."""


class UserError(Exception):
    """Something the user gave or lacks; printed as two lines with exit code 2, never with a traceback.

    Args:
        what: what is wrong, naming the file, field or option.
        fix: how to mend it, a command where there is one.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"error: {self.what}\nfix:   {self.fix}"
