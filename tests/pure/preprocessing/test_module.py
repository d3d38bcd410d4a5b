import importlib
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from faucet_client.errors import SpecError
from faucet_client.preprocessing import (
    TRANSFORMS,
    Binary,
    BoxCox,
    Continuous,
    ContinuousAction,
    DoNotPreprocess,
    Enumeration,
    Feature,
    PreprocessingSpec,
    Preprocessor,
    Probability,
    Quantile,
    Transform,
)
from faucet_client.preprocessing.blocks import BLOCKS

EVERYTHING = PreprocessingSpec(
    [
        Feature("a", Binary()),
        Feature("b", Probability()),
        Feature("c", Continuous(5.0, 2.0)),
        Feature("d", Continuous(-3e38, 1e-30)),
        Feature("e", BoxCox(0.125, 1.0, 0.5, 1.5)),
        Feature("f", BoxCox(0.0, 0.0, 0.5, 1.5)),
        Feature("g", BoxCox(-3.0, 2.0, 0.5, 1.5)),
        Feature("h", BoxCox(100.0, 0.0, 0.0, 1e-30)),
        Feature("i", Enumeration((-1, 2, 7))),
        Feature("j", Enumeration((0,))),
        Feature("k", Quantile((-3e38, 0.0, 1e-40, 1.0, 3e38))),
        Feature("l", Quantile((0.0, 1.0, 4.0))),
        Feature("m", ContinuousAction(-1.0, 3.0)),
        Feature("n", ContinuousAction(-3.4e38, 3.4e38)),
        Feature("o", DoNotPreprocess()),
    ]
)
EVERY_MODULE = EVERYTHING.preprocessor()
KINDS = pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=str)


def one(transform: Transform, values: list[float], kind: torch.dtype = torch.float64) -> Any:
    module = PreprocessingSpec([Feature("x", transform)]).preprocessor()
    column = torch.tensor(values, dtype=kind).unsqueeze(1)
    return module(column, torch.ones_like(column, dtype=torch.bool)).tolist()


def rows(n: int, seed: int = 0, kind: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    values = random.normal(1, 3, (n, len(EVERYTHING.input_names)))
    values[random.random(values.shape) < 0.2] = math.nan
    values[random.random(values.shape) < 0.05] = math.inf
    values[random.random(values.shape) < 0.05] = -math.inf
    values = np.where(random.random(values.shape) < 0.3, np.round(values), values)
    return torch.tensor(values, dtype=kind), torch.tensor(random.random(values.shape) < 0.9)


def test_the_blocks_are_in_the_order_of_the_transforms() -> None:
    assert [kind for _, kind in BLOCKS] == list(TRANSFORMS.values())


@KINDS
def test_outputs_agree_with_the_original(
    case: dict[str, Any], probe: NDArray[np.float64], kind: torch.dtype
) -> None:
    module = PreprocessingSpec.from_faucetml(case["specs"]).preprocessor()
    values = torch.tensor(probe, dtype=kind)
    output = module(values, ~values.isnan())
    expected = torch.tensor(case["output"])
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("transform", "values", "expected"),
    [
        (Binary(), [0, -0.0, 1, -2, 0.5], [0, 0, 1, 1, 1]),
        (
            Probability(),
            [-1, 0, 0.01, 0.5, 0.8, 1, 7],
            [math.log(1 / 99)] * 3 + [0, math.log(4)] + [math.log(99)] * 2,
        ),
        (Continuous(5, 2), [5, 7, 0], [0, 1, -2.5]),
        (BoxCox(2, 1, 3, 4), [2, -1, -9], [0.25, -0.875, -0.875]),
        (BoxCox(0, 0, 1, 2), [math.e, 1, -5], [0, -0.5, (math.log(1e-6) - 1) / 2]),
        (BoxCox(1e-6, 0, 1, 2), [math.e, 1], [0, -0.5]),
        (Quantile((0, 1, 4)), [-9, 0, 0.5, 1, 2.5, 4, 99], [0, 0, 0.25, 0.5, 0.75, 1, 1]),
        (
            ContinuousAction(0, 10),
            [-5, 0, 5, 10, 50],
            [-1 + 1e-6, -1 + 1e-6, 0, 1 - 1e-6, 1 - 1e-6],
        ),
        (DoNotPreprocess(), [3.5, -7, 1e39], [3.5, -7, torch.finfo(torch.float32).max]),
    ],
)
def test_each_transform_is_its_formula(
    transform: Transform, values: list[float], expected: list[float]
) -> None:
    assert [row[0] for row in one(transform, values)] == pytest.approx(expected, abs=2e-6)


