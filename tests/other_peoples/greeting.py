"""Django: a view behind the server of `manage.py runserver`."""

from django.conf import settings
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path


def greet(request: HttpRequest, name: str) -> HttpResponse:
    """Say hello."""
    return HttpResponse(f"{request.method} {name}\n")


urlpatterns = [path("<name>", greet)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
server = ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler)
server.set_app(get_wsgi_application())
