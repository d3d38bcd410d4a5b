"""The daemon's main process: builds the parts, starts them, waits, and takes them down.

It imports no torch and no warehouse's library, so that it starts at once and its RPCs never wait
for a busy interpreter; the workers do the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import resource
import shutil
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from faucet_client._version import __version__
from faucet_client.address import Address
from faucet_client.status import Status
from faucetd.conductor import Conductor
from faucetd.config import Settings
from faucetd.dealt import DealtFolders
from faucetd.errors import ConfigError
from faucetd.fetch.bigquery.settings import BigQuerySettings
from faucetd.journal import PlanJournal
from faucetd.locks import locked
from faucetd.publish.spill import Leftover, SpillFolder
from faucetd.serve.handoff import HandoffServer
from faucetd.serve.service import NOT_SERVING, SERVING, FaucetService, make_server, service_names
from faucetd.serve.sessions import SessionTable
from faucetd.sizes import format_size
from faucetd.spilling import claim, default_budget
from faucetd.worker.pool import WorkerPool

if TYPE_CHECKING:
    from faucetd.exposition import Exposition

_log = logging.getLogger(__name__)

DRAIN_S = 10.0
"""How long running readers may go on after SIGTERM."""

FINISH_SPILLING_S = 5.0
"""How long, after that, what is still to be written to disk may take."""


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        LockHeld: another daemon serves this address.
        ConfigError: the socket's folder cannot be used.
    """
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s faucetd %(levelname)s: %(message)s"
    )
    with (
        _folder(settings),
        _lock(settings.listen),
        _scratch(settings) as scratch_dir,
        _spill(settings) as spill,
    ):
        _raise_descriptor_limit()
        asyncio.run(_serve(settings, scratch_dir, spill))


async def _serve(settings: Settings, scratch_dir: Path, spill: SpillFolder | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    broken: asyncio.Future[None] = loop.create_future()
    loop.set_exception_handler(lambda _loop, context: _on_broken(broken, context))

    sessions = SessionTable()
    plans = PlanJournal(
        settings.scratch_dir / f"plans-{_address_name(settings)}", settings.bigquery
    )
    leftovers, spill_budget = _sweep(settings, spill, plans)
    dealt_dir = settings.scratch_dir / f"dealt-{_address_name(settings)}"
    dealt = DealtFolders(dealt_dir, settings.dealt_budget)
    conductor = Conductor(settings, scratch_dir, plans, dealt, spill, spill_budget)
    handoff = HandoffServer(
        _listen(settings.listen.handoff_path, settings),
        sessions,
        conductor,
        lambda uid: uid in settings.allowed_uids,
    )
    pool = WorkerPool(
        settings.workers, conductor, reads_warehouse=settings.bigquery != BigQuerySettings()
    )
    conductor.wire(pool, handoff.forget, lambda error: _set_broken(broken, error))
    conductor.take_up_spilled(leftovers)
    server, healths = make_server(FaucetService(sessions, conductor, handoff.expect))
    _bind(server, settings)
    exposition = _expose(settings, conductor.status)
    try:
        pool.start()
        handoff.start()
        await server.start()
        for name in service_names():
            await healths.set(name, SERVING)
        _log.info("faucetd %s serves at %s", __version__, settings.listen)
        waiting: set[asyncio.Future[Any]] = {asyncio.create_task(stop.wait()), broken}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for name in service_names():
            await healths.set(name, NOT_SERVING)
        if stop.is_set():
            conductor.drain()
            _log.info("draining for up to %.0f s", DRAIN_S)
            await _drained(conductor, stop)
            conductor.end_readers()
            await conductor.finish_spilling(FINISH_SPILLING_S)
    finally:
        if exposition is not None:
            exposition.stop()
        await server.stop(grace=0.5)
        handoff.stop()
        pool.stop()
        conductor.close()
        _remove_sockets(settings)
        _log.info("stopped")
    if broken.done():
        broken.result()


async def _drained(conductor: Conductor, stop: asyncio.Event) -> None:
    """Until no reader is left, DRAIN_S have passed, or a second signal comes."""
    stop.clear()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while conductor.has_readers() and not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.05)


def _on_broken(broken: asyncio.Future[None], context: dict[str, object]) -> None:
    """A callback of the loop raised: a bug, after which nothing can be promised. End, aloud."""
    error = context.get("exception")
    _log.critical("%s", context.get("message"), exc_info=error or None)  # type: ignore[arg-type]  # logging takes an exception
    if isinstance(error, Exception) and "handle" in context:
        _set_broken(broken, error)


def _set_broken(broken: asyncio.Future[None], error: Exception) -> None:
    if not broken.done():
        broken.set_exception(error)


@contextlib.contextmanager
def _folder(settings: Settings) -> Iterator[None]:
    """Makes sure that nobody else can put sockets where ours are."""
    address = settings.listen
    try:
        if not os.path.isdir(address.folder):
            os.makedirs(address.folder, mode=0o750)
            if _serves_others(settings):
                os.chmod(address.folder, 0o751)  # noqa: S103  # see _serves_others
        info = os.stat(address.folder)
    except OSError as error:
        raise ConfigError(f"cannot use the socket's folder {address.folder}: {error}") from None
    if info.st_uid != os.getuid():
        raise ConfigError(
            f"the socket's folder {address.folder} belongs to user {info.st_uid}, not to this one "
            f"({os.getuid()}), who could replace the socket; choose a folder of your own with "
            "--listen unix:///folder/faucetd.sock (it is made if it does not exist)"
        )
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"the socket's folder {address.folder} can be written by others (mode "
            f"{stat.S_IMODE(info.st_mode):o}), who could replace the socket; choose a folder "
            f"inside it, as in --listen unix://{address.folder}/faucetd/faucetd.sock"
        )
    yield


