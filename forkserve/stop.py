"""Remember how urgently this process was asked to stop."""


class Stop:
    """Flags that a signal handler or any thread may set, and that nothing ever clears.

    ``is_set``: accept what is queued, finish what runs, leave.
    ``is_hurried``: interrupt what runs and leave.
    ``is_retired``: accept nothing more, finish what runs, leave the queue to others.
    """

    __slots__ = ("is_hurried", "is_retired", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self.is_hurried = False
        self.is_retired = False

    def request(self) -> None:
        """Ask for an orderly stop."""
        self.is_set = True

    def hurry(self) -> None:
        """Ask for a stop that interrupts what runs."""
        self.is_set = True
        self.is_hurried = True

    def retire(self) -> None:
        """Ask to leave without emptying the queue, because somebody else will."""
        self.is_set = True
        self.is_retired = True
