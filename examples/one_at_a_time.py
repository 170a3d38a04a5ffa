"""Show what a server that serves one client at a time does to the second, and what others do.

python3 examples/one_at_a_time.py                              each mode, three clients
python3 examples/one_at_a_time.py --clients 2 iterative thread
"""

import argparse
import contextlib
import os
import select
import socket
import socketserver
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

MOMENT = 0.2  # seconds that a client stays once it is being served
LIMIT = 20  # seconds after which we give up on a server that should have answered
WORKERS = 2
READY = "forkserve: listening on tcp://"
WHY = {
    "iterative": """One process, one client at a time. Client 2 was connected all the while: the
        kernel shook hands and took its data. Nobody read them until client 1 had left.""",
    "thread": """One process, a thread for each client. Nobody waited; they share the process's
        memory, one interpreter, and its end should one of them crash it.""",
    "process": """A process for each client, forked when it came. Nobody waited, and a crash would
        cost one client; but each has paid for a fork.""",
    "prefork": f"""{WORKERS} processes, forked before anybody came, each serving one client at a
        time: no fork while a client waits, and as many places as processes. The next one waits.""",
}


class Slow(socketserver.StreamRequestHandler):
    """Tell a client who serves it and since when, and, once it has said everything, until when.

    A handler of the standard library, because this file runs where forkserve is not installed.
    """

    def handle(self) -> None:
        self.rfile.readline()
        self.tell(os.getpid(), threading.get_native_id(), time.monotonic_ns())
        self.rfile.read()
        self.tell(time.monotonic_ns())

    def tell(self, *numbers: int) -> None:
        """Send a line of numbers."""
        self.wfile.write(" ".join(map(str, numbers)).encode() + b"\n")


class Client:
    """One client, and what it was told."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, LIMIT)
        self.connected = time.monotonic_ns()  # one clock for all processes of a machine
        self.answers = self.socket.makefile("r")
        self.socket.sendall(b"hello\n")

    def hear(self) -> None:
        """Read who serves us, and since when."""
        self.pid, self.thread, self.began = map(int, self.answers.readline().split())

    def leave(self) -> None:
        """Say that this was everything, and read until when we were served."""
        self.socket.shutdown(socket.SHUT_WR)
        self.ended = int(self.answers.read())
        self.answers.close()
        self.socket.close()

    def draw(self, zero: int, column: float) -> str:
        """Return our time as a line: waiting, being served, by whom."""
        moments = [(moment - zero) / 1e9 for moment in (self.connected, self.began, self.ended)]
        came, began, ended = (round(moment / column) for moment in moments)
        bar = " " * came + "." * (began - came) + "#" * (ended - began)
        times = f"{moments[1]:5.2f} to {moments[2]:.2f} s"
        return f"{bar:28}{times}  pid {self.pid} thread {self.thread}"


@contextlib.contextmanager
def serving(mode: str) -> Iterator[tuple[str, int]]:
    """Serve Slow, in this very file, as a program of its own, and yield its address."""
    command = [sys.executable, "-m", "forkserve", "run", f"{Path(__file__).resolve()}:Slow"]
    command += ["--mode", mode, "-b", "tcp://127.0.0.1:0", "--log-level", "warning"]
    command += ["--drain-timeout", "1"]
    if mode == "prefork":
        command += ["--workers", str(WORKERS)]
    top = Path(__file__).resolve().parents[1]  # python3 -m finds forkserve in the current folder
    with subprocess.Popen(command, cwd=top, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                if line.startswith(READY):
                    break
                sys.stderr.write(line)
            else:
                sys.exit("the server has not started")
            host, port = line.removeprefix(READY).split(":")
            yield host, int(port)
        finally:
            server.terminate()
            sys.stderr.write(server.stderr.read())


def wait_until_served(clients: list[Client], count: int) -> list[Client]:
    """Return as many clients as there are places, once all these are being served."""
    served: list[Client] = []
    while len(served) < count:
        others = {client.socket: client for client in clients if client not in served}
        answered, _, _ = select.select(others, [], [], LIMIT)
        if not answered:
            sys.exit(f"only {len(served)} of {count} clients were served in {LIMIT} s")
        served += [others[sock] for sock in answered]
    return served


def play(mode: str, count: int) -> list[Client]:
    """Bring the clients to a server, and let each stay for a moment once it is being served."""
    places = {"iterative": 1, "prefork": WORKERS}.get(mode, count)
    with serving(mode) as address:
        clients = [Client(address) for _ in range(count)]
        waiting = clients[:]
        while waiting:
            served = wait_until_served(waiting, min(places, len(waiting)))
            waiting = [client for client in waiting if client not in served]
            for client in served:
                client.hear()
            # The moment ends early only if one that should wait is being served after all.
            select.select([client.socket for client in waiting], [], [], MOMENT)
            for client in served:
                client.leave()
    return clients


def main() -> None:
    """Play each mode and draw what happened."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("modes", nargs="*", metavar="MODE", help=", ".join(WHY))
    options.add_argument("--clients", type=int, choices=range(2, 10), default=3)
    chosen = options.parse_args()
    if unknown := set(chosen.modes) - set(WHY):
        options.error(f"no such mode: {', '.join(unknown)}")
    print("Clients that connect at the same time:  . connected, and waiting  # served")
    for mode in chosen.modes or WHY:
        clients = play(mode, chosen.clients)
        zero = clients[0].connected
        total = (max(client.ended for client in clients) - zero) / 1e9
        column = max(MOMENT / 9, total / 27)
        print(f"\n{mode}")
        for number, client in enumerate(clients, 1):
            print(f"client {number} {client.draw(zero, column)}")
        print(textwrap.fill(" ".join(WHY[mode].split()), 80))


if __name__ == "__main__":
    main()
