"""The gate that keeps threads out of gRPC while the process forks (faucet_client/forks.py)."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator

import pytest

from faucet_client import forks
from faucet_client.forks import Gate


@pytest.fixture
def gate() -> Gate:
    """One that no fork shuts but the test's."""
    return Gate()


@contextlib.contextmanager
def running(target: Callable[[], object]) -> Iterator[threading.Thread]:
    """A thread that must have ended by the end."""
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    yield thread
    thread.join(10)
    assert not thread.is_alive()


def shut(gate: Gate) -> None:
    """What happens before a fork, once it is installed."""
    gate._forks.append(None)
    gate._await_stillness()


def opened(gate: Gate) -> None:
    """What happens after it, in the parent."""
    gate._forks.pop()
    gate._forking.clear()  # in tests, another thread's


def test_a_fork_waits_for_who_is_on_their_way(gate: Gate) -> None:
    inside, go = threading.Event(), threading.Lock()
    go.acquire()

    def call() -> None:
        with gate.calling():
            inside.set()
            go.acquire()  # no Condition.wait: as if gRPC's own lock were held

    with running(call):
        assert inside.wait(10)
        with running(lambda: shut(gate)) as fork:
            fork.join(0.05)
            assert fork.is_alive()
            go.release()
        opened(gate)


def test_a_fork_does_not_wait_for_who_waits_for_an_answer(gate: Gate) -> None:
    answer = threading.Condition()
    inside = threading.Event()

    def call() -> None:
        with gate.calling(), answer:
            inside.set()
            answer.wait()

    with running(call):
        assert inside.wait(10)
        with running(lambda: shut(gate)):
            pass
        opened(gate)
        with answer:
            answer.notify_all()


def test_nobody_comes_in_while_the_process_forks(gate: Gate) -> None:
    came = threading.Event()

    def call() -> None:
        with gate.calling():
            came.set()

    shut(gate)
    with running(call) as caller:
        caller.join(0.05)
        assert caller.is_alive()
        assert not came.is_set()
        opened(gate)
    assert came.is_set()


def test_two_threads_may_fork_at_once(gate: Gate) -> None:
    shut(gate)
    shut(gate)
    opened(gate)
    with running(lambda: gate.calling().__enter__()) as caller:
        caller.join(0.05)
        assert caller.is_alive()
        opened(gate)


def in_process(*, before: str = "", after: str) -> str:
    """What a program prints that does something before and after it installs a gate."""
    program = f"""
import _thread, gc, os, signal, sys, threading, weakref
from faucet_client.forks import Gate
signal.alarm(20)  # nothing may hang
gate = Gate()
{textwrap.dedent(before)}
gate.install()
{textwrap.dedent(after)}
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


FORK = """
if not (child := os.fork()):
    signal.alarm(20)
    with gate.calling():
        os._exit(len(gate._inside))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(gate._inside), gate._forks)
"""


def test_a_child_begins_with_an_open_and_empty_gate() -> None:
    before = """
    inside, go = threading.Event(), threading.Condition()
    def call():
        with gate.calling(), go:
            inside.set()
            go.wait()
    threading.Thread(target=call, daemon=True).start()
    inside.wait()
    """
    assert in_process(before=before, after=FORK) == "1 1 []\n"


def test_a_ctrl_c_while_the_process_forks_leaves_the_gate_open() -> None:
    # Registered before the gate's handlers, so that the first of those in Python is interrupted.
    before = "os.register_at_fork(after_in_parent=_thread.interrupt_main)"
    after = "if not os.fork(): os._exit(0)\nwith gate.calling():\n    print('open')"
    assert in_process(before=before, after=after) == "open\n"


def test_a_finalizer_in_the_thread_that_forks_may_end_its_calls() -> None:
    before = """
    def end():
        with gate.calling():
            print("ended", flush=True)
    class Session: pass
    session = Session()
    session.cycle = session
    weakref.finalize(session, end)
    del session
    os.register_at_fork(before=gc.collect)
    """
    assert in_process(before=before, after=FORK) == "ended\n1 0 []\n"


def test_a_signal_handler_may_fork_while_its_thread_is_inside() -> None:
    after = f"""
def handle(*_):
    {FORK.strip().replace(chr(10), chr(10) + "    ")}
signal.signal(signal.SIGUSR1, handle)
with gate.calling():
    signal.raise_signal(signal.SIGUSR1)
"""
    assert in_process(after=after) == "1 1 []\n"


def test_an_interrupt_on_the_way_in_leaves_nobody_inside(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting(set[object]):
        def add(self, visit: object) -> None:
            super().add(visit)
            raise KeyboardInterrupt

    monkeypatch.setattr(gate, "_inside", Interrupting())
    with pytest.raises(KeyboardInterrupt), gate.calling():
        pass
    assert not gate._inside


def test_a_thread_that_never_comes_to_a_stand_delays_a_fork_for_so_long_and_is_told_of(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forks, "PATIENCE_S", 0.05)
    inside, go = threading.Event(), threading.Lock()
    go.acquire()

    def call() -> None:
        with gate.calling():
            inside.set()
            go.acquire()

    with running(call):
        assert inside.wait(10)
        with running(lambda: shut(gate)):
            pass
        go.release()
    assert "the child may hang" in caplog.text


def test_who_fails_inside_is_outside_again(gate: Gate) -> None:
    with pytest.raises(ValueError, match="no answer"), gate.calling():
        raise ValueError("no answer")
    assert not gate._inside
