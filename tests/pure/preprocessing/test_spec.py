import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucet_client.errors import ColumnError, SpecError
from faucet_client.preprocessing import (
    TRANSFORMS,
    Binary,
    BoxCox,
    BoxCoxTrial,
    Categorical,
    Continuous,
    ContinuousAction,
    DoNotPreprocess,
    Enumeration,
    Feature,
    Hashed,
    Log1p,
    Policy,
    PreprocessingSpec,
    Probability,
    Quantile,
    Summary,
    Timestamp,
    Transform,
)

FLOATS = st.floats(-1e30, 1e30)
ANY_CHARACTER = st.characters(exclude_categories=["Cs"])
STDDEVS = st.floats(1e-3, 1e30)
TRANSFORM: st.SearchStrategy[Transform] = st.one_of(
    st.just(Binary()),
    st.just(Probability()),
    st.builds(Continuous, FLOATS, STDDEVS),
    st.builds(BoxCox, st.sampled_from([0.0, 0.125, -2.0, 3.5]), FLOATS, FLOATS, STDDEVS),
    st.builds(Enumeration, st.sets(st.integers(-(2**53), 2**53), min_size=1).map(sorted)),
    st.builds(Quantile, st.sets(FLOATS, min_size=2).map(sorted)),
    st.builds(ContinuousAction, st.floats(-10, 0), st.floats(0.1, 10)),
    st.just(DoNotPreprocess()),
    st.builds(Log1p, FLOATS, STDDEVS),
    st.builds(
        Categorical,
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, unique=True)
        | st.lists(st.text(ANY_CHARACTER, max_size=5), min_size=1, unique=True),
        st.booleans(),
    ),
    st.just(Categorical(())),
    st.builds(Hashed, st.integers(1, 2**31 - 1)),
    st.builds(Timestamp, st.sets(st.sampled_from(["hour", "weekday", "yearday"])), FLOATS, STDDEVS),
)
POLICY = st.builds(
    Policy,
    impute=st.none() | FLOATS,
    missing_flag=st.booleans(),
    clip=st.none() | st.tuples(st.floats(-10, 0), st.floats(0.1, 10)),
)
SUMMARIES = st.none() | st.builds(
    Summary,
    rows=st.integers(0, 10**12),
    minimum=st.none() | FLOATS,
    mode=st.none() | FLOATS,
    distinct=st.none() | st.integers(0, 9),
    trial=st.none() | st.builds(BoxCoxTrial, FLOATS, FLOATS, FLOATS, FLOATS, st.booleans()),
)
TEXTS = st.text(ANY_CHARACTER, max_size=9)


def feature_of(
    name: str, transform: Transform, policy: Policy, why: str, summary: Any, notes: Any
) -> Feature:
    if isinstance(transform, Categorical | Hashed):
        policy = Policy(missing_flag=policy.missing_flag)
    return Feature(name, transform, why, summary, notes, policy)


SPECS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="=."), min_size=1),
    st.tuples(TRANSFORM, POLICY, TEXTS, SUMMARIES, st.lists(TEXTS, max_size=2).map(tuple)),
    min_size=1,
    max_size=6,
).map(lambda found: PreprocessingSpec([feature_of(name, *rest) for name, rest in found.items()]))

EXAMPLE = PreprocessingSpec(
    [
        Feature("tip", DoNotPreprocess()),
        Feature("age", Continuous(30.0, 14.0), "a rule", Summary(2000, nulls=3)),
        Feature("class", Enumeration((1, 2, 3))),
        Feature("clicked", Binary()),
        Feature("ant", Continuous(1.0, 1.0)),
    ]
)


def test_outputs_are_ordered_by_type_then_name() -> None:
    assert EXAMPLE.input_names == (
        "clicked",
        "age",
        "ant",
        "class",
        "tip",
    )
    assert EXAMPLE.output_names == (
        "clicked",
        "age",
        "ant",
        "class=1",
        "class=2",
        "class=3",
        "tip",
    )
    assert EXAMPLE.width == len(EXAMPLE.output_names)
    assert EXAMPLE.outputs_of("class") == range(3, 6)
    assert EXAMPLE.outputs_of("tip") == range(6, 7)


