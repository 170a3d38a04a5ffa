"""Echo handlers for forkserve, one for each way a short connection ends, and for datagrams."""

import forkserve


class UntilEnd(forkserve.StreamHandler):
    """Send back whatever arrives until the peer ends: the peer closes first."""

    def handle(self) -> None:
        while data := self.connection.recv():
            self.connection.sendall(data)


class Once(forkserve.StreamHandler):
    """Answer once and leave: the server closes first."""

    def handle(self) -> None:
        self.connection.sendall(self.connection.recv())


class OnceLast(forkserve.StreamHandler):
    """Answer once, saying that nothing follows, and leave."""

    def handle(self) -> None:
        self.connection.send_last(self.connection.recv())


class OneDatagram(forkserve.DatagramHandler):
    """Send a datagram back."""

    def handle(self) -> None:
        self.datagram.reply(self.datagram.data)
