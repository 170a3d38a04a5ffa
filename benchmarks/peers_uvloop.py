"""A uvloop protocol that does what handlers.py does: peers_uvloop.py peer|server."""

import asyncio
import importlib
import sys
from typing import cast


class UntilEnd(asyncio.Protocol):
    """Send back whatever arrives until the peer ends."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Once(UntilEnd):
    """Answer once and leave."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.close()


async def main(shape: str) -> None:
    """Serve until TERM."""
    handler = UntilEnd if shape == "peer" else Once
    loop = asyncio.get_running_loop()
    server = await loop.create_server(handler, "127.0.0.1", 0, backlog=2048)
    port = server.sockets[0].getsockname()[1]
    print(f"listening on tcp://127.0.0.1:{port}", file=sys.stderr)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop = importlib.import_module("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
