"""Hold idle connections beside the load."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from forkserve.bench.load import split_address

AT_ONCE = 250
TIMEOUT = 20.0
RESERVE = 200  # descriptors for all else


@contextmanager
def holding(address: str, count: int, first: bytes = b"", answer: bytes = b"") -> Iterator[None]:
    """Hold so many connections while the block runs, each asked once, if there is what to ask.

    Blocks while they are made; raises OSError where one cannot be made or gets no answer.
    """
    raise_limit(count + RESERVE)
    family, kind, target = split_address(address)
    with ExitStack() as stack:
        made = 0
        while made < count:
            batch = [
                stack.enter_context(socket.socket(family, kind))
                for _ in range(min(AT_ONCE, count - made))
            ]
            for sock in batch:
                sock.settimeout(TIMEOUT)
                sock.connect(target)  # type: ignore[arg-type]
                if first:
                    sock.sendall(first)
            for sock in batch if answer else ():
                if not _receives(sock, answer):
                    raise ConnectionError(
                        f"a connection to be held got no answer ({made} are held)"
                    )
            made += len(batch)
        yield


def _receives(sock: socket.socket, answer: bytes) -> bool:
    got = b""
    while len(got) < len(answer):
        data = sock.recv(len(answer) - len(got))
        if not data:
            return False
        got += data
    return got == answer


def raise_limit(descriptors: int) -> None:
    """Let this process and those it starts open so many; raises OSError where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= descriptors:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, max(hard, descriptors)))
    except (ValueError, OSError):
        raise OSError(f"{descriptors} descriptors are needed and {hard} allowed") from None
