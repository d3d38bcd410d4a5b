"""Long texts and wide outputs are looked at in bounded memory, and change no spec."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from faucet_client.preprocessing import Categorical, Continuous, Feature, FitOptions
from faucet_client.preprocessing.spec import PreprocessingSpec
from faucet_client.profile import making, outputs_by_module
from faucetd.prepare import fitting
from faucetd.prepare.columns import SourceColumn
from faucetd.prepare.fitting import Fitter, RowsToLookAt

TEXT = (SourceColumn("text", "text", pa.string()),)


def batch_of(texts: list[str | None]) -> tuple[pa.RecordBatch, np.ndarray, np.ndarray]:
    batch = pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string())})
    return batch, np.zeros(len(texts), np.int8), np.arange(len(texts), dtype=np.uint64)


def test_long_texts_are_fitted_block_by_block_to_the_same_spec(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = [batch_of([letter * 500, "y", None] * 20) for letter in "abcab"]
    blocks: list[int] = []
    flush = Fitter._flush

    def counted(fitter: Fitter) -> None:
        blocks.append(fitter._block_nbytes)
        flush(fitter)

    monkeypatch.setattr(Fitter, "_flush", counted)
    found = []
    for nbytes in (1 << 30, 15_000):
        monkeypatch.setattr(fitting, "_BLOCK_NBYTES", nbytes)
        fitter = Fitter(TEXT, FitOptions(), share=1.0)
        for batch in batches:
            fitter.add(*batch)
        found.append(fitter.spec())
    assert found[0] == found[1]
    assert [nbytes for nbytes in blocks if nbytes] == [
        sum(batch.nbytes for batch, _, _ in batches),
        *(batches[0][0].nbytes + batches[1][0].nbytes,) * 2,
        batches[0][0].nbytes,
    ]


def test_of_long_texts_only_the_beginning_is_kept_to_be_looked_at() -> None:
    looked_at = RowsToLookAt(TEXT, share=1.0)
    looked_at.add(*batch_of(["ä" * 1_000_000, "short", None, ""]))
    columns = looked_at.columns("train")
    assert columns is not None
    assert columns["text"].tolist() == ["ä" * 512, "short", None, ""]


def test_a_feature_too_wide_for_memory_has_no_outputs_in_a_profile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = PreprocessingSpec(
        [
            Feature("wide", Categorical(("a", "b", "c"), one_hot=True)),
            Feature("x", Continuous(1, 2)),
        ]
    )
    columns = {"wide": np.array(["a", "b"] * 4), "x": np.arange(8.0)}
    outputs = outputs_by_module(spec, columns)
    wide, one = outputs("wide"), outputs("x")
    assert wide is not None
    assert wide.tolist() == [[1, 0, 0], [0, 1, 0]] * 4
    monkeypatch.setattr(making, "_MAX_OUTPUTS", 23)
    assert outputs("wide") is None
    assert np.array_equal(outputs("x"), one)  # type: ignore[arg-type]  # float32
