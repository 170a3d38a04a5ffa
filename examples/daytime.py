"""Tell the day and time (RFC 867), over TCP and over UDP, with one function.

    python3 -m forkserve run examples/daytime.py:daytime -b tcp://:1313 -b udp://:1313
    nc 127.0.0.1 1313
    echo | nc -u -w 1 127.0.0.1 1313

A function gets what its address brings: a connection, or a datagram. Whoever asks over UDP may
have written somebody else's address on the datagram, another daytime server's for example, and
then the two answer each other for ever: do not show this port to the world.
"""

import time

import forkserve


def daytime(request: forkserve.Connection | forkserve.Datagram) -> None:
    """Answer whoever connects or sends a datagram, whatever is in it."""
    answer = time.strftime("%A, %B %d, %Y %H:%M:%S-%Z\r\n").encode()
    if isinstance(request, forkserve.Datagram):
        request.reply(answer)
    else:
        request.send_last(answer)
