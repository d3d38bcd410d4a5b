"""The gate that keeps threads out of gRPC while the process forks (faucet_client/forks.py)."""

from __future__ import annotations

import contextlib
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


def test_a_fork_waits_for_who_is_on_their_way(gate: Gate) -> None:
    inside, go = threading.Event(), threading.Lock()
    go.acquire()

    def call() -> None:
        with gate.calling():
            inside.set()
            go.acquire()  # no Condition.wait: as if gRPC's own lock were held

    with running(call):
        assert inside.wait(10)
        with running(gate._shut) as fork:
            fork.join(0.05)
            assert fork.is_alive()
            go.release()
        gate._open()


def test_a_fork_does_not_wait_for_who_waits_for_an_answer(gate: Gate) -> None:
    answer = threading.Condition()
    inside = threading.Event()

    def call() -> None:
        with gate.calling(), answer:
            inside.set()
            answer.wait()

    with running(call):
        assert inside.wait(10)
        with running(gate._shut):
            pass
        gate._open()
        with answer:
            answer.notify_all()


def test_a_fork_waits_for_what_is_being_sent_even_if_its_sender_waits(gate: Gate) -> None:
    done = threading.Condition()
    inside = threading.Event()

    def send() -> None:
        with gate.sending(), done:
            inside.set()
            done.wait()

    with running(send):
        assert inside.wait(10)
        with running(gate._shut) as fork:
            fork.join(0.05)
            assert fork.is_alive()
            with done:
                done.notify_all()
        gate._open()


def test_nobody_comes_in_while_the_process_forks(gate: Gate) -> None:
    came = threading.Event()

    def call() -> None:
        with gate.calling():
            came.set()

    gate._shut()
    with running(call) as caller:
        caller.join(0.05)
        assert caller.is_alive()
        assert not came.is_set()
        gate._open()
    assert came.is_set()


def test_two_threads_may_fork_at_once(gate: Gate) -> None:
    gate._shut()
    gate._shut()
    gate._open()
    with running(lambda: gate.calling().__enter__()) as caller:
        caller.join(0.05)
        assert caller.is_alive()
        gate._open()


def test_a_child_begins_with_an_open_and_empty_gate(gate: Gate) -> None:
    visit = gate.calling()
    visit.__enter__()
    gate._forks = 1
    gate._renew()
    with running(lambda: gate.calling().__enter__()):
        pass


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
        with running(gate._shut):
            pass
        go.release()
    assert "the child may hang" in caplog.text


def test_who_fails_inside_is_outside_again(gate: Gate) -> None:
    with pytest.raises(ValueError, match="no answer"), gate.calling():
        raise ValueError("no answer")
    assert not gate._inside
