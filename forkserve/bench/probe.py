"""Find out what a handler answers, and who ends the connection then."""

import select
import socket

from forkserve.bench.conversation import (
    DatagramExchange,
    Ending,
    Exchange,
    describe_difference,
    show,
)
from forkserve.bench.errors import BenchError
from forkserve.bench.load import CHUNK, split_address

QUIET = 0.25  # seconds without a byte after which an answer is taken to be whole
PATIENCE = 10.0
UNTIL_ENDING = 1.0  # seconds without an answer after which we end our side, and wait on
TRIES = 3
HINT = "write a script for it: --send @script.py"


def find_exchange(address: str, question: bytes) -> Exchange | DatagramExchange:
    """Ask a server some times, and return what its clients are to send and to expect.

    Blocks for a second or two; raises BenchError where it speaks first, answers nothing, or gives
    each client another answer.
    """
    _, kind, _ = split_address(address)
    ask = _ask_by_datagram if kind == socket.SOCK_DGRAM else _ask
    first = ask(address, question)
    for _ in range(TRIES - 1):
        other = ask(address, question)
        if other.answer != first.answer:
            difference = describe_difference(other.answer, first.answer)
            raise BenchError(
                f"the answers to {show(question)} differ from client to client ({difference}):"
                f" {HINT}"
            )
    return first


def _ask_by_datagram(address: str, question: bytes) -> DatagramExchange:
    family, kind, target = split_address(address)
    with socket.socket(family, kind) as sock:
        if family == socket.AF_UNIX:
            sock.bind("")
        sock.settimeout(PATIENCE)
        try:
            sock.connect(target)  # type: ignore[arg-type]
            sock.send(question)
            return DatagramExchange(question, sock.recv(CHUNK))
        except TimeoutError:
            raise BenchError(f"no answer to the datagram {show(question)}") from None
        except OSError as error:
            raise BenchError(f"asking {address}: {error.strerror}") from None


def _ask(address: str, question: bytes) -> Exchange:
    family, kind, target = split_address(address)
    with socket.socket(family, kind) as sock:
        sock.settimeout(PATIENCE)
        try:
            sock.connect(target)  # type: ignore[arg-type]
            if question and _is_readable(sock, QUIET):
                raise BenchError(_describe_first_word(sock.recv(CHUNK)))
            sock.sendall(question)
            return _hear(sock, question)
        except TimeoutError:
            raise BenchError(f"no answer to {show(question)} within {PATIENCE:g} s") from None
        except OSError as error:
            raise BenchError(f"asking {address}: {error.strerror}") from None


def _describe_first_word(said: bytes) -> str:
    if not said:
        return "the handler ends the connection before it is asked anything"
    return f"the handler speaks first, it says {show(said)}: {HINT}"


def _hear(sock: socket.socket, question: bytes) -> Exchange:
    ending = Ending.CLIENT
    if not _is_readable(sock, UNTIL_ENDING):
        ending = Ending.BOTH
        sock.shutdown(socket.SHUT_WR)
    answer = bytearray()
    while data := sock.recv(CHUNK):
        answer += data
        if ending is Ending.CLIENT and not _is_readable(sock, QUIET):
            return Exchange(question, bytes(answer))
    if not answer:
        raise BenchError(
            f"the handler ends the connection without an answer to {show(question)}: say with"
            " --send what it wants to hear"
        )
    return Exchange(question, bytes(answer), Ending.SERVER if ending is Ending.CLIENT else ending)


def _is_readable(sock: socket.socket, timeout: float) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
