"""Preprocessing in the interface of 2020: what it is fitted to, and what batches become."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from faucet_client import ColumnError, DatasetSpec, IteratorError, ParquetSource, SpecError
from faucet_client._compat_preprocessing import _first_buckets
from faucet_client.compat import DataReader, NormalizationParameters
from faucet_client.preprocessing import PreprocessingSpec, Quantile, fit
from tests.processes.tables_2020 import (
    TABLE,
    Frames,
    Warehouse,
    both,
    open_rows,
    rest_of,
    rows_table,
)
from tests.processes.waiting import eventually


def features_table(rows: int, columns: dict[str, Any], hash_on: Any = None) -> pa.Table:
    """A table of 2020's shape with these features; the label `y` counts."""
    arrays = [pa.array(column) for column in columns.values()]
    return pa.table(
        {
            "hash_on": pa.array(np.arange(rows) if hash_on is None else hash_on),
            "features": pa.StructArray.from_arrays(arrays, list(columns)),
            "labels": pa.StructArray.from_arrays([pa.array(np.arange(rows))], ["y"]),
        }
    )


def various(rows: int) -> dict[str, Any]:
    """A feature for most types; `gaps` has nulls."""
    random = np.random.default_rng(7)
    return {
        "flag": random.integers(0, 2, rows).astype(bool),
        "share": random.random(rows),
        "height": random.normal(170, 10, rows),
        "income": random.lognormal(5, 1, rows),
        "kind": random.integers(1, 5, rows),
        "gaps": pa.array(random.normal(-40, 5, rows), mask=random.random(rows) < 0.1),
    }


def frames_of(reader: DataReader, split: str = "train") -> pd.DataFrame:
    """The features of a whole split."""
    reader.prep_for_epoch() if split == "train" else reader.prep_for_eval()
    return pd.concat([batch["features"] for batch in rest_of(reader)], ignore_index=True)


def prepared(reader: DataReader) -> list[Frames]:
    """The preprocessed batches that the pass still has."""
    return list(iter(lambda: reader.get_batch(preprocess=True), None))


# What it is fitted to.


@both
def test_few_rows_are_fitted_all_and_by_the_rules_of_2020(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, features_table(6_000, various(6_000)))
    with open_rows(test_split_percent=20, skip_small_batches=False) as reader:
        specs, net = reader.gen_preprocess_specs_and_net()
        trained = frames_of(reader)
    assert {name: each.feature_type for name, each in specs.items()} == {
        "flag": "BINARY",
        "share": "PROBABILITY",
        "height": "CONTINUOUS",
        "income": "BOXCOX",
        "kind": "ENUM",
        "gaps": "CONTINUOUS",
    }
    assert net.spec == fit({name: trained[name].to_numpy() for name in trained})
    assert specs["kind"].possible_values == [1, 2, 3, 4]
    assert specs["height"].mean == pytest.approx(trained["height"].mean(), rel=1e-12)
    assert specs["height"].max_value == trained["height"].max()
    kinds = [f"kind={kind}" for kind in (1, 2, 3, 4)]
    assert net.output_names == ("flag", "share", "gaps", "height", "income", *kinds)


@both
def test_evaluation_rows_are_in_no_statistic(warehouse: Warehouse) -> None:
    rows = 40_000
    warehouse.load(TABLE, rows_table(rows))
    with open_rows(test_split_percent=30, skip_small_batches=False) as reader:
        held_out = frames_of(reader, "eval")["id"].to_numpy()
    x = np.arange(rows) % 1_000 * 1.5
    x[held_out] = 1e9
    warehouse.load("my-project.my_dataset.other", features_table(rows, {"x": x}))
    for sample_size in (2_000, rows):
        with open_rows(table_name="my-project.my_dataset.other", test_split_percent=30) as reader:
            specs, _ = reader.gen_preprocess_specs_and_net(sample_size=sample_size)
        assert specs["x"].max_value == 999 * 1.5


