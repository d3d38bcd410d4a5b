"""The process: builds the parts, starts them, says where they listen, and waits for its end.

`python -m tests.bigquery_server --folder DIR` prints `{"rest": …, "grpc": …}` on one line. It ends
on SIGTERM, when its standard input is a pipe that is closed, and with `--parent`, if given.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import signal
import stat
import sys
import threading
from pathlib import Path

from tests.bigquery_server.catalog import Catalog
from tests.bigquery_server.control import Control
from tests.bigquery_server.engine import Engine
from tests.bigquery_server.faults import FaultBook
from tests.bigquery_server.http_server import HttpServer
from tests.bigquery_server.jobs import Jobs
from tests.bigquery_server.read_service import ReadService, serve
from tests.bigquery_server.rest import Rest
from tests.bigquery_server.settings import Settings
from tests.bigquery_server.stats import Stats
from tests.bigquery_server.tokens import Tokens

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description="A local BigQuery server for tests.")
    parser.add_argument("--folder", type=Path, required=True, help="where the log is written")
    parser.add_argument("--parent", type=int, help="the process that this one ends with")
    arguments = parser.parse_args()
    if arguments.parent is not None:
        _die_with(arguments.parent)
    ended = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN if arguments.parent else signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    logging.basicConfig(filename=arguments.folder / "server.log", level=logging.WARNING)

    settings, stats, faults, tokens = Settings(), Stats(), FaultBook(), Tokens()
    catalog = Catalog()
    engine = Engine(catalog, faults)
    jobs = Jobs(catalog, engine, faults, stats)
    rest = Rest(catalog, engine, jobs, faults, settings)
    reads = ReadService(catalog, engine, faults, stats, tokens, settings)
    control = Control(catalog, engine, faults, stats, tokens, rest, reads)
    http = HttpServer(rest, control, tokens, stats)
    grpc_server, grpc_port = serve(reads)
    threading.Thread(target=http.serve_forever, name="http", daemon=True).start()

    print(json.dumps({"rest": http.url, "grpc": f"127.0.0.1:{grpc_port}"}), flush=True)  # noqa: T201
    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        threading.Thread(target=_wait_for_end_of_input, args=(ended,), daemon=True).start()
    ended.wait()
    grpc_server.stop(grace=None).wait(1)
    # Threads that stall on purpose, or wait for a client that is paused, are not waited for.
    os._exit(0)


def _wait_for_end_of_input(ended: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1 << 16):
        pass
    ended.set()


def _die_with(parent_pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it ended before the call
        raise SystemExit(0)


if __name__ == "__main__":
    main()