def test_every_transform_has_its_type_once() -> None:
    assert list(TRANSFORMS) == [
        "BINARY",
        "PROBABILITY",
        "CONTINUOUS",
        "BOXCOX",
        "ENUM",
        "QUANTILE",
        "CONTINUOUS_ACTION",
        "DO_NOT_PREPROCESS",
        "LOG1P",
        "CATEGORICAL",
        "HASHED",
        "TIMESTAMP",
        "VECTOR",
    ]


@given(SPECS)
def test_json_gives_back_an_equal_spec(spec: PreprocessingSpec) -> None:
    again = PreprocessingSpec.from_json(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.key() == spec.key()
    assert [(f.why, f.summary, f.notes) for f in again.features] == [
        (f.why, f.summary, f.notes) for f in spec.features
    ]
    assert again.diff(spec) == ()


@given(SPECS, SPECS)
def test_specs_differ_exactly_if_their_keys_and_their_diff_do(
    a: PreprocessingSpec, b: PreprocessingSpec
) -> None:
    assert (a == b) == (a.key() == b.key()) == (not a.diff(b))


def test_the_key_is_of_what_decides_the_bytes() -> None:
    other = PreprocessingSpec(
        [Feature(f.name, f.transform, why="another") for f in reversed(EXAMPLE.features)]
    )
    assert other == EXAMPLE
    assert other.key() == EXAMPLE.key()
    assert PreprocessingSpec([Feature("a", Continuous(0.0, 1.0))]).key() == (
        PreprocessingSpec([Feature("a", Continuous(-0.0, 1))]).key()
    )
    # A key that changes makes every stored dataset a stranger: change it only on purpose.
    assert PreprocessingSpec([Feature("a", Continuous(0.5, 1.0))]).key() == (
        "8385bd503b6795cbe671d9627c9996c024576344ede2f8abdbdaed8912cbcaee"
    )


def test_a_policy_is_part_of_the_key_and_of_the_diff_and_needs_no_place_in_json() -> None:
    assert "policy" not in EXAMPLE.to_json()
    policy = Policy(impute=1, clip=(0, 9))
    changed = EXAMPLE.override({"ant": Continuous(2, 1)}, policies={"ant": policy, "age": policy})
    assert changed.key() != EXAMPLE.override({"ant": Continuous(2, 1)}).key()
    assert changed.feature("age").why == "a rule"
    assert [str(each) for each in EXAMPLE.diff(changed)] == [
        "age: policy.impute None -> 1.0",
        "age: policy.clip None -> (0.0, 9.0)",
        "ant: mean 1.0 -> 2.0",
        "ant: policy.impute None -> 1.0",
        "ant: policy.clip None -> (0.0, 9.0)",
    ]
    with pytest.raises(ColumnError, match='no feature "agee"'):
        EXAMPLE.override(policies={"agee": policy})
    with pytest.raises(SpecError, match=r"policy\.impute is for numbers and times"):
        changed.override({"age": Hashed(3)})


def test_a_difference_is_told_in_a_line() -> None:
    spec = PreprocessingSpec([Feature("x", Categorical(tuple(range(1_000))))])
    (found,) = spec.diff(spec.override({"x": Categorical((1,))}))
    assert len(str(found)) < 250
    assert found.before == tuple(range(1_000))


def test_what_2020_did_not_know_is_not_written_for_it() -> None:
    for changed, what in (
        (EXAMPLE.override({"age": Log1p(0, 1)}), "LOG1P"),
        (EXAMPLE.override(policies={"age": Policy(impute=1)}), "a policy"),
    ):
        with pytest.raises(SpecError, match=f'feature "age" has {what}, which the 2020 package'):
            changed.to_faucetml()


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text("old")
    EXAMPLE.save(path)
    assert PreprocessingSpec.load(path) == EXAMPLE
    assert [each.name for each in tmp_path.iterdir()] == ["spec.json"]
    path.write_text("{")
    with pytest.raises(SpecError, match=r"spec\.json: not JSON"):
        PreprocessingSpec.load(path)
    with pytest.raises(OSError, match="nowhere"):
        PreprocessingSpec.load(tmp_path / "nowhere")
    path.unlink()
    path.mkdir()  # a file cannot replace a folder
    with pytest.raises(OSError, match=r"spec\.json"):
        EXAMPLE.save(path)
    assert [each.name for each in tmp_path.iterdir()] == ["spec.json"]
    with pytest.raises(OSError, match="no folder"):
        EXAMPLE.save(tmp_path / "no folder" / "spec.json")


def test_overrides_and_exclusions_name_features_that_exist() -> None:
    changed = EXAMPLE.exclude(["tip", "ant"]).override({"age": Quantile((0, 1, 2))})
    assert changed.input_names == ("clicked", "class", "age")
    assert changed.feature("age").summary == Summary(2000, nulls=3)
    assert [str(each) for each in EXAMPLE.diff(changed)] == [
        "age: transform Continuous(mean=30.0, stddev=14.0) -> Quantile(boundaries=(0.0, 1.0, 2.0))",
        "ant: transform Continuous(mean=1.0, stddev=1.0) -> None",
        "tip: transform DoNotPreprocess() -> None",
    ]
    assert [str(each) for each in EXAMPLE.diff(EXAMPLE.override({"age": Continuous(31, 14)}))] == [
        "age: mean 30.0 -> 31.0"
    ]
    for call in (
        lambda: EXAMPLE.exclude(["agee"]),
        lambda: EXAMPLE.override({"agee": Binary()}),
        lambda: EXAMPLE.outputs_of("agee"),
        lambda: EXAMPLE.feature("agee"),
    ):
        with pytest.raises(ColumnError, match=r'no feature "agee"\. Did you mean "age"'):
            call()
    with pytest.raises(SpecError, match="must be a list"):
        EXAMPLE.exclude("age")
    with pytest.raises(SpecError, match='feature "age": the transform must be one of'):
        EXAMPLE.override({"age": "BINARY"})  # type: ignore[dict-item]
    with pytest.raises(SpecError, match="at least one feature"):
        EXAMPLE.exclude(EXAMPLE.input_names)


def test_a_table_without_a_feature_is_refused_by_name() -> None:
    EXAMPLE.check_inputs([*EXAMPLE.input_names, "other"])
    with pytest.raises(ColumnError, match=r'"class", "tip" are missing .* spec\.exclude'):
        EXAMPLE.check_inputs(["clicked", "age", "ant"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Continuous(float("nan"), 1), r"CONTINUOUS.mean must be a finite number"),
        (lambda: Continuous(float("inf"), 1), r"CONTINUOUS.mean must be a finite number"),
        (lambda: Continuous(1e39, 1), r"CONTINUOUS.mean must be .*float32's range"),
        (lambda: Continuous(10**400, 1), r"CONTINUOUS.mean .* not a number of 1329 bits"),
        (lambda: Continuous("1", 1), r"CONTINUOUS.mean must be a number, not '1'"),  # type: ignore[arg-type]
        (lambda: Continuous(True, 1), r"CONTINUOUS.mean must be a number"),
        (lambda: Continuous(0, 0), r"CONTINUOUS.stddev must be at least"),
        (lambda: Continuous(0, -1), r"CONTINUOUS.stddev must be at least"),
        (lambda: BoxCox(1e-9, 0, 0, 1), r"BOXCOX.exponent must be 0, or of a magnitude"),
        (lambda: BoxCox(0.5, 0, 0, 0), r"BOXCOX.stddev must be at least"),
        (lambda: Enumeration(()), r"ENUM.values must have from 1"),
        (lambda: Enumeration((1, 1)), r"ENUM.values must ascend, each once"),
        (lambda: Enumeration((1.5,)), r"ENUM.values must be whole numbers, not 1.5"),  # type: ignore[arg-type]
        (lambda: Enumeration((2**53 + 1,)), r"ENUM.values must be within ±2\^53"),
        (lambda: Enumeration("12"), r"ENUM.values must be a list"),  # type: ignore[arg-type]
        (lambda: Quantile((1,)), r"QUANTILE.boundaries must have from 2"),
        (lambda: Quantile((2, 1)), r"QUANTILE.boundaries must ascend"),
        (lambda: Quantile((1, float("nan"))), r"QUANTILE.boundaries must be a finite number"),
        (lambda: ContinuousAction(1, 1), r"CONTINUOUS_ACTION.high must be above low"),
        (lambda: Log1p(0, 0), r"LOG1P.stddev must be at least"),
        (lambda: Log1p(float("nan"), 1), r"LOG1P.mean must be a finite number"),
        (lambda: Categorical(("a", "a")), r"CATEGORICAL.values must each be there once"),
        (lambda: Categorical(("a", 1)), r"CATEGORICAL.values must all be texts.* not 1"),  # type: ignore[arg-type]
        (lambda: Categorical((1, "a")), r"CATEGORICAL.values must be whole numbers, not 'a'"),  # type: ignore[arg-type]
        (lambda: Categorical((True,)), r"CATEGORICAL.values must be whole numbers, not True"),
        (lambda: Categorical((2**63,)), r"CATEGORICAL.values must be int64"),
        (lambda: Categorical(("a" * 1_025,)), r"CATEGORICAL.values .* at most 1,024 characters"),
        (lambda: Categorical(("\ud800",)), r"CATEGORICAL.values must be of valid Unicode"),
        (lambda: Categorical("ab"), r"CATEGORICAL.values must be a list"),  # type: ignore[arg-type]
        (lambda: Categorical((), one_hot=True), r"CATEGORICAL.values must have from 1"),
        (lambda: Categorical((1,), one_hot=1), r"CATEGORICAL.one_hot must be True or False"),  # type: ignore[arg-type]
        (lambda: Hashed(0), r"HASHED.buckets must be from 1 to 2,147,483,647, not 0"),
        (lambda: Hashed(2**31), r"HASHED.buckets must be from 1"),
        (lambda: Hashed(1.5), r"HASHED.buckets must be whole numbers"),  # type: ignore[arg-type]
        (lambda: Timestamp(("minute",), 0, 1), r"TIMESTAMP.parts must be of hour, .*'minute'"),
        (lambda: Timestamp(("hour", "hour"), 0, 1), r"TIMESTAMP.parts must .* at most once"),
        (lambda: Timestamp("hour", 0, 1), r"TIMESTAMP.parts must be a list"),  # type: ignore[arg-type]
        (lambda: Timestamp((), 0, 0), r"TIMESTAMP.stddev must be at least"),
        (lambda: Policy(impute=float("nan")), r"policy.impute must be a finite number"),
        (lambda: Policy(impute="mean"), r"policy.impute must be a number"),  # type: ignore[arg-type]
        (lambda: Policy(missing_flag=1), r"policy.missing_flag must be True or False"),  # type: ignore[arg-type]
        (lambda: Policy(clip=(1, 1)), r"policy.clip must be low, then high, above it"),
        (lambda: Policy(clip=(1,)), r"policy.clip must be two numbers"),  # type: ignore[arg-type]
        (lambda: Policy(clip="ab"), r"policy.clip must be two numbers"),  # type: ignore[arg-type]
        (
            lambda: Feature("x", Hashed(3), policy=Policy(impute=0)),
            'feature "x": policy.impute is for numbers and times, and HASHED',
        ),
        (
            lambda: Feature("x", Categorical((1,)), policy=Policy(clip=(0, 1))),
            'feature "x": policy.clip is for numbers and times, and CATEGORICAL',
        ),
        (lambda: Feature("x", Binary(), policy={}), 'feature "x": the policy must be a Policy'),  # type: ignore[arg-type]
        (
            lambda: PreprocessingSpec(
                [
                    Feature("a", Binary(), policy=Policy(missing_flag=True)),
                    Feature("a.missing", Binary()),
                ]
            ),
            'the outputs .* "a.missing" is there more than once',
        ),
        (lambda: Feature("", Binary()), "a feature's name must be a text"),
        (lambda: Feature("\ud800", Binary()), "must be of valid Unicode"),
        (lambda: PreprocessingSpec([]), "at least one feature"),
        (
            lambda: PreprocessingSpec([Feature("a", Binary()), Feature("a", Probability())]),
            'the features .* "a" is there more than once',
        ),
        (
            lambda: PreprocessingSpec(
                [Feature("a", Enumeration((1,))), Feature("a=1", Probability())]
            ),
            'the outputs .* "a=1" is there more than once',
        ),
    ],
)
def test_what_cannot_serve_is_refused_where_it_is_written(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


def test_specs_of_2020_are_read_and_written_again(case: dict[str, Any]) -> None:
    spec = PreprocessingSpec.from_faucetml(case["specs"])
    assert list(spec.input_names) == case["sorted_features"]
    assert spec.width == len(case["output"][0])
    again = spec.to_faucetml()
    for name, old in case["specs"].items():
        if old["feature_type"] == "QUANTILE":
            old = {**old, "stddev": 1.0}  # a leftover of a skipped Box-Cox, which nothing reads
        assert again[name] == old


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "must be a dict by feature"),
        ({}, "at least one feature"),
        ({"a": 1}, 'feature "a" must have a dict'),
        ({1: {}}, "name must be a text"),
        ({"a": {}}, 'feature "a": feature_type must be one of'),
        ({"a": {"feature_type": ["ENUM"]}}, 'feature "a": feature_type must be one of'),
        ({"a": {"feature_type": "BINARY", "x": 1}}, "the 2020 package did not know"),
        ({"a": {"feature_type": "CONTINUOUS"}}, 'feature "a": CONTINUOUS.mean must be a number'),
        ({"a": {"feature_type": "ENUM"}}, 'feature "a": ENUM.values must be a list'),
        ({"a": {"feature_type": "BINARY", "mode": "x"}}, 'feature "a": mode must be a number'),
    ],
)
def test_specs_that_2020_cannot_have_written_are_refused(specs: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        PreprocessingSpec.from_faucetml(specs)


def test_the_public_names_are_these() -> None:
    from faucet_client import preprocessing

    assert sorted(preprocessing.__all__) == [
        "Binary",
        "BoxCox",
        "BoxCoxTrial",
        "Categorical",
        "CategoryStatistics",
        "ColumnStatistics",
        "Continuous",
        "ContinuousAction",
        "Difference",
        "DoNotPreprocess",
        "Encoded",
        "Encoder",
        "Enumeration",
        "Feature",
        "FitOptions",
        "FitPolicy",
        "Hashed",
        "ListStatistics",
        "Lists",
        "Log1p",
        "Policy",
        "PolicyCounts",
        "PreprocessingSpec",
        "Preprocessor",
        "Probability",
        "Quantile",
        "RaggedIds",
        "Summary",
        "TRANSFORMS",
        "Texts",
        "TimeStatistics",
        "Timestamp",
        "Transform",
        "Vector",
        "VectorStatistics",
        "count",
        "encode",
        "fit",
        "fit_as_in_2020",
        "merged",
        "spec_of",
        "statistics_of",
    ]
    assert all(hasattr(preprocessing, name) for name in preprocessing.__all__)
    assert not hasattr(preprocessing, "something")


def test_a_spec_needs_neither_torch_nor_the_daemon() -> None:
    code = (
        "import sys; from faucet_client.preprocessing import PreprocessingSpec; "
        "bad = {'torch', 'faucetd', 'pyarrow', 'scipy', 'grpc', 'pandas'} & set(sys.modules); "
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_at_a_prompt_a_spec_is_a_table_and_a_feature_a_line() -> None:
    age = Feature(
        "age", Continuous(40, 12), "numbers", Summary(9, 0), ("odd",), Policy(missing_flag=True)
    )
    city = Feature("city", Categorical(tuple(f"city {n}" for n in range(10_000))), "text")
    assert repr(PreprocessingSpec([city, age])) == (
        "PreprocessingSpec of 2 features: a matrix of width 2, and 1 feature as ids\n"
        "  CONTINUOUS   age   2 floats          numbers (1 note)\n"
        "  CATEGORICAL  city  ids below 10,002  text"
    )
    assert repr(age) == (
        "Feature('age', Continuous(mean=40.0, stddev=12.0), policy=Policy(impute=None, "
        "missing_flag=True, clip=None), why='numbers', notes=['odd'])"
    )
    assert len(repr(city)) < 300
    wide = PreprocessingSpec([Feature(f"{n}\n" * 50, Binary()) for n in range(1_000)])
    assert repr(wide).endswith("and 940 more")
    assert max(map(len, repr(wide).splitlines())) < 100
    assert len(repr(wide).splitlines()) == 62
