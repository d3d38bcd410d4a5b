"""JSON that is no spec, or is meant to do harm."""

import contextlib
import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucet_client.errors import NotYetAvailable, SpecError
from faucet_client.preprocessing import (
    TRANSFORMS,
    Binary,
    BoxCoxTrial,
    Continuous,
    DoNotPreprocess,
    Enumeration,
    Feature,
    Policy,
    PreprocessingSpec,
    Summary,
    document,
)

EXAMPLE = PreprocessingSpec(
    [
        Feature("tip", DoNotPreprocess()),
        Feature("age", Continuous(30.0, 14.0), "a rule", Summary(2000, nulls=3)),
        Feature("class", Enumeration((1, 2, 3))),
        Feature("clicked", Binary()),
        Feature("ant", Continuous(1.0, 1.0)),
    ]
)


def written(change: Any = None) -> str:
    plain = json.loads(EXAMPLE.to_json())
    if change is not None:
        change(plain)
    return json.dumps(plain)


def first(plain: Any) -> Any:
    return plain["features"][1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p: p.update(version=2), NotYetAvailable, "version 2.*upgrade faucetml"),
        (lambda p: p.update(version="1"), SpecError, '"version" must be a whole number'),
        (lambda p: p.update(format="x"), SpecError, "from_faucetml"),
        (lambda p: p.update(more=1), SpecError, "the spec has 'more', which is not known"),
        (lambda p: p.pop("features"), SpecError, "the spec lacks features"),
        (lambda p: p.update(features={}), SpecError, '"features" must be a list'),
        (lambda p: p.update(features=[1]), SpecError, "feature 0 must be an object"),
        (lambda p: p.update(features=[]), SpecError, "at least one feature"),
        (lambda p: p["features"].append(first(p)), SpecError, '"age" is there more than once'),
        (lambda p: first(p).update(name=3), SpecError, 'feature 1: "name" must be a text'),
        (lambda p: first(p).pop("transform"), SpecError, 'feature "age" lacks transform'),
        (
            lambda p: first(p)["transform"].update(type="WAVELET"),
            NotYetAvailable,
            "feature \"age\": the transform 'WAVELET' is not known.*upgrade faucetml",
        ),
        (
            lambda p: first(p)["transform"].update(type=["CONTINUOUS"]),
            SpecError,
            'feature "age": transform: "type" must be a text',
        ),
        (
            lambda p: first(p)["transform"].pop("mean"),
            SpecError,
            'feature "age": CONTINUOUS lacks mean',
        ),
        (
            lambda p: first(p)["transform"].update(median=3),
            SpecError,
            "feature \"age\": CONTINUOUS has 'median', which is not known",
        ),
        (
            lambda p: first(p)["transform"].update(mean="30"),
            SpecError,
            'feature "age": CONTINUOUS.mean must be a number',
        ),
        (
            lambda p: first(p)["transform"].update(mean=None),
            SpecError,
            'feature "age": CONTINUOUS.mean must be a number',
        ),
        (
            lambda p: first(p)["transform"].update(mean=10**400),
            SpecError,
            'feature "age": CONTINUOUS.mean must be a finite number',
        ),
        (
            lambda p: p["features"][3]["transform"].update(values=[[1]]),
            SpecError,
            'feature "class": ENUM.values must be whole numbers',
        ),
        (
            lambda p: first(p).update(policy={"impute": "mean"}),
            SpecError,
            'feature "age": policy.impute must be a number',
        ),
        (
            lambda p: first(p).update(policy={"clip": 3}),
            SpecError,
            'feature "age": policy.clip must be a list',
        ),
        (
            lambda p: first(p).update(policy={"drop": True}),
            SpecError,
            "feature \"age\": policy has 'drop', which is not known",
        ),
        (
            lambda p: first(p)["summary"].update(nulls=-1),
            SpecError,
            'feature "age": summary.nulls must be a whole number',
        ),
        (
            lambda p: first(p)["summary"].update(trial={}),
            SpecError,
            'feature "age": summary.trial lacks exponent',
        ),
    ],
)
def test_json_that_is_no_spec_is_refused_by_feature_and_rule(
    change: Any, error: type[SpecError], message: str
) -> None:
    with pytest.raises(SpecError, match=message) as raised:
        PreprocessingSpec.from_json(written(change))
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        (b"\xff\xfe\xfa", "not JSON"),
        ("[]", '"format": "faucet-preprocessing"'),
        ("[" * 1_000_000, "nested too deep"),
        ('{"a":' * 1_000_000, "nested too deep"),
        ("1" * 10_000, "not JSON"),
        (" " * (100 << 20), "32 MiB, and this has more"),
        (written().replace("30.0", "NaN"), "NaN is no number of JSON"),
        (written().replace("30.0", "-Infinity"), "-Infinity is no number of JSON"),
        (written().replace("30.0", "1e999"), "CONTINUOUS.mean must be a finite number"),
        (written().replace('"mean": 30.0', '"mean": 30.0, "mean": 31.0'), "stands twice"),
    ],
    ids=range(11),
)
def test_hostile_text_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        PreprocessingSpec.from_json(text)


@given(st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["name", "transform", "type", "mean", "stddev", "features", "summary"]),
        inner,
    ),
))  # fmt: skip
def test_any_json_in_place_of_features_is_a_spec_or_a_spec_error(value: Any) -> None:
    for plain in (value, [value], [{"name": "a", "transform": value}]):
        text = json.dumps({"format": document.FORMAT, "version": 1, "features": plain})
        with contextlib.suppress(SpecError):
            PreprocessingSpec.from_json(text)


def test_every_field_has_a_reader() -> None:
    kinds = [*TRANSFORMS.values(), Policy, Summary, BoxCoxTrial]
    used = {str(each.type) for kind in kinds for each in fields(kind)}
    assert used == set(document._READERS)
