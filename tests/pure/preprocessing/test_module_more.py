"""The module's blocks for what is no plain number, and its policies. All in float64."""

import datetime
import importlib
import importlib.util
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from faucet_client.errors import SpecError
from faucet_client.preprocessing import (
    Binary,
    BoxCox,
    Categorical,
    Continuous,
    Enumeration,
    Feature,
    Hashed,
    Log1p,
    Policy,
    PreprocessingSpec,
    Probability,
    Quantile,
    Timestamp,
    Transform,
)

PARTS = ("hour", "weekday", "yearday")
FLAG = Policy(missing_flag=True)
EVERYTHING = PreprocessingSpec(
    [
        Feature("a", Binary(), policy=FLAG),
        Feature("b", Binary()),
        Feature("c", Probability(), policy=Policy(impute=0.75)),
        Feature("d", Continuous(5.0, 2.0), policy=Policy(1.0, True, (-2.0, 3.0))),
        Feature("e", Continuous(5.0, 2.0)),
        Feature("f", BoxCox(0.125, 1.0, 0.5, 1.5), policy=Policy(clip=(0.0, 2.0))),
        Feature("g", Enumeration((-1, 0, 2)), policy=Policy(2.0, True)),
        Feature("h", Enumeration((0, 1))),
        Feature("i", Quantile((0.0, 1.0, 4.0)), policy=FLAG),
        Feature("j", Log1p(0.5, 2.0)),
        Feature("k", Log1p(-3e38, 1e-30), policy=Policy(impute=-1.0)),
        Feature("l", Categorical(("x", "y", "z"), one_hot=True), policy=FLAG),
        Feature("m", Categorical((1, 2)), policy=FLAG),
        Feature("n", Categorical((4, 3), one_hot=True)),
        Feature("o", Hashed(3), policy=FLAG),
        Feature("p", Timestamp(PARTS, 1.5e9, 1e8)),
        Feature("q", Timestamp(("yearday",), -1e9, 1.0), policy=Policy(0.0, True, (-1e15, 1e15))),
        Feature("r", Timestamp((), 0.0, 1e-30)),
        Feature("s", Hashed(3)),
        Feature("t", Hashed(4), policy=FLAG),
    ]
)
MODULE = EVERYTHING.preprocessor()
WIDTH = len(EVERYTHING.input_names)


def one(transform: Transform, values: list[float], policy: Policy | None = None) -> Any:
    spec = PreprocessingSpec([Feature("x", transform, policy=policy or Policy())])
    column = torch.tensor(values, dtype=torch.float64).unsqueeze(1)
    return spec.preprocessor()(column, torch.ones_like(column, dtype=torch.bool)).tolist()


def rows(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    values = random.normal(1, 3, (n, WIDTH))
    values[random.random(values.shape) < 0.1] = math.nan
    values[random.random(values.shape) < 0.05] = math.inf
    values = np.where(random.random(values.shape) < 0.4, np.round(values), values)
    times = [EVERYTHING.input_names.index(name) for name in "pqr"]
    values[:, times] *= 2.0**50
    return torch.tensor(values), torch.tensor(random.random(values.shape) < 0.9)


# Formulas ---------------------------------------------------------------------------------------


def test_log1p_is_its_formula() -> None:
    found = one(Log1p(0.5, 2), [0, 1, 1e-20, -7, math.e - 1])
    assert [x for (x,) in found] == pytest.approx(
        [-0.25, (math.log(2) - 0.5) / 2, -0.25, -0.25, 0.25]
    )


def test_an_id_becomes_one_hot_and_what_is_not_listed_is_zeros() -> None:
    hot = Categorical(("x", "y"), one_hot=True)
    assert one(hot, [2, 3, 1, 0]) == [[1, 0], [0, 1], [0, 0], [0, 0]]


def expected_of(when: datetime.datetime) -> list[float]:
    day = when.replace(hour=0, minute=0, second=0, microsecond=0)
    days = 366 if (when.year % 4 == 0 and when.year % 100) or when.year % 400 == 0 else 365
    turns = [
        (when - day) / datetime.timedelta(days=1),
        when.weekday() / 7,
        (when.timetuple().tm_yday - 1) / days,
    ]
    angles = [f(math.tau * turn) for turn in turns for f in (math.sin, math.cos)]
    return [*angles, (when - EPOCH).total_seconds() / 1e9]


EPOCH = datetime.datetime(1970, 1, 1)  # noqa: DTZ001  # all is UTC here
LEAP_YEARS = [1600, 1899, 1900, 1972, 2000, 2023, 2024, 2100, 2400]


def microseconds(when: datetime.datetime) -> float:
    return float((when - EPOCH) // datetime.timedelta(microseconds=1))


@settings(max_examples=300)
@given(
    st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(2255, 1, 1))  # noqa: DTZ001
    | st.builds(
        datetime.datetime,
        st.sampled_from(LEAP_YEARS[:-1]),
        st.sampled_from([1, 2, 3, 12]),
        st.sampled_from([1, 28]),
        st.sampled_from([0, 23]),
    )
)
def test_a_time_is_where_the_calendar_puts_it(when: datetime.datetime) -> None:
    (found,) = one(Timestamp(PARTS, 0, 1e9), [microseconds(when)])
    assert found == pytest.approx(expected_of(when), abs=1e-7, rel=1e-6)


def test_each_day_of_leap_years_and_others_is_found() -> None:
    whens = [
        datetime.datetime(year, 1, 1) + datetime.timedelta(days=day)  # noqa: DTZ001
        for year in LEAP_YEARS
        for day in range(366)
    ]
    found = one(Timestamp(("yearday",), 0, 1e9), [microseconds(when) for when in whens])
    expected = [expected_of(when)[4:] for when in whens]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_times_need_float64() -> None:
    module = PreprocessingSpec([Feature("x", Timestamp((), 0, 1))]).preprocessor()
    with pytest.raises(SpecError, match="give the values as float64"):
        module(torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool))


