"""A server object at the top of a module, where people put it, with attributes of its own."""

import json
import os
import socketserver


class Telling(socketserver.StreamRequestHandler):
    """Tell whether `self.server` is what the module says."""

    def handle(self) -> None:
        """Answer in JSON."""
        seen = {
            "is_the_object": self.server is server,
            "motto": getattr(self.server, "motto", None),
            "class": type(self.server).__name__,
            "address": self.server.server_address,
            "pid": os.getpid(),
        }
        self.wfile.write(json.dumps(seen).encode())


class Own(socketserver.ThreadingTCPServer):
    """Has an attribute of the class and gets one of the object."""

    allow_reuse_address = True
    motto = ""


server = Own(("127.0.0.1", 0), Telling)
server.motto = "as written"

unbound = Own(("127.0.0.1", 0), Telling, bind_and_activate=False)
unbound.motto = "as written"

if __name__ == "__main__":
    server.serve_forever()
