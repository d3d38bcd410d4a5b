"""Which columns a spec means in a source, and what it is told when they do not fit."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest

from faucet_client.layout import Role
from faucet_client.preprocessing import (
    Categorical,
    Feature,
    FitOptions,
    Hashed,
    PreprocessingSpec,
    Vector,
)
from faucet_client.spec import DatasetSpec, ParquetSource
from faucetd.errors import ColumnError
from faucetd.prepare.columns import PreparedColumns, resolve

TABLE: dict[str, pa.DataType] = {
    "features.age": pa.int32(),
    "features.height": pa.float64(),
    "features.home.floor": pa.int8(),
    "labels.clicked": pa.bool_(),
    "age": pa.float32(),
    "city": pa.string(),
    "state": pa.dictionary(pa.int8(), pa.string()),
    "price": pa.decimal128(10, 2),
    "tags": pa.list_(pa.string()),
    "blob": pa.binary(),
    "when": pa.timestamp("ns", tz="UTC"),
    "local": pa.timestamp("us"),
    "span": pa.month_day_nano_interval(),
    "validity": pa.struct([("start", pa.date32()), ("end", pa.date32())]),
    "day": pa.date32(),
    "clock": pa.time64("us"),
    "nothing": pa.null(),
    "w": pa.uint16(),
    "row_id": pa.uint64(),
    "key": pa.large_string(),
}


def resolved(table: Mapping[str, pa.DataType] = TABLE, **spec: Any) -> PreparedColumns:
    spec.setdefault("features", ["age"])
    return resolve(
        DatasetSpec(ParquetSource("/t.parquet"), **{"preprocessing": "none"} | spec),
        list(table.items()),
    )


def complaint(**spec: Any) -> str:
    with pytest.raises(ColumnError) as caught:
        resolved(**spec)
    return str(caught.value)


def names(columns: Sequence[Any]) -> list[tuple[str, str]]:
    return [(column.source, column.name) for column in columns]


def test_a_struct_stands_for_its_leaves_which_lose_its_name() -> None:
    columns = resolved(features="features", labels="labels")
    assert names(columns.features) == [
        ("features.age", "age"),
        ("features.height", "height"),
        ("features.home.floor", "home.floor"),
    ]
    assert names(columns.labels) == [("labels.clicked", "clicked")]


def test_names_in_a_list_stay_as_given_and_a_struct_among_them_expands() -> None:
    columns = resolved(features=["features.height", "features.home", "age"])
    assert names(columns.features) == [
        ("features.height", "features.height"),
        ("features.home.floor", "floor"),
        ("age", "age"),
    ]


def test_one_plain_column_may_be_named_without_a_list() -> None:
    assert names(resolved(features="age", labels="w").labels) == [("w", "w")]


def test_two_features_of_the_same_name_are_refused_with_both_paths() -> None:
    text = complaint(features=["age", "features"])
    assert '"features.age"' in text
    assert 'both called "age"' in text


def test_excluded_features_are_left_out_by_name_or_by_path() -> None:
    columns = resolved(features="features", exclude_features=["age", "features.home.floor"])
    assert names(columns.features) == [("features.height", "height")]
    assert "features.age" not in columns.source_columns


def test_excluding_what_is_no_feature_is_refused_with_near_names() -> None:
    text = complaint(features="features", exclude_features=["hight"])
    assert '"hight" is no feature' in text
    assert "Did you mean height?" in text


def test_excluding_every_feature_is_refused() -> None:
    assert "no feature" in complaint(features=["age"], exclude_features=["age"])


def test_a_text_feature_may_be_excluded() -> None:
    columns = resolved(features=["age", "city"], exclude_features=["city"])
    assert names(columns.features) == [("age", "age")]


@pytest.mark.parametrize("field", ["features", "labels", "passthrough"])
def test_a_missing_column_is_named_with_near_names_and_what_exists(field: str) -> None:
    text = complaint(**{field: ["citi"]})
    assert text.startswith(f'{field}: the source has no column "citi"')
    assert "Did you mean city?" in text
    assert "row_id" in text


def test_a_leaf_asked_for_without_its_struct_is_found() -> None:
    assert "Did you mean features.height" in complaint(features=["height"])


@pytest.mark.parametrize("field", ["weight_column", "hash_column"])
def test_weight_and_hash_are_one_existing_column(field: str) -> None:
    assert "no column" in complaint(**{field: "nope"})
    assert "is a STRUCT: name one of features.age" in complaint(**{field: "features"})


def test_very_wide_tables_do_not_make_endless_messages() -> None:
    wide = {f"column_{number}": pa.int32() for number in range(1_000)}
    with pytest.raises(ColumnError) as caught:
        resolved(wide, features=["x"])
    assert "and 970 more" in str(caught.value)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("column", ["city", "state", "key"])
def test_a_text_feature_is_refused_with_what_to_do(column: str) -> None:
    text = complaint(features=["age", column])
    for words in (f'"{column}" is text', "exclude_features", "passthrough", "query"):
        assert words in text


def test_a_text_label_is_refused() -> None:
    text = complaint(labels=["city"])
    assert 'labels: column "city" is text' in text
    assert "query" in text


@pytest.mark.parametrize(
    "column", ["tags", "blob", "when", "local", "day", "clock", "span", "validity", "nothing"]
)
@pytest.mark.parametrize("field", ["features", "labels", "weight_column"])
def test_what_is_no_number_is_refused_by_name_and_type(field: str, column: str) -> None:
    text = complaint(**{field: column})
    assert f'{field}: column "{column}" is of type {TABLE[column]}' in text
    assert "query" in text


@pytest.mark.parametrize(
    ("field", "column", "name", "sql"),
    [
        ("features", "when", "(TIMESTAMP)", "UNIX_SECONDS(when)"),
        ("features", "local", "(DATETIME)", "UNIX_SECONDS(TIMESTAMP(local))"),
        ("labels", "day", "(DATE)", "UNIX_DATE(day)"),
        ("features", "clock", "(TIME)", "EXTRACT(HOUR FROM clock)"),
        ("weight_column", "tags", "(ARRAY)", "tags[SAFE_OFFSET(0)]"),
        ("features", "blob", "(BYTES)", "BYTE_LENGTH(blob)"),
        ("features", "span", "(INTERVAL)", "EXTRACT(DAY FROM span)"),
        ("passthrough", "tags", "(ARRAY)", "UNNEST(tags)"),
        ("passthrough", "blob", "(BYTES)", "TO_HEX(blob)"),
        ("passthrough", "span", "(INTERVAL)", "CAST(span AS STRING)"),
        ("passthrough", "validity", "(RANGE)", "RANGE_START(validity)"),
    ],
)
def test_a_refusal_says_the_warehouse_s_type_and_the_sql_that_helps(
    field: str, column: str, name: str, sql: str
) -> None:
    text = complaint(**{field: column if field == "weight_column" else [column]})
    assert f'"{column}" is of type {TABLE[column]} {name}' in text
    assert sql in text


@pytest.mark.parametrize("column", ["tags", "blob", "span", "validity", "nothing"])
def test_what_cannot_be_handed_over_is_refused_by_name_and_type(column: str) -> None:
    text = complaint(passthrough=[column])
    assert f'passthrough: column "{column}" is of type {TABLE[column]}' in text


def test_every_column_is_read_once_however_often_it_is_used() -> None:
    columns = resolved(
        features=["age", "w"],
        labels=["labels.clicked"],
        weight_column="w",
        passthrough=["row_id", "age", "city"],
        hash_column="key",
    )
    assert columns.source_columns == ("age", "w", "labels.clicked", "row_id", "city", "key")
    assert columns.kept_columns == columns.source_columns[:-1]


def test_the_columns_of_a_chunk_have_the_dtypes_that_torch_can_hold() -> None:
    columns = resolved(
        features="features",
        labels=["labels.clicked"],
        weight_column="w",
        passthrough=["row_id", "city", "w", "when", "day", "labels.clicked", "features.height"],
    )
    assert columns.fixed_columns() == (
        (Role.FEATURES, "features", "float32", 3),
        (Role.LABEL, "labels.clicked", "float32", 1),
        (Role.WEIGHT, "w", "float32", 1),
        (Role.PASSTHROUGH, "row_id", "int64", 1),
        (Role.PASSTHROUGH, "w", "int64", 1),
        (Role.PASSTHROUGH, "when", "int64", 1),
        (Role.PASSTHROUGH, "day", "int64", 1),
        (Role.PASSTHROUGH, "labels.clicked", "bool", 1),
        (Role.PASSTHROUGH, "features.height", "float64", 1),
    )
    assert columns.text_columns() == ((Role.PASSTHROUGH, "city"),)
    assert columns.row_nbytes == 3 * 4 + 4 + 4 + 4 * 8 + 1 + 8 + 8


def test_decimals_are_numbers_and_times_are_handed_over_as_integers() -> None:
    columns = resolved(
        features=["price"], labels=["price"], weight_column="price", passthrough=["price", "clock"]
    )
    dtypes = [(column.name, column.dtype) for column in columns.fixed_columns()[3:]]
    assert dtypes == [("price", "float64"), ("clock", "int64")]


STORABLE: dict[str, pa.DataType] = {
    "id": pa.int64(),
    "features.x": pa.float32(),
    "features.home.floor": pa.int8(),
    "labels.x": pa.bool_(),
    "home.floor": pa.int8(),
    "x": pa.string(),
}


def test_a_star_hands_over_every_leaf_by_its_path() -> None:
    columns = resolved(STORABLE, features=["id"], passthrough=["*"])
    assert names(columns.passthrough) == [(path, path) for path in STORABLE]


def test_a_star_hands_over_no_column_twice() -> None:
    columns = resolved(STORABLE, features=["id"], passthrough=["id", "*"])
    assert sorted(names(columns.passthrough)) == sorted((path, path) for path in STORABLE)


def test_a_star_is_no_feature() -> None:
    assert 'no column "*"' in complaint(features=["*"])


def test_passthrough_leaves_of_one_name_are_told_apart_by_their_paths() -> None:
    columns = resolved(STORABLE, features=["id"], passthrough=["features", "labels"])
    assert names(columns.passthrough) == [
        ("features.x", "features.x"),
        ("features.home.floor", "home.floor"),
        ("labels.x", "labels.x"),
    ]


def test_a_leaf_whose_short_name_is_another_s_path_is_called_by_its_own() -> None:
    columns = resolved(STORABLE, features=["id"], passthrough=["features", "x", "home.floor"])
    assert names(columns.passthrough) == [
        ("features.x", "features.x"),
        ("features.home.floor", "features.home.floor"),
        ("x", "x"),
        ("home.floor", "home.floor"),
    ]


def test_a_path_that_becomes_a_name_may_be_another_s_short_name() -> None:
    table = {"a.b": pa.int8(), "b": pa.int8(), "c.a.b": pa.int8()}
    columns = resolved(table, features=["b"], passthrough=["a", "b", "c"])
    assert names(columns.passthrough) == [("a.b", "a.b"), ("b", "b"), ("c.a.b", "c.a.b")]


def test_there_need_be_no_features() -> None:
    columns = resolved(features=(), labels=["w"], passthrough=["city", "row_id"])
    assert columns.features == ()
    assert columns.fixed_columns() == (
        (Role.LABEL, "w", "float32", 1),
        (Role.PASSTHROUGH, "row_id", "int64", 1),
    )
    assert columns.row_nbytes == 4 + 8 + 8
    assert columns.source_columns == ("w", "city", "row_id")


def test_without_features_exclusions_are_of_passthrough_columns() -> None:
    kept = [path for path in TABLE if storable(path)]
    left_out = [path for path in TABLE if not storable(path)]
    columns = resolved(features=(), passthrough=["*"], exclude_features=left_out)
    assert names(columns.passthrough) == [(path, path) for path in kept]


def storable(path: str) -> bool:
    try:
        resolved(features=["age"], passthrough=[path])
    except ColumnError:
        return False
    return True


def test_a_star_over_what_cannot_be_handed_over_says_how_to_leave_it_out() -> None:
    text = complaint(features=(), passthrough=["*"])
    assert 'column "tags"' in text
    assert "exclude_features" in text
    assert "exclude_features" not in complaint(features=["age"], passthrough=["tags"])


def test_excluding_what_is_no_passthrough_column_is_refused_with_near_names() -> None:
    text = complaint(features=(), passthrough=["city"], exclude_features=["citi"])
    assert '"citi" is no passthrough column' in text
    assert "Did you mean city?" in text


def test_excluding_every_passthrough_column_is_refused() -> None:
    text = complaint(features=(), labels=["w"], passthrough=["city"], exclude_features=["city"])
    assert "leaves no passthrough column" in text


def test_a_resolution_travels_to_a_worker() -> None:
    columns = resolved(features="features", passthrough=["when", "state"])
    assert pickle.loads(pickle.dumps(columns)) == columns


LISTS = {
    "tags": pa.list_(pa.string()),
    "ids": pa.large_list(pa.int32()),
    "floats": pa.list_(pa.float64()),
    "embedding": pa.list_(pa.float32(), 4),
    "nested": pa.list_(pa.list_(pa.int8())),
}


def test_lists_are_fitted_where_the_rules_or_an_override_know_what_they_are() -> None:
    for fit in (FitOptions(), FitOptions(feature_overrides={"floats": "VECTOR"})):
        known = ["tags", "ids", "embedding", *fit.feature_overrides]
        columns = resolved(LISTS, features=known, preprocessing="auto", fit=fit)
        assert [feature.name for feature in columns.features] == known
    with pytest.raises(ColumnError, match='"floats" has lists of numbers that are not whole'):
        resolved(LISTS, features=["floats"], preprocessing="auto")
    with pytest.raises(ColumnError, match=r'"nested" .* lists of numbers or text can be'):
        resolved(LISTS, features=["nested"], preprocessing="auto")


def test_lists_have_no_place_among_features_as_they_are() -> None:
    with pytest.raises(ColumnError, match=r'"embedding" is of type .* \(ARRAY\); only integers'):
        resolved(LISTS, features=["embedding"])


def test_columns_of_lists_know_their_layout() -> None:
    columns = resolved(LISTS, features=["tags", "ids", "embedding"], preprocessing="auto")
    spec = PreprocessingSpec(
        [
            Feature("tags", Categorical(("a",)), ragged=True),
            Feature("ids", Hashed(5), ragged=True),
            Feature("embedding", Vector(4)),
        ]
    )
    prepared = columns.with_spec(spec)
    assert prepared.fixed_columns() == ((Role.FEATURES, "features", "float32", 4),)
    assert prepared.variable_columns() == ((Role.RAGGED, "tags"), (Role.RAGGED, "ids"))
    assert prepared.row_nbytes == 4 * 4 + 2 * 8


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (Feature("tags", Hashed(5)), '"tags" .* HASHED for it, which is of numbers or text'),
        (Feature("tags", Categorical((1,)), ragged=True), "which is of lists of numbers"),
        (Feature("ids", Categorical(("a",)), ragged=True), "which is of lists of text"),
        (Feature("tags", Vector(4)), "VECTOR for it, which is of lists of numbers"),
        (Feature("embedding", Vector(3)), '"embedding" has lists of 4 .* VECTOR of 3'),
    ],
)
def test_a_spec_for_other_lists_is_refused(feature: Feature, message: str) -> None:
    spec = PreprocessingSpec([feature])
    columns = resolved(LISTS, features=["tags", "ids", "embedding"], preprocessing=spec)
    with pytest.raises(ColumnError, match=message):
        columns.with_spec(spec)