def _lock(address: Address) -> contextlib.AbstractContextManager[None]:
    """Holds the address: a second daemon ends at once instead of taking the sockets over."""
    return locked(
        Path(address.lock_path),
        0o640,
        f"another faucetd serves {address}: {{holder}}; stop it, or choose another --listen",
    )


@contextlib.contextmanager
def _scratch(settings: Settings) -> Iterator[Path]:
    """A folder that only this daemon uses; what an earlier one left there is removed."""
    folder = settings.scratch_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise ConfigError(f"scratch_dir {folder} belongs to another user; choose another one")
        mine = folder / f"daemon-{_address_name(settings)}"
        shutil.rmtree(mine, ignore_errors=True)
        mine.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(f"cannot use scratch_dir {folder}: {error}") from None
    try:
        yield mine
    finally:
        shutil.rmtree(mine, ignore_errors=True)


@contextlib.contextmanager
def _spill(settings: Settings) -> Iterator[SpillFolder | None]:
    if settings.spill_dir is None:
        yield None
        return
    with claim(settings.spill_dir) as folder:
        yield folder


def _sweep(
    settings: Settings, folder: SpillFolder | None, plans: PlanJournal
) -> tuple[list[Leftover], int]:
    """What an earlier daemon has left in `spill_dir`, swept, and the budget for all of it."""
    if folder is None:
        return [], 0
    try:
        leftovers = folder.sweep(lambda key, mark: not mark.planned or plans.has(key))
        used = sum(file.size for leftover in leftovers for file in leftover.files)
        budget = settings.spill_budget or default_budget(folder.path, used)
    except OSError as error:
        raise ConfigError(f"cannot use spill_dir {folder.path}: {error}") from None
    _log.info(
        "spill_dir %s: %s of %s are taken by %d datasets of earlier daemons",
        folder.path,
        format_size(used),
        format_size(budget),
        len(leftovers),
    )
    return leftovers, budget


def _address_name(settings: Settings) -> str:
    """Names folders of this address, which its lock makes this daemon's own."""
    return hashlib.sha256(os.fsencode(settings.listen.path)).hexdigest()[:16]


def _serves_others(settings: Settings) -> bool:
    """Whether other users may connect, and so must be let to the sockets.

    The handoff socket knows who they are, and without the secret that it gives nothing else is to
    be had.
    """
    return not settings.allowed_uids <= {os.getuid()}


def _raise_descriptor_limit() -> None:
    """Each resident segment is an open descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _listen(path: str, settings: Settings) -> socket.socket:
    """A listening SEQPACKET socket."""
    _remove_dead_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _socket_mode(settings):
            listener.bind(path)
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen at {path}: {error}") from None
    return listener


def _remove_dead_socket(path: str) -> None:
    """The lock is held, so a socket there is a dead daemon's; anything else is not ours."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError(f"cannot listen at {path}: a file that is no socket is there")
        os.unlink(path)


def _bind(server: grpc.aio.Server, settings: Settings) -> None:
    address = settings.listen
    _remove_dead_socket(address.path)
    with _socket_mode(settings):
        try:
            server.add_insecure_port(address.grpc_target)
        except RuntimeError as error:
            raise ConfigError(f"cannot listen at {address}: {error}") from None


def _expose(settings: Settings, status: Callable[[], Status]) -> Exposition | None:
    """Serves metrics, where they are wanted."""
    endpoint = settings.metrics
    if endpoint is None:
        return None
    from faucetd.exposition import Exposition  # it takes memory that few want

    try:
        if endpoint.path:
            _remove_dead_socket(endpoint.path)
            with _socket_mode(settings):
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                listener.bind(endpoint.path)
            listener.listen()
        else:
            host = "127.0.0.1" if endpoint.host == "localhost" else endpoint.host
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, endpoint.port), family=family)
            endpoint = replace(endpoint, port=listener.getsockname()[1])
    except OSError as error:
        raise ConfigError(f"metrics: cannot listen at {endpoint}: {error.strerror}") from None
    _log.info("metrics are at %s", endpoint if endpoint.path else f"http://{endpoint}/metrics")
    return Exposition(listener, status)


@contextlib.contextmanager
def _socket_mode(settings: Settings) -> Iterator[None]:
    """Sockets get mode 0660, or 0666: gRPC takes it from the umask, and has no other way."""
    before = os.umask(0o111 if _serves_others(settings) else 0o117)
    try:
        yield
    finally:
        os.umask(before)


def _remove_sockets(settings: Settings) -> None:
    ours = [settings.listen.path, settings.listen.handoff_path]
    if settings.metrics is not None and settings.metrics.path:
        ours.append(settings.metrics.path)
    for path in ours:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
