"""A SimpleXMLRPCServer at the top of a module, as the standard library's documentation has it."""

import os
from typing import Any
from xmlrpc.client import Binary
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer


class Handler(SimpleXMLRPCRequestHandler):
    """Answers at the usual path only."""

    rpc_paths = ("/RPC2",)


class Calculator:
    """Can do what is called by name."""

    def multiply(self, one: int, other: int) -> int:
        """Return the product."""
        return one * other

    def pid(self) -> int:
        """Return the process that answers."""
        return os.getpid()


def power(base: Any, exponent: Any) -> Any:
    """Return the power."""
    return base**exponent


def fail() -> None:
    """Fail, which the client is told."""
    raise ValueError("raised on purpose")


def turn(data: Any) -> Any:
    """Return the bytes in the opposite order."""
    return Binary(data.data[::-1])


server = SimpleXMLRPCServer(
    ("127.0.0.1", 0), requestHandler=Handler, allow_none=True, logRequests=False
)
server.register_introspection_functions()
server.register_function(power, "pow")
server.register_function(lambda one, other: one + other, "add")
server.register_function(fail)
server.register_function(turn)
server.register_instance(Calculator())

if __name__ == "__main__":
    server.serve_forever()
