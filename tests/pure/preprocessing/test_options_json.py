"""Fit options as they travel to the daemon."""

from __future__ import annotations

import pytest

from faucet_client.errors import SpecError
from faucet_client.preprocessing import Categorical, Continuous, FitOptions, FitPolicy
from faucet_client.preprocessing.options_json import options_from_json, options_to_json

FULL = FitOptions(
    exclude_features=["a", "b"],
    feature_overrides={
        "age": "QUANTILE",
        "fare": Continuous(1.5, 2.0),
        "city": Categorical(("Wien", "日本"), one_hot=True),
    },
    quantile_k2_threshold=12.5,
    skip_quantiles=False,
    policies={
        "age": FitPolicy(impute="median", missing_flag=True),
        "fare": FitPolicy(impute=0.0, clip=(0.0, 500.0)),
    },
)


def test_the_defaults_are_no_text_at_all() -> None:
    assert options_to_json(FitOptions()) == ""
    assert options_from_json("") == FitOptions()


def test_options_come_back_equal_and_equal_options_are_one_text() -> None:
    text = options_to_json(FULL)
    assert options_from_json(text) == FULL
    assert options_to_json(options_from_json(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "no JSON"),
        ("[" * 100_000, "nested too deep"),
        ("[]", "must be an object"),
        ('{"quantiles": 3}', "must be an object with some of"),
        ('{"feature_overrides": 3}', "feature_overrides must be an object"),
        ('{"feature_overrides": {"a": "MAGIC"}}', "must be one of"),
        ('{"feature_overrides": {"a": {"type": "CONTINUOUS"}}}', "lacks mean"),
        ('{"policies": {"a": {"imputed": 1}}}', "with some of"),
        ('{"policies": {"a": {"impute": "mode"}}}', '"mean", "median" or a number'),
        ('{"quantile_size": "many"}', "whole number"),
        ('{"quantile_k2_threshold": "high"}', "quantile_k2_threshold must be 0"),
        ('{"quantile_k2_threshold": 1e999}', "quantile_k2_threshold must be 0"),
        ('{"skip_box_cox": "no"}', "skip_box_cox must be True or False"),
        ('{"exclude_features": [[]]}', "list of column names"),
        ('{"exclude_features": "a"}', "list of column names"),
        ('"' + "x" * (5 << 20) + '"', "MiB of JSON"),
    ],
)
def test_what_is_no_fit_options_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        options_from_json(text)
