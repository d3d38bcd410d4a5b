"""What happens a second, from two statuses."""

from __future__ import annotations

import dataclasses

from faucet_client.status import DatasetStatus, ReaderStatus
from faucetd.top.rates import WINDOW_S, History, Look, Rates, ReaderRate, SourceRate, name_of, rates
from tests.pure.test_status_output import DATASET, READER, STATUS


def look(at_s: float, *, dataset: DatasetStatus = DATASET, reader: ReaderStatus = READER) -> Look:
    """A status at a time since the daemon's start."""
    return Look(
        dataclasses.replace(STATUS, uptime_s=at_s, datasets=(dataset,), readers=(reader,)), at_s
    )


def later(seconds: float, **more: float) -> Look:
    """The daemon so many seconds after it was looked at, with counters that have grown."""
    fields = {
        field: getattr(DATASET, field) + more.get(field, 0)
        for field in ("source_rows_read", "source_bytes_read")
    }
    counters = {
        field: getattr(READER, field) + more.get(field, 0)
        for field in ("rows_consumed", "seconds_waited")
    }
    return look(
        10.0 + seconds,
        dataset=dataclasses.replace(DATASET, **fields),
        reader=dataclasses.replace(READER, **counters),
    )


NAME = name_of(READER)


def test_rates_are_differences_a_second() -> None:
    now = later(
        4.0, source_rows_read=800, source_bytes_read=4096, rows_consumed=200, seconds_waited=1
    )
    assert rates(later(0.0), now) == Rates(
        {DATASET.key: SourceRate(200.0, 1024.0)}, {NAME: ReaderRate(50.0, 0.25)}
    )


def test_the_share_of_waiting_is_of_the_time_and_never_more() -> None:
    """A client tells at its next chunk of a wait that began before the earlier status."""
    found = rates(later(0.0), later(2.0, seconds_waited=7.0))
    assert found.readers[NAME].waited_share == 1.0


def test_what_is_new_has_no_rate_yet() -> None:
    before = Look(dataclasses.replace(STATUS, uptime_s=9.0, datasets=(), readers=()), 9.0)
    assert rates(before, later(1.0)) == Rates()
    assert rates(later(0.0), later(0.0)) == Rates()


def test_a_reader_of_the_same_name_that_began_anew_has_no_rate_yet() -> None:
    again = dataclasses.replace(READER, rows_consumed=0)
    assert rates(look(1.0), look(2.0, reader=again)).readers == {}


def test_a_daemon_that_was_restarted_is_not_compared_with_the_one_before() -> None:
    def restarted(**changes: float) -> Look:
        return Look(dataclasses.replace(look(20.0).status, **changes), 20.0)  # type: ignore[arg-type]  # numbers

    assert rates(look(10.0), restarted(pid=43)) == Rates()
    assert rates(look(10.0), restarted(uptime_s=1.0)) == Rates()
    history = History()
    history.add(look(10.0))
    assert history.add(restarted(uptime_s=1.0)) == Rates()


def test_what_began_within_the_window_has_a_rate_since_then() -> None:
    history = History()
    history.add(Look(dataclasses.replace(STATUS, uptime_s=9.0, datasets=(), readers=()), 9.0))
    history.add(later(0.0))
    found = history.add(later(2.0, rows_consumed=200, source_rows_read=80))
    assert found.readers[NAME].rows_per_s == 100.0
    assert found.sources[DATASET.key].rows_per_s == 40.0


def test_the_history_compares_over_a_window_since_counters_move_in_steps() -> None:
    history = History()
    for second in range(60):
        moved = 1_000 * (second // 4)  # a chunk every four seconds
        found = history.add(later(float(second), rows_consumed=moved))
    assert 150 < found.readers[NAME].rows_per_s < 350
    assert len(history) <= WINDOW_S + 2
