"""Serves the metrics over HTTP, in a thread of its own; the event loop only makes the status.

One request at a time: there is one Prometheus, and whoever opens many connections gets no more
threads for them. What an idle connection can hold up is `REQUEST_TIMEOUT_S` of a scrape.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from faucet_client.status import Status
from faucetd.metrics import families

_log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 5.0
"""For each read and write of a request, and for the loop to make the status."""


class Exposition:
    """Answers at a listening socket, which it closes at the end.

    Made and stopped in the event loop.

    Args:
        listener: Bound and listening, TCP or Unix.
        status: Makes the status; called in the event loop.
    """

    def __init__(self, listener: socket.socket, status: Callable[[], Status]) -> None:
        self._server = _Server(listener)
        self._server.set_app(_application(status, asyncio.get_running_loop()))
        threading.Thread(target=self._serve, name="faucet-metrics", daemon=True).start()

    def stop(self) -> None:
        """Takes no more requests. Nobody waits for one that is under way: the process ends."""
        threading.Thread(target=self._server.shutdown, daemon=True).start()

    def _serve(self) -> None:
        with self._server:
            self._server.serve_forever(poll_interval=0.1)


class _Server(WSGIServer):
    """A server at a socket that exists, TCP or Unix."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """A connection, and an address in the form that a handler of TCP expects."""
        connection, _ = self.socket.accept()
        return connection, ("local", 0)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """What goes wrong between us and one who asks is no fault of the daemon."""
        _log.debug("a request for metrics failed", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        """Requests are nothing to log, but where everything is."""
        _log.debug("metrics: " + format, *args)


def _application(
    status: Callable[[], Status], loop: asyncio.AbstractEventLoop
) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    async def make_status() -> Status:
        return status()

    class FromTheLoop(Collector):
        def collect(self) -> Iterator[Metric]:
            made = asyncio.run_coroutine_threadsafe(make_status(), loop)
            return families(made.result(REQUEST_TIMEOUT_S))

    registry = CollectorRegistry()
    registry.register(FromTheLoop())
    answer = make_wsgi_app(registry)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            found: Iterable[bytes] = answer(environ, start_response)
        except (TimeoutError, RuntimeError):  # the loop is busy, or has just ended
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"the daemon is too busy to say how it is\n"]
        return found

    return application