# Policies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(), [[0], [5], [-5], [0], [0]]),
        (Policy(clip=(-1, 2)), [[0], [2], [-1], [0], [0]]),
        (Policy(impute=7), [[0], [5], [-5], [7], [7]]),
        (Policy(impute=7, clip=(-1, 2)), [[0], [2], [-1], [7], [7]]),
        (Policy(missing_flag=True), [[0, 0], [5, 0], [-5, 0], [0, 1], [0, 1]]),
        (Policy(7, True, (-1, 2)), [[0, 0], [2, 0], [-1, 0], [7, 1], [7, 1]]),
    ],
)
def test_what_is_there_is_clipped_and_what_is_missing_imputed_and_flagged(
    policy: Policy, expected: list[list[float]]
) -> None:
    assert one(Continuous(0, 1), [0, 5, -5, math.nan, -math.inf], policy) == expected


def test_an_imputed_value_is_transformed_like_any_other() -> None:
    assert one(Enumeration((0, 3)), [math.nan, 0], Policy(impute=3)) == [[0, 1], [1, 0]]
    assert one(Continuous(5, 2), [math.nan], Policy(impute=6)) == [[0.5]]


def test_flags_stand_behind_their_features() -> None:
    names = EVERYTHING.output_names
    assert names[:3] == ("a", "a.missing", "b")
    assert names[names.index("l=z") :][:4] == ("l=z", "l.missing", "m.missing", "n=4")
    assert EVERYTHING.id_names == ("m", "o", "s", "t")
    values, there = rows(50)
    output = MODULE(values, there)
    missing = ~(there & values.isfinite())
    for number, name in enumerate(EVERYTHING.input_names):
        if f"{name}.missing" in names:
            flags = output[:, names.index(f"{name}.missing")]
            assert torch.equal(flags, missing[:, number].to(torch.float32)), name


def test_each_feature_is_as_if_it_were_alone() -> None:
    values, there = rows(50)
    output = MODULE(values, there)
    for number, feature in enumerate(EVERYTHING.dense_features):
        alone = PreprocessingSpec([feature]).preprocessor()
        found = alone(values[:, number : number + 1], there[:, number : number + 1])
        assert torch.equal(found, output[:, EVERYTHING.outputs_of(feature.name)]), feature.name


# Invariants -------------------------------------------------------------------------------------

NASTY = st.sampled_from(
    [sign * x for sign in (1, -1) for x in (0.0, 5e-324, 1.0, 2.0**53, 2.0**63, 1e300, math.inf)]
)


@given(st.data())
def test_no_nan_and_no_infinity_leaves_it(data: st.DataObject) -> None:
    row = st.lists(NASTY | st.floats(), min_size=WIDTH, max_size=WIDTH)
    values = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=4)), dtype=torch.float64)
    output = MODULE(values, torch.ones_like(values, dtype=torch.bool))
    assert torch.isfinite(output).all()
    assert output.dtype == torch.float32
    assert output.shape == (len(values), EVERYTHING.width)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 300))
def test_permuting_the_rows_permutes_the_output_bit_for_bit(seed: int, n: int) -> None:
    values, there = rows(n, seed)
    order = torch.tensor(np.random.default_rng(seed).permutation(n))
    assert torch.equal(MODULE(values, there)[order], MODULE(values[order], there[order]))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)
def test_a_row_has_the_same_bits_alone_in_any_batch_and_in_any_layout(kind: torch.dtype) -> None:
    spec = EVERYTHING
    if kind == torch.float32:
        spec = EVERYTHING.exclude(["p", "q", "r"])
    module = spec.preprocessor()
    # Beyond 32,768 elements torch divides the work among threads.
    keep = [EVERYTHING.input_names.index(name) for name in spec.input_names]
    values, there = (each[:, keep] for each in rows(40_000))
    values = values.to(kind)
    whole = module(values, there)
    assert torch.equal(whole, module(values.t().contiguous().t(), there.t().contiguous().t()))
    assert whole.is_contiguous()
    assert torch.equal(module(values[7:1_000], there[7:1_000]), whole[7:1_000])
    for row in range(200):
        assert torch.equal(
            module(values[row : row + 1], there[row : row + 1]), whole[row : row + 1]
        )


def exported(values: Tensor, presence: Tensor) -> torch.export.ExportedProgram:
    any_rows = {0: torch.export.Dim("n", min=1)}
    return torch.export.export(MODULE, (values, presence), dynamic_shapes=(any_rows, any_rows))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_exported_program_equals_the_module_bit_for_bit(tmp_path: Any) -> None:
    path = tmp_path / "module.pt2"
    torch.export.save(exported(*rows(5)), path)
    program = torch.export.load(path).module()
    for n in (1, 2, 1_000):
        values, there = rows(n, n)
        assert torch.equal(program(values, there), MODULE(values, there))


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="torch exports to ONNX with the packages onnx and onnxscript, and onnxruntime runs it",
)
@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_agrees(tmp_path: Any) -> None:
    onnxruntime = importlib.import_module("onnxruntime")
    program = torch.onnx.export(exported(*rows(5)), dynamo=True)
    assert program is not None
    program.save(tmp_path / "module.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "module.onnx")
    names = [each.name for each in session.get_inputs()]
    for n in (1, 1_000):
        values, there = rows(n, n)
        got = session.run(None, dict(zip(names, (values.numpy(), there.numpy()), strict=True)))
        torch.testing.assert_close(
            torch.tensor(got[0]), MODULE(values, there), rtol=1e-6, atol=1e-6
        )
