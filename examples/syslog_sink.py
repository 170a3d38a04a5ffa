r"""Take in syslog messages over UDP, TCP and a Unix socket, and write each as a line.

    python3 -m forkserve run examples/syslog_sink.py:sink --mode thread \
        -b udp://:5514 -b tcp://:5514 -b unixgram:///tmp/log.sock
    logger -n 127.0.0.1 -P 5514 --udp -p mail.err hello

That line is `mail.err`, then what the message says of itself, then its text. The bytes of a text
stay as they are, but for control characters: a newline is shown as `\x0a`, so that nobody can
forge a line.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import nullcontext

import forkserve

FACILITIES = (
    b"kern user mail daemon auth syslog lpr news uucp cron authpriv ftp ntp security console"
    b" solaris-cron local0 local1 local2 local3 local4 local5 local6 local7"
).split()
SEVERITIES = b"emerg alert crit err warning notice info debug".split()
USER_NOTICE = 13  # what has no priority is taken for this (RFC 3164, 4.3.3)

PRIORITY = re.compile(rb"<(\d{1,3})>")
# Version, time, host, program, process, kind, [structured "data"]..., byte order mark, text.
RFC_5424 = re.compile(
    rb"\A1 (\S+) (\S+) (\S+) (\S+) \S+ "
    rb'(?:-|(?:\[(?:[^]"]|"(?:[^"\\]|\\.)*")*\])+)'
    rb"(?: (?:\xef\xbb\xbf)?|\Z)"
)
# A message in a stream (RFC 6587): its length and a space before it, or a newline or NUL after it.
FRAME = re.compile(rb"[\r\n\0]*(?:([1-9]\d{0,4}) |([^\n\0]+)[\n\0])")
BETWEEN_FRAMES = b"\r\n\0"
CONTROL = re.compile(rb"[\0-\x1f\x7f]")
LONGEST = 1 << 17  # bytes; a line in a stream that is longer becomes several messages


def sink(request: forkserve.Connection | forkserve.Datagram) -> None:
    """Write the message that a datagram is, or those of a connection."""
    if isinstance(request, forkserve.Datagram):
        write(line_of(request.data))
    else:
        for message in messages(request):
            write(line_of(message))


def messages(connection: forkserve.Connection) -> Iterator[bytes]:
    """Yield the messages of a stream; the last one needs no newline."""
    rest = b""
    while True:
        # Senders stay connected for days: where nothing has begun, a stop need not wait for them.
        with nullcontext() if rest else connection.idle():
            received = connection.recv()
        if not received:
            break
        whole, rest = split(rest + received)
        yield from whole
        if len(rest) > LONGEST:
            yield rest
            rest = b""
    if rest:
        yield rest


def split(received: bytes) -> tuple[list[bytes], bytes]:
    """Return the messages that are there as a whole, and the rest."""
    whole, at = [], 0
    while frame := FRAME.match(received, at):
        message, end = frame[2], frame.end()
        if message is None:
            end += int(frame[1])
            message = received[frame.end() : end]
        if end > len(received):
            break
        whole.append(message)
        at = end
    return whole, received[at:].lstrip(BETWEEN_FRAMES)


def line_of(message: bytes) -> bytes:
    """Return a message as the line that shows it."""
    priority = USER_NOTICE
    message = message.rstrip(BETWEEN_FRAMES)
    found = PRIORITY.match(message)
    if found and int(found[1]) < 8 * len(FACILITIES):
        priority = int(found[1])
        # What RFC 5424 has before the text becomes the like of RFC 3164.
        message = RFC_5424.sub(rb"\1 \2 \3[\4]: ", message[found.end() :])
    text = CONTROL.sub(lambda byte: b"\\x%02x" % ord(byte[0]), message)
    return b"%s.%s %s\n" % (FACILITIES[priority >> 3], SEVERITIES[priority & 7], text)


def write(line: bytes) -> None:
    """Write a line to standard output, and let nobody else's come in between.

    A pipe keeps only 4096 bytes together. Opened anew each time, the file is a lock between threads
    as well as processes, and one that a process which is killed lets go.
    """
    with open(__file__, "rb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        while line:
            line = line[os.write(1, line) :]
