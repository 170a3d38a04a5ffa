"""Tell over HTTP what a stock HTTP handler sees."""

import json
from http.server import BaseHTTPRequestHandler


class Describe(BaseHTTPRequestHandler):
    """Answer every GET with the attributes that stock handlers use."""

    def do_GET(self) -> None:
        """Answer in JSON."""
        server = self.server
        seen = {
            "client_address": self.client_address,
            "address_string": self.address_string(),
            "server_address": server.server_address,
            "server_name": getattr(server, "server_name", None),
            "server_port": getattr(server, "server_port", None),
        }
        body = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""