def test_boundaries_may_be_too_near_or_too_far_for_float32() -> None:
    close = Quantile((0, 2**25, 2**25 + 1))
    wide = Quantile((-3e38, 3e38))
    assert one(wide, [-3.4e38, 0, 3.4e38], torch.float32) == [[0], [0.5], [1]]
    assert one(close, [-1, 0, 2**24, 2**25, 2**26], torch.float32) == [[0], [0], [0.25], [1], [1]]


def test_an_enum_is_one_hot_and_what_is_not_listed_is_zeros() -> None:
    assert one(Enumeration((0, 3)), [0, 3, 1, 2.5]) == [[1, 0], [0, 1], [0, 0], [0, 0]]


def test_large_ids_need_float64() -> None:
    ids = Enumeration((2**24, 2**24 + 1))
    assert one(ids, [2**24 + 1, 2**24]) == [[0, 1], [1, 0]]
    with pytest.raises(SpecError, match="give the values as float64"):
        one(ids, [2**24], torch.float32)


@KINDS
@pytest.mark.parametrize("presence", [torch.bool, torch.uint8], ids=str)
def test_what_is_missing_is_0_in_all_outputs_of_its_feature(
    kind: torch.dtype, presence: torch.dtype
) -> None:
    values, there = rows(64, kind=kind)
    whole = EVERY_MODULE(torch.nan_to_num(values, 2.0), torch.ones_like(there))
    output = EVERY_MODULE(values, there.to(presence))
    for number, name in enumerate(EVERYTHING.input_names):
        expected = whole[:, EVERYTHING.outputs_of(name)].clone()
        expected[~there[:, number] | ~values[:, number].isfinite()] = 0
        assert torch.equal(output[:, EVERYTHING.outputs_of(name)], expected), name


NASTY = st.sampled_from(
    [
        *(sign * x for sign in (1, -1) for x in (0.0, 1e-45, 1e-40, 1.2e-38, 1e-6, 1.0, 2**24)),
        *(sign * x for sign in (1, -1) for x in (3.4028234663852886e38, 1e300, 5e-324, math.inf)),
        math.nan,
    ]
)


@given(st.data(), st.sampled_from([torch.float32, torch.float64]))
def test_no_nan_and_no_infinity_leaves_it(data: st.DataObject, kind: torch.dtype) -> None:
    width = len(EVERYTHING.input_names)
    value = NASTY | st.floats(width=64)
    row = st.lists(value, min_size=width, max_size=width)
    table = data.draw(st.lists(row, min_size=1, max_size=4))
    values = torch.tensor(table, dtype=torch.float64).to(kind)
    for there in (torch.ones_like(values, dtype=torch.bool), values.isnan()):
        output = EVERY_MODULE(values, there)
        assert torch.isfinite(output).all()
        assert output.dtype == torch.float32
        assert output.shape == (len(table), EVERYTHING.width)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 300), st.sampled_from([torch.float32, torch.float64]))
def test_permuting_the_rows_permutes_the_output_bit_for_bit(
    seed: int, n: int, kind: torch.dtype
) -> None:
    values, there = rows(n, seed, kind)
    order = torch.tensor(np.random.default_rng(seed).permutation(n))
    assert torch.equal(
        EVERY_MODULE(values, there)[order], EVERY_MODULE(values[order], there[order])
    )


@KINDS
@pytest.mark.parametrize("logarithm", [True, False])
def test_a_row_has_the_same_bits_alone_in_any_batch_and_in_any_layout(
    kind: torch.dtype, logarithm: bool
) -> None:
    # One BOXCOX alone is one contiguous column, which is computed in another way than several.
    spec = EVERYTHING if logarithm else EVERYTHING.exclude(["f", "g", "h"])
    keep = [EVERYTHING.input_names.index(name) for name in spec.input_names]
    module = spec.preprocessor()
    # Beyond 32,768 elements torch divides the work among threads.
    values, there = (each[:, keep] for each in rows(40_000, kind=kind))
    whole = module(values, there)
    columns = module(values.t().contiguous().t(), there.t().contiguous().t())
    assert torch.equal(whole, columns)
    assert whole.is_contiguous()
    assert torch.equal(module(values[7:1_000], there[7:1_000]), whole[7:1_000])
    for row in range(200):
        alone = module(values[row : row + 1], there[row : row + 1])
        assert torch.equal(alone, whole[row : row + 1])


def test_no_rows_are_no_rows() -> None:
    values, there = rows(0)
    assert EVERY_MODULE(values, there).shape == (0, EVERYTHING.width)


def test_inputs_stay_as_they_were() -> None:
    module = PreprocessingSpec([Feature("x", DoNotPreprocess())]).preprocessor()
    values = torch.ones(3, 1)
    output = module(values, torch.ones(3, 1, dtype=torch.bool))
    output += 1
    assert values.sum() == 3


