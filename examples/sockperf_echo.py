"""Answer sockperf, which measures latency over TCP and UDP and tells the percentiles.

    python3 -m forkserve run examples/sockperf_echo.py:sockperf -b tcp://:11111 -b udp://:11111
    sockperf ping-pong -i 127.0.0.1 -p 11111 -t 5 --tcp

It does not take an echo for an answer: a message says in its header who has sent it, and in which
one its sender wants an answer to it.
"""

import struct

import forkserve

HEADER = struct.Struct("!QHI")  # its number, flags, and how long it is with the header
FROM_CLIENT, WANTS_ANSWER, WARM_UP = 1, 2, 4
LONGEST = 1 << 20


def sockperf(request: forkserve.Connection | forkserve.Datagram) -> None:
    """Answer one datagram, or the messages of one connection."""
    if isinstance(request, forkserve.Datagram):
        if answer := answer_to(request.data):
            request.reply(answer)
    else:
        while message := next_message(request):
            if answer := answer_to(message):
                request.send_all(answer)


def next_message(connection: forkserve.Connection) -> bytes:
    """Return the next message of a stream, b"" where no more can be found in it.

    That the client has ended is an IncompleteRead, which forkserve expects of every handler.
    """
    with connection.idle():
        header = connection.recv_exactly(HEADER.size)
    _, _, size = HEADER.unpack(header)
    if not HEADER.size <= size <= LONGEST:
        return b""
    return header + connection.recv_exactly(size - HEADER.size)


def answer_to(message: bytes) -> bytes:
    """Return the same message as the server's, b"" if it wants no answer."""
    if len(message) < HEADER.size:
        return b""
    number, flags, size = HEADER.unpack_from(message)
    if not flags & FROM_CLIENT or not flags & WANTS_ANSWER or flags & WARM_UP:
        return b""
    return HEADER.pack(number, flags - FROM_CLIENT, size) + message[HEADER.size :]
