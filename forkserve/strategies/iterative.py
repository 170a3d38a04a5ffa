"""One connection at a time, in the process that accepts it."""

from forkserve.acceptor import accept_loop
from forkserve.service import Service


class Iterative:
    """accept_loop here, every connection served here."""

    def serve(self, service: Service) -> None:
        """Serve until stopped; blocks."""
        door = service.make_door()
        service.say_ready()
        dispatcher = service.make_dispatcher(door.linger)
        accept_loop(door, dispatcher.dispatch)
        door.close()
        while door.has_lingering() and not service.stop.is_hurried:
            door.see_off(block=True)