def test_the_output_is_contiguous_also_of_one_type_in_columns() -> None:
    module = PreprocessingSpec([Feature(x, Continuous(0, 1)) for x in "xy"]).preprocessor()
    assert module(torch.ones(2, 9).t(), torch.ones(2, 9, dtype=torch.bool).t()).is_contiguous()


def test_names_and_widths_are_the_specs() -> None:
    assert EVERY_MODULE.output_names == EVERYTHING.output_names
    assert EVERY_MODULE.width == EVERYTHING.width
    assert EVERY_MODULE.outputs_of("i") == range(8, 11)
    assert isinstance(EVERY_MODULE, Preprocessor)
    assert not list(EVERY_MODULE.parameters())


@pytest.mark.parametrize(
    ("values", "presence", "message"),
    [
        (torch.ones(2, 14), torch.ones(2, 15, dtype=torch.bool), r"values must be \[n, 15\]"),
        (torch.ones(15), torch.ones(2, 15, dtype=torch.bool), r"values must be \[n, 15\]"),
        (torch.ones(2, 15), torch.ones(2, 14, dtype=torch.bool), r"presence must be \[n, 15\]"),
        (torch.ones(2, 15), torch.ones(2, 15), "presence must be bool or uint8"),
        (
            torch.ones(2, 15, dtype=torch.int64),
            torch.ones(2, 15, dtype=torch.bool),
            "values must be float32 or float64, not torch.int64",
        ),
        (
            cast(Tensor, np.ones((2, 15))),
            torch.ones(2, 15, dtype=torch.bool),
            r"values must be a tensor, not ndarray; of an array, torch.from_numpy",
        ),
    ],
)
def test_inputs_of_another_shape_are_refused(
    values: Tensor, presence: Tensor, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        EVERY_MODULE(values, presence)


def exported(
    module: Preprocessor, values: Tensor, presence: Tensor
) -> torch.export.ExportedProgram:
    any_rows = {0: torch.export.Dim("n", min=1)}
    return torch.export.export(module, (values, presence), dynamic_shapes=(any_rows, any_rows))


@KINDS
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_exported_program_equals_the_module_bit_for_bit(
    kind: torch.dtype, tmp_path: Any
) -> None:
    path = tmp_path / "module.pt2"
    torch.export.save(exported(EVERY_MODULE, *rows(5, kind=kind)), path)
    program = torch.export.load(path).module()
    for n in (1, 2, 5, 1_000):
        values, there = rows(n, n, kind)
        assert torch.equal(program(values, there), EVERY_MODULE(values, there))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_another_process_serves_the_same_bits_from_the_saved_spec_and_the_saved_program(
    tmp_path: Any,
) -> None:
    EVERYTHING.save(tmp_path / "spec.json")
    torch.export.save(exported(EVERY_MODULE, *rows(5)), tmp_path / "module.pt2")
    values, there = rows(100)
    torch.save((values, there), tmp_path / "rows.pt")
    code = """
import sys, torch
values, there = torch.load("rows.pt")
program = torch.export.load("module.pt2").module()
of_program = torch.cat([program(*row) for row in zip(values.split(1), there.split(1))])
assert "faucet_client" not in sys.modules
from faucet_client.preprocessing import PreprocessingSpec
of_spec = PreprocessingSpec.load("spec.json").preprocessor()(values, there)
assert "faucetd" not in sys.modules
torch.save((of_program, of_spec), "outputs.pt")
"""
    root = Path(__file__).parents[3]
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=True,
        timeout=100,
    )
    for output in torch.load(tmp_path / "outputs.pt"):
        assert torch.equal(output, EVERY_MODULE(values, there))


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="torch exports to ONNX with the packages onnx and onnxscript, and onnxruntime runs it",
)
@KINDS
@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_agrees(kind: torch.dtype, tmp_path: Any) -> None:
    onnxruntime = importlib.import_module("onnxruntime")
    # In float32, a power's relative error is 6e-8 times its exponent times ln t: without those two.
    spec = EVERYTHING.exclude(["g", "h"])
    keep = [EVERYTHING.input_names.index(name) for name in spec.input_names]
    module = spec.preprocessor()

    def some(n: int) -> tuple[Tensor, Tensor]:
        values, there = rows(n, n, kind)
        return values[:, keep], there[:, keep]

    program = torch.onnx.export(exported(module, *some(5)), dynamo=True)
    assert program is not None
    program.save(tmp_path / "module.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "module.onnx")
    names = [each.name for each in session.get_inputs()]
    for n in (1, 1_000):
        values, there = some(n)
        got = session.run(None, dict(zip(names, (values.numpy(), there.numpy()), strict=True)))
        expected = module(values, there)
        torch.testing.assert_close(torch.tensor(got[0]), expected, rtol=1e-6, atol=1e-6)
