"""dnslib: names of numbers have addresses, over UDP and over TCP."""

from typing import Any

from dnslib import RR
from dnslib.server import BaseResolver, DNSLogger, DNSServer


class Zone(BaseResolver):
    def resolve(self, request: Any, handler: Any) -> Any:
        reply = request.reply()
        number = request.q.qname.label[0].decode()
        reply.add_answer(*RR.fromZone(f"{request.q.qname} 60 A 192.0.2.{number}"))
        return reply


udp = DNSServer(Zone(), "127.0.0.1", 0, logger=DNSLogger("error")).server
tcp = DNSServer(Zone(), "127.0.0.1", 0, logger=DNSLogger("error"), tcp=True).server
