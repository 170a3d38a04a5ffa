"""A Twisted protocol that does what handlers.py does: peers_twisted.py peer|server."""

import sys
from typing import Any

from twisted.internet import reactor as chosen_reactor
from twisted.internet.protocol import Factory, Protocol

reactor: Any = chosen_reactor  # a module that becomes the reactor of this system


class UntilEnd(Protocol):
    """Send back whatever arrives until the peer ends."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class Once(Protocol):
    """Answer once and leave."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.loseConnection()


def main(shape: str) -> None:
    """Serve until TERM."""
    factory = Factory.forProtocol(UntilEnd if shape == "peer" else Once)
    factory.noisy = False
    port = reactor.listenTCP(0, factory, backlog=2048, interface="127.0.0.1")
    print(f"listening on tcp://127.0.0.1:{port.getHost().port}", file=sys.stderr)
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
