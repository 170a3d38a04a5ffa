"""Werkzeug: its own server for development, with threads."""

from werkzeug import Request, Response
from werkzeug.serving import make_server


@Request.application
def app(request: Request) -> Response:
    """Say back what came."""
    return Response(f"{request.method} {request.path} {request.get_data(as_text=True)}\n")


server = make_server("127.0.0.1", 0, app, threaded=True)
