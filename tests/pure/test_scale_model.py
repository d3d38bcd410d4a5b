"""The formula of docs/scale.md: known values for known inputs."""

from __future__ import annotations

import pytest

from benchmarks.scale_model import (
    GIB,
    TIB,
    Costs,
    Load,
    Prices,
    Shape,
    needs,
    saturation,
    table_cost,
)

COSTS = Costs(
    decode=1.5e-7, split=1e-7, prepare=1.5e-7, publish=0.5e-7, other=0.5e-7, grant=1e-9, map=9e-9
)
SHAPE = Shape(
    wire_bytes=1_000,
    prepared_bytes=500,
    chunk_bytes=GIB / 16,
    worker_bytes=GIB,
    daemon_bytes=GIB,
    held_chunks=2,
)
PRICES = Prices(read_tib=1.0, core_hour=0.5, memory_gib_hour=0.25, disk_gib_month=0.073)
NO_COST = Costs(0, 0, 0, 0, 0, 0, 0)


def test_eight_jobs_that_share_need_one_pass_and_eight_times_the_serving() -> None:
    found = needs(Load(jobs=8, rate=1e6, passes=1), COSTS, SHAPE, PRICES)
    assert found.cores == pytest.approx(0.5 + 0.08)
    assert found.network_bytes_s == 1e9
    # One worker, the daemon, and chunks: two a job and one in the making.
    assert found.memory_bytes == 2 * GIB + 17 * GIB / 16
    reading = 1e9 * 3_600 / TIB
    assert found.dollars_hour == pytest.approx(0.58 * 0.5 + 3.0625 * 0.25 + reading)


def test_jobs_that_do_not_share_need_a_pass_each() -> None:
    found = needs(Load(jobs=8, rate=1e6, passes=8), COSTS, SHAPE, PRICES)
    assert found.cores == pytest.approx(4 + 0.08)
    assert found.network_bytes_s == 8e9


def test_a_machine_saturates_at_what_is_used_up_first() -> None:
    load = Load(jobs=8, rate=0, passes=1)
    by_network = saturation(16, 1e9, load, COSTS, SHAPE)
    assert by_network.limit == "network"
    assert by_network.rate == pytest.approx(1e6)
    by_processors = saturation(5.8, 1e12, load, COSTS, SHAPE)
    assert by_processors.limit == "processors"
    assert by_processors.rate == pytest.approx(1e7)
    by_main = saturation(1e9, 1e15, load, COSTS, SHAPE)
    assert by_main.limit == "main process"
    assert by_main.rate == pytest.approx(1.25e8)


def test_an_epoch_from_memory_needs_no_network() -> None:
    found = saturation(0.08, 1.0, Load(jobs=8, rate=0, passes=0), COSTS, SHAPE)
    assert found.limit == "processors"
    assert found.rate == pytest.approx(1e6)


def test_a_table_is_paid_for_by_pass_and_a_cache_for_once() -> None:
    free = Shape(1_000, 500, 0, 0, 0, 0)
    table_bytes = 100 * TIB
    alone = Load(jobs=8, rate=1e6, passes=8)
    shared = Load(jobs=8, rate=1e6, passes=1)

    def cost(load: Load, *, on_disk: bool) -> tuple[float, float]:
        found = table_cost(table_bytes, 3, load, NO_COST, free, PRICES, on_disk=on_disk)
        assert found.machine == 0
        assert found.hours == pytest.approx(3 * 100 * TIB / 1e9 / 3_600)
        return found.reading, found.disk

    assert cost(alone, on_disk=False) == (2_400, 0)
    assert cost(shared, on_disk=False) == (300, 0)
    reading, disk = cost(shared, on_disk=True)
    assert reading == 100
    # 50 TiB at 0.0001 dollars a GiB and hour.
    assert disk == pytest.approx(50 * 1_024 * 0.0001 * 3 * 100 * TIB / 1e9 / 3_600)


def test_epochs_from_disk_do_not_pay_for_ingest() -> None:
    free = Shape(1_000, 0, 0, 0, 0, 0)
    rows = 3.6e9
    load = Load(jobs=1, rate=1e6, passes=1)  # an hour an epoch
    found = table_cost(rows * 1_000, 3, load, COSTS, free, PRICES, on_disk=True)
    assert found.machine == pytest.approx(0.5 * (0.5 + 3 * 0.01))
