"""Everything forkserve raises on purpose, each with the exit status it ends the command with."""


class ForkserveError(Exception):
    """Failed while starting or running; the message is one line that says what and where."""

    exit_status = 1


class ListenError(ForkserveError):
    """An address could not be listened on."""


class AddressInUse(ListenError):
    """Somebody else has the address, and may give it up."""


class UsageError(ForkserveError):
    """The command line is malformed."""

    exit_status = 2


class BootError(ForkserveError):
    """Workers died, hung or could not be forked before they were ready."""

    exit_status = 3


class NoThread(BootError):
    """There is no room for a worker's first thread."""


class TargetError(ForkserveError):
    """The target cannot be imported or is no handler."""

    exit_status = 4


class InternalError(ForkserveError):
    """A fault of forkserve's own, before anything has served or one too many."""

    exit_status = 70


class SettingsError(ForkserveError, ValueError):
    """A setting has a wrong value, or two settings contradict each other."""

    exit_status = 78


class IncompleteRead(EOFError):
    """The peer ended the connection in the middle of a message.

    ``partial`` has what did arrive.
    """

    def __init__(self, partial: bytes, expected: str) -> None:
        super().__init__(f"the connection ended after {len(partial)} bytes of {expected}")
        self.partial = partial


class MessageTooLong(ValueError):
    """A message is longer than the handler allows."""


def describe(error: BaseException) -> str:
    """Return the kind and the text of what a user's code raised; never raises."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return f"{type(error).__name__}, which cannot be shown"
