"""fakeredis: a Redis in memory."""

from fakeredis import TcpFakeServer

server = TcpFakeServer(("127.0.0.1", 0))