@both
@pytest.mark.parametrize("split", [{}, {"test_split_percent": 10.05, "table_sample_percent": 60}])
def test_of_many_rows_a_sample_is_fitted_that_is_of_no_corner_of_the_table(
    warehouse: Warehouse, split: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    rows = 200_000
    warehouse.load(TABLE, features_table(rows, {"x": np.arange(rows) / 8}))  # sorted
    caplog.set_level(logging.INFO)
    with open_rows(**split) as reader:
        specs, _ = reader.gen_preprocess_specs_and_net(sample_size=10_000)
        train = reader.dataset.info.rows["train"]
    (fitted,) = (r.args for r in caplog.records if "fitted to" in r.getMessage())
    assert isinstance(fitted, tuple)
    assert fitted[1] == train
    assert 10_000 <= int(str(fitted[0])) < 15_000
    middle, spread = rows / 16, rows / 8 / math.sqrt(12)
    assert specs["x"].mean == pytest.approx(middle, abs=5 * spread / math.sqrt(10_000))
    assert specs["x"].stddev == pytest.approx(spread, rel=0.03)


def test_the_sample_depends_neither_on_the_order_of_rows_nor_on_chunks(
    warehouse: Warehouse,
) -> None:
    rows = 60_000
    columns = various(rows)
    table = features_table(rows, columns)
    order = np.random.default_rng(3).permutation(rows)
    found = []
    for name, each, chunk_size in (("a", table, 102_400), ("b", table.take(order), 8_192)):
        warehouse.load(name, each)
        with open_rows(table_name=name, chunk_size=chunk_size, test_split_percent=20) as reader:
            _, net = reader.gen_preprocess_specs_and_net(sample_size=5_000, skip_quantiles=False)
        found.append(net.spec)
    assert found[0] == found[1]
    assert all(feature.summary is not None for feature in found[0].features)
    assert {feature.summary.rows for feature in found[0].features if feature.summary} < {
        *range(5_000, 8_000)
    }


@pytest.mark.parametrize("percents", [(100, 20), (100, 0), (50, 10.05), (0.3, 0)])
@pytest.mark.parametrize("count", [1, 2, 1_000, 3_000])
def test_the_first_buckets_are_those_of_the_split(
    percents: tuple[float, float], count: int
) -> None:
    source = ParquetSource("/data/t.parquet")
    spec = DatasetSpec(
        source,
        features=(),
        passthrough=("features", "labels"),
        hash_column="hash_on",
        sample_percent=percents[0],
        eval_percent=percents[1],
    )
    whole = spec.split_buckets()
    if count < whole.train_end:
        part = _first_buckets(spec, count).split_buckets()
        assert part.buckets == whole.buckets
        assert part.train_end == part.eval_end
        assert count <= part.train_end <= min(count + 1, whole.train_end)


@pytest.mark.parametrize("different", [10, 60, 100])
def test_a_sample_is_as_large_as_asked_for_though_hash_on_has_few_values(
    different: int, warehouse: Warehouse
) -> None:
    rows = 30_000
    x = np.arange(rows) * 1.0
    warehouse.load(TABLE, features_table(rows, {"x": x}, hash_on=np.arange(rows) % different))
    with open_rows(test_split_percent=30) as reader:
        _, net = reader.gen_preprocess_specs_and_net(sample_size=1_000)
    (feature,) = net.spec.features
    assert feature.summary is not None
    assert feature.summary.rows >= 1_000
    assert feature.summary.rows % (rows // different) == 0  # all rows of some values


def test_a_table_without_hash_on_is_fitted_to_its_first_rows_and_the_log_says_so(
    warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    table = features_table(20_000, {"x": np.arange(20_000) / 7})
    warehouse.load(TABLE, table.drop_columns(["hash_on"]))
    with open_rows() as reader:
        _, net = reader.gen_preprocess_specs_and_net(sample_size=3_000)
    (feature,) = net.spec.features
    assert feature.summary is not None
    assert feature.summary.rows == 3_000
    assert "first 3000 training rows in the daemon's order" in caplog.text


def test_values_that_are_kept_are_bounded_and_sums_are_of_all_rows(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faucet_client._compat_preprocessing._MOST_KEPT_ROWS", 1_000)
    monkeypatch.setattr("faucet_client._compat_preprocessing._PART_ROWS", 700)
    x = np.random.default_rng(5).permutation(20_000) / 7
    warehouse.load(TABLE, features_table(20_000, {"x": x}))
    with open_rows() as reader:
        _, net = reader.gen_preprocess_specs_and_net(sample_size=20_000)
    (feature,) = net.spec.features
    assert feature.summary is not None
    assert (feature.summary.rows, feature.summary.sampled) == (20_000, 1_000)
    assert feature.summary.mean == pytest.approx(x.mean(), rel=1e-12)


def test_too_few_rows_are_fitted_with_a_warning(
    warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    warehouse.load(TABLE, features_table(700, {"x": np.random.default_rng(1).lognormal(size=700)}))
    with open_rows(batch_size=100) as reader:
        specs, _ = reader.gen_preprocess_specs_and_net()
    assert specs["x"].feature_type == "CONTINUOUS"
    assert "fitted to 700 rows, and types can be told well from 750 on" in caplog.text


def test_what_is_odd_of_a_feature_is_in_the_log(
    warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    rows = 2_000
    columns = {
        "constant": np.full(rows, 3),
        "nothing": pa.nulls(rows, pa.float64()),
        "id": np.arange(rows) * 17,
        "endless": np.where(np.arange(rows) % 9 == 0, np.inf, np.arange(rows) / 3),
    }
    warehouse.load(TABLE, features_table(rows, columns))
    with open_rows() as reader:
        reader.gen_preprocess_specs_and_net()
        reader.prep_for_epoch()
        (batch,) = prepared(reader)
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    for name, words in (
        ("constant", "constant, 3"),
        ("nothing", "none of the 2,000 rows has a finite value"),
        ("id", "if it is an id"),
        ("endless", "values are infinite"),
    ):
        assert any(line.startswith(f"feature {name}: ") and words in line for line in said), name
    assert batch["features"].isfinite().all()


# Options.


def test_options_are_those_of_2020_in_their_order(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, features_table(3_000, various(3_000)))
    with open_rows() as reader:
        by_place, _ = reader.gen_preprocess_specs_and_net(
            ["share"], 3_000, 3, 7, 0.5, True, False, {"flag": "CONTINUOUS"}, False
        )
        untouched, _ = reader.gen_preprocess_specs_and_net(skip_preprocessing=True)
    assert "share" not in by_place
    assert by_place["flag"].feature_type == "CONTINUOUS"  # a column of booleans
    assert by_place["kind"].feature_type == "QUANTILE"  # 4 values are more than 3
    assert by_place["income"].feature_type == "QUANTILE"
    assert by_place["income"].quantiles is not None
    assert len(by_place["income"].quantiles) == 7 + 1
    assert {each.feature_type for each in untouched.values()} == {"DO_NOT_PREPROCESS"}


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"feature_overrides": {"hight": "ENUM"}}, ColumnError, 'Did you mean "height"'),
        ({"feature_overrides": {"height": "CUBE"}}, SpecError, "must be one of BINARY"),
        ({"feature_overrides": ["height"]}, SpecError, "must be a dict"),
        ({"feature_overrides": {"height": "ENUM"}}, ColumnError, "not whole numbers"),
        ({"feature_overrides": {"income": "PROBABILITY"}}, ColumnError, '"income" cannot be'),
        ({"exclude_features": ["nobody"]}, ColumnError, 'exclude_features.*"nobody"'),
        ({"exclude_features": "height"}, SpecError, "must be a list"),
        ({"exclude_features": list(various(1))}, SpecError, "at least one feature"),
        ({"sample_size": 0}, SpecError, "sample_size must be"),
        ({"max_unique_enum_values": -1}, SpecError, "max_unique_enum_values must be"),
        ({"quantile_size": 0}, SpecError, "quantile_size must be"),
    ],
)
def test_what_cannot_be_fitted_is_refused_and_the_specs_before_stay(
    options: dict[str, Any], error: type[Exception], says: str, warehouse: Warehouse
) -> None:
    warehouse.load(TABLE, features_table(2_000, various(2_000)))
    with open_rows() as reader:
        reader.gen_preprocess_specs_and_net(exclude_features=["share"])
        with pytest.raises(error, match=says):
            reader.gen_preprocess_specs_and_net(**options)
        reader.prep_for_epoch()
        (batch,) = prepared(reader)
    assert batch["features"].shape == (1024, 8)


def test_text_is_refused_by_name_and_can_be_left_out(warehouse: Warehouse) -> None:
    columns = various(2_000) | {"city": ["Rom", "Bern"] * 1_000, "land": ["I", "CH"] * 1_000}
    warehouse.load(TABLE, features_table(2_000, columns))
    with open_rows() as reader:
        with pytest.raises(ColumnError, match=r'exclude_features=\["city", "land"\]'):
            reader.gen_preprocess_specs_and_net()
        specs, _ = reader.gen_preprocess_specs_and_net(exclude_features=["city", "land"])
        reader.prep_for_epoch()
        batch = reader.get_batch(preprocess=True)
        assert batch is not None
        assert batch["features"].shape == (1024, 9)
        reader.use_preprocess_specs(specs | {"city": NormalizationParameters("BINARY")})
        reader.prep_for_epoch()
        with pytest.raises(ColumnError, match='"city"'):
            reader.get_batch(preprocess=True)


# Batches.


@both
def test_batches_are_the_frames_preprocessed_in_training_and_evaluation(
    warehouse: Warehouse,
) -> None:
    warehouse.load(TABLE, features_table(5_000, various(5_000)))
    with open_rows(test_split_percent=20, batch_size=500, skip_small_batches=False) as reader:
        _, net = reader.gen_preprocess_specs_and_net()
        reader.prep_for_eval()
        frames = rest_of(reader)
        reader.prep_for_eval()
        pairs = list(zip(frames, prepared(reader), strict=True))
        assert len(pairs) == 3
        reader.prep_for_epoch()
        for _ in range(3):  # one and the other of one pass
            raw, tensors = reader.get_batch(), reader.get_batch(preprocess=True)
            assert raw is not None
            assert tensors is not None
            assert tensors["batch_num"] == raw["batch_num"] + 1
        for raw, tensors in pairs:
            assert raw["batch_num"] == tensors["batch_num"]
            assert raw["batches_per_epoch"] == tensors["batches_per_epoch"]
            features, labels = reader.preprocess_batch(raw["features"], raw["labels"])
            assert torch.equal(features, tensors["features"])
            assert torch.equal(labels["y"], tensors["labels"]["y"])
            assert (features.dtype, labels["y"].dtype) == (torch.float32, torch.float32)
            assert labels["y"][:, 0].tolist() == raw["labels"]["y"].tolist()
            check_by_formula(raw["features"], features, net.spec)
    assert pairs[0][0]["features"]["gaps"].isna().any()


def check_by_formula(frame: pd.DataFrame, features: torch.Tensor, spec: PreprocessingSpec) -> None:
    """Compares some columns with what their formulas give."""

    def column(name: str) -> Any:
        return features[:, spec.outputs_of(name)].numpy()

    old = spec.to_faucetml()
    assert np.array_equal(column("flag")[:, 0], frame["flag"].to_numpy(np.float32))
    gaps = (frame["gaps"].to_numpy() - old["gaps"]["mean"]) / old["gaps"]["stddev"]
    np.testing.assert_allclose(column("gaps")[:, 0], np.nan_to_num(gaps), atol=1e-6)
    assert np.array_equal(column("kind"), np.eye(4)[frame["kind"] - 1])


@both
def test_missing_values_of_every_type_are_zero(warehouse: Warehouse) -> None:
    rows = 3_000
    gaps = np.arange(rows) % 4 == 1
    columns = {
        "id": pa.array(np.arange(rows)),
        "flag": pa.array(np.arange(rows) % 2 == 0, mask=gaps),
        "kind": pa.array(5 + np.arange(rows) % 3, mask=gaps),
        "real": pa.array(np.arange(rows) / 7 + 9, mask=gaps),
        "large": pa.array(2**60 + np.arange(rows), mask=gaps),
        "nan": pa.array(np.where(gaps, np.nan, np.arange(rows) / 7 + 9)),
    }
    warehouse.load(TABLE, features_table(rows, columns))
    with open_rows(batch_size=rows) as reader:
        _, net = reader.gen_preprocess_specs_and_net(exclude_features=["id"])
        reader.prep_for_epoch()
        batch = reader.get_batch()
        assert batch is not None
        assert str(batch["features"]["flag"].dtype) == str(batch["features"]["large"].dtype)
        features, _ = reader.preprocess_batch(batch["features"], batch["labels"])
    missing = torch.from_numpy(gaps[batch["features"]["id"].to_numpy()])
    assert (features[missing] == 0).all()
    for name in columns:
        if name not in ("id", "flag"):
            outputs = features[:, net.spec.outputs_of(name)]
            assert (outputs[~missing] != 0).any(1).float().mean() > 0.9, name


def test_labels_are_as_they_are_each_for_itself(
    warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    rows = 1_000
    labels = {
        "bought": np.arange(rows) % 3 == 0,
        "paid": pa.array(np.arange(rows) / 4, mask=np.arange(rows) % 5 == 0),
        "until": 2**24 + np.arange(rows),
        "stars": pa.array(np.arange(rows) % 6, mask=np.arange(rows) % 4 == 0),
    }
    table = features_table(rows, {"x": np.arange(rows)}).drop_columns(["labels"])
    arrays = [pa.array(label) for label in labels.values()]
    table = table.append_column("labels", pa.StructArray.from_arrays(arrays, list(labels)))
    warehouse.load(TABLE, table)
    with open_rows(batch_size=500) as reader:
        reader.gen_preprocess_specs_and_net()
        reader.prep_for_epoch()
        batches = prepared(reader)
        reader.prep_for_epoch()
        raw = pd.concat([batch["labels"] for batch in rest_of(reader)])
    together = {name: torch.cat([b["labels"][name] for b in batches]) for name in labels}
    for name, label in together.items():
        assert label.shape == (rows, 1)
        expected = np.sort(raw[name].to_numpy(np.float32))  # NaN comes last in both
        np.testing.assert_array_equal(np.sort(label[:, 0].numpy()), expected)
    assert together["paid"].isnan().sum() == rows / 5
    assert together["stars"].isnan().sum() == rows / 4
    warned = [r.getMessage() for r in caplog.records if "beyond 2^24" in r.getMessage()]
    assert len(warned) == 1
    assert warned[0].startswith("label until")


def test_a_label_that_is_text_is_no_tensor(warehouse: Warehouse) -> None:
    table = features_table(2_000, {"x": np.arange(2_000)}).drop_columns(["labels"])
    texts = pa.StructArray.from_arrays([pa.array(["yes", "no"] * 1_000)], ["answer"])
    warehouse.load(TABLE, table.append_column("labels", texts))
    with open_rows() as reader:
        reader.gen_preprocess_specs_and_net()
        reader.prep_for_epoch()
        with pytest.raises(ColumnError, match=r'label "answer" is text.*preprocess=False'):
            reader.get_batch(preprocess=True)


def test_features_that_were_never_opened_are_left_out(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, features_table(3_000, various(3_000)))
    with open_rows(exclude_features=["share", "kind"], batch_size=100) as reader:
        specs, net = reader.gen_preprocess_specs_and_net(sample_size=1_000)
        assert {*specs} == {"flag", "height", "income", "gaps"}
        assert reader.get_num_output_features(specs) == net.width == 4


def test_the_module_handed_out_is_the_callers_own(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, features_table(2_000, various(2_000)))
    with open_rows() as reader:
        _, net = reader.gen_preprocess_specs_and_net()
        net.to(torch.device("meta"))  # as it might be sent to a GPU
        reader.prep_for_epoch()
        batch = reader.get_batch(preprocess=True)
    assert batch is not None
    assert batch["features"].device.type == "cpu"


def test_preprocessed_batches_keep_no_chunk(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, features_table(50_000, various(50_000)))
    client = warehouse.daemon.client()
    with open_rows() as reader:
        reader.gen_preprocess_specs_and_net()
        reader.prep_for_epoch()
        batches = prepared(reader)
    eventually(lambda: client.status().memory.leased_bytes == 0)
    assert len({y for batch in batches for y in batch["labels"]["y"][:, 0].tolist()}) == 48 * 1024


# Specs of their own.


def test_without_specs_there_is_an_error_that_uses_no_batch_up(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(2_000))
    with open_rows() as reader:
        reader.prep_for_epoch()
        for call in (
            lambda: reader.get_batch(preprocess=True),
            lambda: reader.preprocess_batch(pd.DataFrame({"x": [1]}), pd.DataFrame({"y": [1]})),
        ):
            with pytest.raises(SpecError, match=r"call gen_preprocess_specs_and_net\(\) first"):
                call()
        batch = reader.get_batch()
        assert batch is not None
        assert batch["batch_num"] == 1
    with pytest.raises(IteratorError, match="was closed"):
        reader.gen_preprocess_specs_and_net()


@pytest.mark.parametrize(
    "saved",
    [
        lambda specs, _: specs,
        lambda specs, _: {name: dataclasses.asdict(each) for name, each in specs.items()},
        lambda specs, _: json.loads(
            json.dumps({name: dataclasses.asdict(each) for name, each in specs.items()})
        ),
        lambda _, net: PreprocessingSpec.from_json(net.spec.to_json()),
    ],
    ids=["parameters", "dicts", "json", "spec"],
)
def test_specs_can_be_saved_and_taken_up_by_another_reader(
    saved: Callable[[Any, Any], Any], warehouse: Warehouse
) -> None:
    warehouse.load(TABLE, features_table(2_000, various(2_000)))
    with open_rows(batch_size=200) as reader:
        specs, net = reader.gen_preprocess_specs_and_net(skip_quantiles=False)
        reader.prep_for_epoch()
        expected = prepared(reader)
    with open_rows(batch_size=200) as reader:
        taken = reader.use_preprocess_specs(saved(specs, net))
        assert taken.spec == net.spec
        assert reader.get_num_output_features(saved(specs, net)) == 9
        reader.prep_for_epoch()
        for ours, theirs in zip(prepared(reader), expected, strict=True):
            assert torch.equal(ours["features"], theirs["features"])


def test_specs_may_be_changed_by_hand(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, features_table(2_000, various(2_000)))
    with open_rows() as reader:
        specs, net = reader.gen_preprocess_specs_and_net()
        specs["height"] = dataclasses.replace(specs["height"], mean=0.0, stddev=1.0)
        reader.use_preprocess_specs(specs)
        reader.prep_for_epoch()
        frames = reader.get_batch()
        assert frames is not None
        features, _ = reader.preprocess_batch(frames["features"], frames["labels"])
        (height,) = net.spec.outputs_of("height")
        np.testing.assert_allclose(features[:, height], frames["features"]["height"], rtol=1e-6)
        reader.use_preprocess_specs(net.spec.override({"height": Quantile((0.0, 340.0))}))


def test_specs_that_are_none_are_refused_by_name(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(2_000))
    good = {"feature_type": "CONTINUOUS", "mean": 1.0, "stddev": 2.0}
    with open_rows() as reader:
        for bad, says in (
            ({"x": good | {"feature_type": "CUBE"}}, 'feature "x".*feature_type'),
            ({"x": good | {"stddev": 0}}, 'feature "x".*stddev'),
            ({"x": good | {"median": 0}}, 'feature "x".*median'),
            ({"x": 3}, 'feature "x" must have a dict'),
            ({}, "at least one feature"),
            ([], "must be a dict"),
        ):
            for call in (reader.use_preprocess_specs, reader.get_num_output_features):
                with pytest.raises(SpecError, match=says):
                    call(bad)  # type: ignore[arg-type]
        with pytest.raises(ColumnError, match='"weight" is missing'):
            reader.use_preprocess_specs({"x": good, "weight": good})
        assert reader.get_num_output_features({"x": good, "weight": good}) == 2


def test_frames_of_ones_own_can_be_preprocessed(warehouse: Warehouse) -> None:
    warehouse.load(TABLE, rows_table(2_000))
    with open_rows() as reader:
        reader.use_preprocess_specs(
            {
                "id": NormalizationParameters("CONTINUOUS", mean=10.0, stddev=2.0),
                "x": NormalizationParameters("ENUM", possible_values=[1, 2]),
            }
        )
        labels = pd.DataFrame({"y": [1, 0, 1]})
        features = pd.DataFrame(
            {"more": ["a", "b", "c"], "x": pd.array([2, None, 1]), "id": [12.0, 10.0, np.nan]},
            index=[7, 7, 7],
        )
        found, ys = reader.preprocess_batch(features, labels)
        assert found.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
        assert ys["y"].tolist() == [[1.0], [0.0], [1.0]]
        with pytest.raises(ColumnError, match='"x" is missing'):
            reader.preprocess_batch(features.drop(columns=["x"]), labels)
        with pytest.raises(ColumnError, match='"x"'):
            reader.preprocess_batch(features.assign(x=["1", "2", "3"]), labels)
        none, _ = reader.preprocess_batch(features[:0], labels[:0])
        assert none.shape == (0, 3)
