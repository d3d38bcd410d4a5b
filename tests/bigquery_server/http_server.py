"""The HTTP side: one port for BigQuery v2, the token endpoint and the controls."""

from __future__ import annotations

import json
import logging
import socket
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.bigquery_server.control import Control
from tests.bigquery_server.errors import ApiError
from tests.bigquery_server.faults import RestFault
from tests.bigquery_server.rest import Request, Rest
from tests.bigquery_server.stats import Stats
from tests.bigquery_server.tokens import GrantError, Tokens

_log = logging.getLogger(__name__)

_CONTROL = "/_control/"


class HttpServer(ThreadingHTTPServer):
    """Listens on a free loopback port; a thread a connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, rest: Rest, control: Control, tokens: Tokens, stats: Stats) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rest = rest
        self.control = control
        self.tokens = tokens
        self.stats = stats

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go away at any time; anything else is a defect, and logged."""
        _log.debug("connection from %s", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body in one segment: with Nagle's algorithm the second waits for an ACK.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: HttpServer

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PATCH(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class' name
        _log.debug(format, *args)

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        try:
            if path == "/token":
                self._answer(200, self._grant(body))
            elif path.startswith(_CONTROL):
                made = self.server.control.answer(path.removeprefix(_CONTROL), json.loads(body))
                self._answer(200, made)
            else:
                query = dict(urllib.parse.parse_qsl(url.query))
                fields = json.loads(body) if body else {}
                self._answer_rest(Request(self.command, path, query, fields))
        except GrantError as error:
            self._answer(400, error.body)
        except ApiError as error:
            self._answer(error.status, _error_json(error))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except Exception as error:  # noqa: BLE001  # a defect of ours; the client is told
            _log.exception("%s %s", self.command, self.path)
            self._answer(
                500, _error_json(ApiError("INTERNAL", "internalError", f"local server: {error!r}"))
            )

    def _grant(self, body: bytes) -> dict[str, Any]:
        self.server.stats.called("token", dict(self.headers))
        return self.server.tokens.grant(dict(urllib.parse.parse_qsl(body.decode())))

    def _answer_rest(self, request: Request) -> None:
        name, answer = self.server.rest.route(request)
        self.server.stats.called(name, dict(self.headers))
        try:
            fault = self.server.rest.faults.on_request(request.method, request.path)
            if fault is not None and fault.drop:
                self._drop()
                return
            if fault is not None:
                raise _error_of(fault)
            self.server.tokens.check(self.headers.get("Authorization"))
            made = answer()
        except ApiError as error:
            self.server.stats.failed(name, error.reason)
            raise
        self._answer(200, made)

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, status: int, made: dict[str, Any]) -> None:
        content = json.dumps(made).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _error_of(fault: RestFault) -> ApiError:
    codes = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
    codes |= {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 502: "UNAVAILABLE", 503: "UNAVAILABLE"}
    code = codes.get(fault.status, "INVALID_ARGUMENT")
    return ApiError(code, fault.reason, fault.message, fault.status)


def _error_json(error: ApiError) -> dict[str, Any]:
    detail = {"message": error.message, "domain": "global", "reason": error.reason}
    return {
        "error": {
            "code": error.status,
            "message": error.message,
            "errors": [detail],
            "status": error.code,
        }
    }
