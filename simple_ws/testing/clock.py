"""`Clock`: time that passes only when a test says so."""

__all__ = ["Clock"]


class Clock:
    """A clock whose time passes only when the test says so; call it to read it.

    Attributes:
        now: its time in seconds.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The current time."""
        return self.now
