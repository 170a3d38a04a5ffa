"""The standard library's event loop: peers_asyncio.py protocols|streams peer|server."""

import asyncio
import sys

from benchmarks.peers_uvloop import main as serve_protocols


async def until_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back whatever arrives until the peer ends."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer once and leave."""
    writer.write(await reader.read(65536))
    await writer.drain()
    writer.close()


async def serve_streams(shape: str) -> None:
    """Serve until TERM."""
    handle = until_end if shape == "peer" else once
    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=2048)
    port = server.sockets[0].getsockname()[1]
    print(f"listening on tcp://127.0.0.1:{port}", file=sys.stderr)
    await server.serve_forever()


def main(kind: str, shape: str) -> None:
    """Serve until TERM, with callbacks or with coroutines."""
    serve = serve_protocols if kind == "protocols" else serve_streams
    asyncio.run(serve(shape))


if __name__ == "__main__":
    main(*sys.argv[1:])
