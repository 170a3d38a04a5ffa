"""jsonrpclib-pelix: one function to call."""

from jsonrpclib.SimpleJSONRPCServer import SimpleJSONRPCServer

server = SimpleJSONRPCServer(("127.0.0.1", 0), logRequests=False)
server.register_function(pow)
