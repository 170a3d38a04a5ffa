"""Tell who has a port that we want (proc(5), /proc/net/tcp)."""

import contextlib
import os

_LISTEN = "0A"


def find_occupant(port: int, *, is_datagram: bool) -> str:
    """Return ", process N (name) has it", or nothing if that cannot be seen from here."""
    inodes = {
        f"socket:[{inode}]"
        for table in (("udp", "udp6") if is_datagram else ("tcp", "tcp6"))
        for inode in _read_inodes(table, port, is_datagram=is_datagram)
    }
    for pid in filter(str.isdigit, os.listdir("/proc")) if inodes else ():
        with contextlib.suppress(OSError):  # gone meanwhile, or not ours to look into
            folder = f"/proc/{pid}/fd"
            if any(os.readlink(f"{folder}/{one}") in inodes for one in os.listdir(folder)):
                with open(f"/proc/{pid}/comm") as file:
                    return f", process {pid} ({file.read().strip()}) has it"
    return ""


def _read_inodes(table: str, port: int, *, is_datagram: bool) -> list[str]:
    found = []
    with contextlib.suppress(OSError), open(f"/proc/net/{table}") as file:
        next(file, None)
        for line in file:
            row = line.split(maxsplit=10)
            if not is_datagram and row[3] != _LISTEN:
                break  # listeners come first, and behind them maybe a second's worth of TIME_WAIT
            if int(row[1].rpartition(":")[2], 16) == port:
                found.append(row[9])
    return found
