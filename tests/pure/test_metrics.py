"""A status as metrics: every figure, under names that Prometheus's conventions allow."""

from __future__ import annotations

import dataclasses
import re

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.registry import Collector

from faucet_client.status import Status
from faucetd.metrics import families
from tests.pure.test_status_wire import COST, DATASET, FULL, READER


class Of(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> list[Metric]:
        return list(families(self._status))


def registry(status: Status) -> CollectorRegistry:
    found = CollectorRegistry()
    found.register(Of(status))
    return found


def samples(status: Status) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels, in the order of the labels' names."""
    text = generate_latest(registry(status)).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def test_every_figure_has_its_series() -> None:
    found = samples(FULL)
    reader = ("3fa2", "sweep-1", "1", "eval", "2")
    assert found["faucet_build_info", "0.1.0"] == 1
    assert found["faucet_memory_used_bytes",] == FULL.memory.used_bytes
    assert found["faucet_workers", "loading"] == 1
    assert found["faucet_dataset_info", "3fa2", "bigquery:p.d.t"] == 1
    assert found["faucet_dataset_failed", "3fa2"] == 1
    assert found["faucet_dataset_rows", "3fa2", "eval"] == DATASET.eval_rows
    assert found["faucet_dataset_chunks", "3fa2", "train", "leased"] == 251
    assert found["faucet_dataset_chunks", "3fa2", "eval", "spilled"] == 1
    assert found["faucet_label_between_chunk_ratio", "3fa2", "y", "train"] == 0.25
    assert found["faucet_source_bytes_read_total", "3fa2"] == DATASET.source_bytes_read
    assert found["faucet_source_saved_bytes", "3fa2"] == DATASET.source_bytes_saved
    assert found["faucet_rows_served_total", "3fa2"] == DATASET.rows_served
    assert found["faucet_warehouse_query_bytes_billed_total", "3fa2"] == COST.query_bytes
    assert found[("faucet_reader_rows_total", *reader)] == READER.rows_consumed
    assert found[("faucet_reader_wait_seconds_total", *reader)] == READER.seconds_waited
    assert found[("faucet_reader_lag_epochs", *reader)] == READER.lag_epochs


def test_names_and_texts_follow_the_conventions() -> None:
    for family in families(FULL):
        assert re.fullmatch(r"faucet_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        if "bytes" in family.documentation.lower() and family.type == "gauge":
            assert family.name.endswith("_bytes")


def test_both_formats_can_be_parsed_whatever_a_job_is_called() -> None:
    odd = dataclasses.replace(READER, job='a "job"\\ of\u00a0Ümläut, {x="y"}')
    status = dataclasses.replace(FULL, readers=(odd,))
    assert any(odd.job in labels for labels in samples(status))
    text = generate_openmetrics(registry(status)).decode()
    assert any(
        sample.labels.get("job") == odd.job
        for family in parse_openmetrics(text)
        for sample in family.samples
    )


def test_a_reader_that_has_ended_has_no_series() -> None:
    gone = samples(dataclasses.replace(FULL, readers=()))
    assert not any("reader" in name for name, *_ in gone)
