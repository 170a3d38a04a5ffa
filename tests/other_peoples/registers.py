"""uModbus: a hundred registers, each three times its address."""

from socketserver import TCPServer

from umodbus.server.tcp import RequestHandler, get_server

server = get_server(TCPServer, ("127.0.0.1", 0), RequestHandler)


@server.route(slave_ids=[1], function_codes=[3], addresses=range(100))
def read(slave_id: int, function_code: int, address: int) -> int:
    """Return a register."""
    return address * 3
