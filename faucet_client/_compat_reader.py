"""The object of 2020's interface: epochs, batches and preprocessing of one table; see compat.py."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from faucet_client._compat_preprocessing import (
    NormalizationParameters,
    Specifications,
    features_tensor,
    fit_to_training_rows,
    label_tensors,
    large_labels,
    names_in,
    options_of,
    parameters_of,
    spec_from,
)
from faucet_client._frames import Column, columns_in, columns_of, frame, joined
from faucet_client.batches import BatchIterator, batches_in
from faucet_client.dataset import Dataset, FaucetClient, Share, Wish
from faucet_client.errors import (
    ColumnError,
    DatasetInUse,
    DatasetNotFound,
    FaucetError,
    IteratorError,
    SpecError,
)
from faucet_client.preprocessing import Preprocessor
from faucet_client.preprocessing.transforms import Transform
from faucet_client.spec import BigQuerySource, DatasetSpec, Source, Split, whole_number
from faucet_client.wire.values import DatasetInfo

if TYPE_CHECKING:
    import pandas as pd
    import torch

_log = logging.getLogger("faucet_client.compat")

_ADHOC_BATCH_ROWS = 64 * 1024

_DROP_S = 0.5
"""So long the dataset of a query is given to come free, after which the daemon forgets it later."""


@dataclass(frozen=True)
class Pace:
    """How the caller wants to read."""

    epochs: int
    batch_size: int
    skip_small_batches: bool

    def __post_init__(self) -> None:
        whole_number("epochs", self.epochs, 1, 2**48)
        whole_number("batch_size", self.batch_size, 1, 2**48)

    def batches_of(self, rows: int) -> int:
        """How many batches a split of so many rows makes."""
        return batches_in(rows, self.batch_size, self.skip_small_batches)


class DataReader:
    """What `get_client` returns: epochs and evaluations of one table, batch by batch.

    `prep_for_epoch()` or `prep_for_eval()` begins a pass and gives up the one before, wherever that
    was; `get_batch()` gives its batches, then None. Not safe for threads. A context manager; one
    that is dropped without `close()` ends as well.

    Attributes:
        dataset: The open dataset, for all that this interface does not have.
    """

    def __init__(self, client: FaucetClient, dataset: Dataset, pace: Pace) -> None:
        """Takes over the client.

        Raises:
            SpecError: the training split does not make one batch.
        """
        self.dataset = dataset
        self._client = client
        self._pace = pace
        self._features, self._labels = _names_of(dataset.info)
        self._net: Preprocessor | None = None
        self._labels_warned: set[str] = set()
        self._epoch = 0
        self._pass: _Pass | None = None
        self._closed = False
        rows = dataset.info.rows["train"]
        if rows == 0:
            raise SpecError(
                f"{dataset.spec.source} has no training rows: test_split_percent="
                f"{dataset.spec.eval_percent}, table_sample_percent={dataset.spec.sample_percent}"
            )
        if pace.batches_of(rows) == 0:
            raise SpecError(
                f"{dataset.spec.source} has {rows:,} training rows, fewer than one batch of "
                f"{pace.batch_size:,}; use a smaller batch_size, or skip_small_batches=False"
            )

    def prep_for_epoch(self) -> None:
        """Begins the next epoch of training, each in another order, in each every row once.

        Raises:
            FaucetError: see `Dataset.epochs`.
        """
        self._begin("train", self._epoch + 1)
        self._epoch += 1
        _log.info(
            "Epoch %d/%d: %d training rows",
            self._epoch,
            self._pace.epochs,
            self.dataset.info.rows["train"],
        )

    def prep_for_eval(self) -> None:
        """Begins a pass over the evaluation rows, each time in the same order.

        Where there are none, or too few for a batch, the log warns, and `get_batch()` gives None.

        Raises:
            FaucetError: see `Dataset.epochs`.
        """
        self._begin("eval", max(self._epoch, 1))
        rows = self.dataset.info.rows["eval"]
        _log.info("Evaluation after epoch %d/%d: %d rows", self._epoch, self._pace.epochs, rows)
        if self._pace.batches_of(rows) == 0:
            _log.warning(
                "there is nothing to evaluate: test_split_percent=%s leaves %d rows for it, and "
                "batch_size=%d, skip_small_batches=%s make no batch of them",
                self.dataset.spec.eval_percent,
                rows,
                self._pace.batch_size,
                self._pace.skip_small_batches,
            )

    def get_batch(
        self,
        preprocess: bool = False,
        eval: bool = False,  # noqa: A002  # its name since 2020
    ) -> dict[str, Any] | None:
        """The next batch of the pass that was begun last; None at its end, and again after it.

        Args:
            preprocess: Give tensors, as the specifications say that were generated last.
            eval: Changes nothing: what was begun last decides. The log warns where evaluation is
                expected of training rows.

        Returns:
            "features" and "labels", pandas DataFrames of the columns as they are, or, preprocessed,
            a float32 tensor [n, outputs] and a dict of float32 tensors [n, 1]; "batch_num", from
            1, counting on over the epochs; "batches_per_epoch".

        Raises:
            SpecError: `preprocess` was asked for, and there are no specifications yet; the batch is
                still to come.
            ColumnError: a label is text, and `preprocess` was asked for.
            IteratorError: no pass was begun, or this reader was closed.
            FaucetError: the rows cannot be read; never a None instead.
        """
        net = self._ready_net() if preprocess else None
        current = self._pass
        if current is None:
            self._check_open()
            raise IteratorError("call prep_for_epoch() or prep_for_eval() first, then get_batch()")
        if eval and current.split == "train" and not current.warned:
            current.warned = True
            _log.warning(
                "get_batch(eval=True) gives training rows, since prep_for_epoch() was called last; "
                "call prep_for_eval() first"
            )
        batch = None if current.batches is None else next(current.batches, None)
        if batch is None:
            current.batches = None
            return None
        current.taken += 1
        number = current.taken + (current.epoch - 1) * current.batches_per_epoch
        if _log.isEnabledFor(logging.DEBUG):
            self._log_batch(current, number)
        features, labels = columns_of(batch, self._features), columns_of(batch, self._labels)
        prepared: tuple[Any, Any] = (
            (frame(features), frame(labels))
            if net is None
            else self._preprocessed(net, features, labels)
        )
        return {
            "features": prepared[0],
            "labels": prepared[1],
            "batch_num": number,
            "batches_per_epoch": current.batches_per_epoch,
        }

    def gen_preprocess_specs_and_net(
        self,
        exclude_features: Sequence[str] | None = None,
        sample_size: int = 10_000,
        max_unique_enum_values: int = 20,
        quantile_size: int = 20,
        quantile_k2_threshold: float = 1000.0,
        skip_box_cox: bool = False,
        skip_quantiles: bool = True,
        feature_overrides: Mapping[str, str | Transform] | None = None,
        skip_preprocessing: bool = False,
    ) -> tuple[dict[str, NormalizationParameters], Preprocessor]:
        """Identifies each feature's type, fits it to training rows, and prepares to preprocess.

        Types, rules and formulas are those of 2020; see `preprocessing.identify`. A missing value
        is in no statistic, and becomes 0 in each output of its feature. Features of which something
        should be known, such as that one is constant, are told in the log.

        Args:
            exclude_features: Features to leave out of what is preprocessed.
            sample_size: How many training rows to fit to, at least. Where there are more, they are
                chosen by the hash of `hash_on`, and so are the same ones each time, but not quite
                as many. No evaluation row is among them.
            max_unique_enum_values: The most different values of an ENUM.
            quantile_size: Into how many parts a QUANTILE divides the values.
            quantile_k2_threshold: The K² up to which values count as normal.
            skip_box_cox: Never use BOXCOX by rule.
            skip_quantiles: Never use QUANTILE by rule.
            feature_overrides: By feature, the type to use whatever the rules say.
            skip_preprocessing: Hand over all features without an override as they are.

        Returns:
            By feature, its specification; and the `torch.nn.Module` that applies them all,
            `net(values, presence)`, whose `spec` can be saved.

        Raises:
            SpecError: an argument is out of its range, or no feature is left.
            ColumnError: a feature is text, does not fit the type forced on it, or is not there.
            FaucetError: the rows cannot be read.
        """
        self._check_open()
        options = options_of(
            exclude_features,
            feature_overrides,
            max_unique_enum_values=max_unique_enum_values,
            quantile_size=quantile_size,
            quantile_k2_threshold=quantile_k2_threshold,
            skip_box_cox=skip_box_cox,
            skip_quantiles=skip_quantiles,
            skip_preprocessing=skip_preprocessing,
        )
        spec = fit_to_training_rows(self._client, self.dataset, sample_size, options)
        return parameters_of(spec), self.use_preprocess_specs(spec)

    def use_preprocess_specs(self, preproc_specifications: Specifications) -> Preprocessor:
        """Prepares to preprocess as these say, fitted here, elsewhere or in 2020.

        Args:
            preproc_specifications: As `gen_preprocess_specs_and_net` returns them; or dicts of the
                same fields, as `dataclasses.asdict` and JSON make of them; or a
                `PreprocessingSpec`.

        Returns:
            The `torch.nn.Module` that applies them.

        Raises:
            SpecError: they are no such specifications; the message names the feature and the rule.
            ColumnError: the table lacks a feature.
        """
        spec = spec_from(preproc_specifications)
        spec.check_inputs(self._features)
        # Of our own, whatever the caller does with the other one, such as send it to a GPU.
        self._net = spec.preprocessor()
        return spec.preprocessor()

    def get_num_output_features(self, preproc_specifications: Specifications) -> int:
        """How many columns preprocessed features have; an ENUM has one for each of its values.

        Args:
            preproc_specifications: As of `use_preprocess_specs`.

        Raises:
            SpecError: they are no specifications; the message names the feature and the rule.
        """
        return spec_from(preproc_specifications).width

    def preprocess_batch(
        self, features: pd.DataFrame, labels: pd.DataFrame
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What `get_batch(preprocess=True)` makes of the frames of `get_batch()`.

        Args:
            features: The features that were fitted, in any order; further ones do not matter.
            labels: One or more.

        Returns:
            float32 [n, outputs], in the order of the types, then of names; and of each label
            float32 [n, 1], the same number or NaN.

        Raises:
            SpecError: there are no specifications yet.
            ColumnError: a feature is missing, or a feature or label is text.
        """
        return self._preprocessed(self._ready_net(), columns_in(features), columns_in(labels))

    def adhoc_query(self, query: str) -> pd.DataFrame:
        """The result of one SELECT statement as a DataFrame, run anew each time.

        All of it is read into this process's memory. The rows come in any order, whatever the
        query's ORDER BY; sort the frame. A leaf of a STRUCT is called as the leaf, or by its
        dotted path where another column has that name.

        Raises:
            SourceReadError: the query has an error.
            SourceEmpty: the result has no rows.
            FaucetError: see `FaucetClient.open`.
        """
        self._check_open()
        spec = DatasetSpec(source=_query(query), features=(), passthrough=("*",))
        dataset = self._client.open(spec)
        try:
            columns = _all_rows(dataset)
        except DatasetNotFound:
            # Who asked for the same at the same moment shared it, and has dropped it just now.
            dataset = self._client.open(spec)
            columns = _all_rows(dataset)
        finally:
            self._drop(dataset)
        return frame(columns)

    def close(self) -> None:
        """Ends the connection to the daemon. Frames that were handed out stay valid."""
        self._closed = True
        self._end_pass()
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self, split: Split, epoch: int) -> None:
        self._check_open()
        self._end_pass()
        rows = self.dataset.info.rows[split]
        count = self._pace.batches_of(rows)
        batches = None
        if count:
            # One epoch at a time: nothing is fetched ahead for one that may never be begun.
            wish = Wish(
                split=split,
                batch_size=min(self._pace.batch_size, rows),
                epochs=1,
                shuffle="batches" if split == "train" else "none",
                seed=0,
                job=None,
                drop_last=self._pace.skip_small_batches,
            )
            batches = self.dataset.iterate(wish, Share(first_epoch=epoch - 1))
        self._pass = _Pass(split, epoch, count, batches)

    def _end_pass(self) -> None:
        if self._pass is not None and self._pass.batches is not None:
            self._pass.batches.close()
        self._pass = None

    def _ready_net(self) -> Preprocessor:
        if self._net is None:
            raise SpecError(
                "there are no specifications to preprocess by: call "
                "gen_preprocess_specs_and_net() first, or use_preprocess_specs(...) with others"
            )
        return self._net

    def _preprocessed(
        self, net: Preprocessor, features: Mapping[str, Column], labels: Mapping[str, Column]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        prepared = features_tensor(net, features), label_tensors(labels)
        for name in set(large_labels(labels)) - self._labels_warned:
            self._labels_warned.add(name)
            _log.warning(
                "label %s has whole numbers beyond 2^24, and float32 has not all of them: take it "
                "from get_batch(preprocess=False)",
                name,
            )
        return prepared

    def _drop(self, dataset: Dataset) -> None:
        """Has the daemon forget a dataset that nobody will read again, unless somebody reads it."""
        deadline = time.monotonic() + _DROP_S
        while True:
            try:
                self._client.session().drop(dataset.info.key)
            except DatasetInUse:  # the end of our own leases may be under way
                if time.monotonic() > deadline:
                    return
                time.sleep(_DROP_S / 50)
            except FaucetError as error:
                _log.debug("%r was not dropped: %s", dataset, error)
                return
            else:
                return

    def _check_open(self) -> None:
        if self._closed:
            raise IteratorError("this reader was closed; make a new one with get_client(...)")

    def _log_batch(self, current: _Pass, number: int) -> None:
        done, total = current.taken, current.batches_per_epoch
        if current.split == "train":
            done, total = number, total * self._pace.epochs
        _log.debug(
            "Got batch %d/%d for epoch %d/%d (%.0f%%)",
            current.taken,
            current.batches_per_epoch,
            current.epoch,
            self._pace.epochs,
            100 * done / total,
        )


@dataclass
class _Pass:
    """A pass over a split, from a `prep_for_…` to the next.

    Attributes:
        split: What is read.
        epoch: From 1.
        batches_per_epoch: Of this split.
        batches: None where there are none, or none are left.
        taken: How many batches were handed out.
        warned: Whether the log has said that the caller seems to expect the other split.
    """

    split: Split
    epoch: int
    batches_per_epoch: int
    batches: BatchIterator | None
    taken: int = 0
    warned: bool = False


def _query(sql: str) -> Source:
    """Where the rows of a query are; of a new run of it, even if somebody has run it before."""
    return BigQuerySource(query=sql, snapshot="new")


def _all_rows(dataset: Dataset) -> dict[str, Column]:
    """The columns of a query's result, copied, so that no lease is left."""
    info = dataset.info
    names = dict(zip(_short(info.passthrough_paths), info.passthrough, strict=True))
    size = min(info.rows["train"], _ADHOC_BATCH_ROWS)
    with dataset.batches("train", batch_size=size, shuffle="none") as batches:
        parts = [columns_of(batch, names) for batch in batches]
    return {name: joined([part[name] for part in parts]) for name in names}


def _names_of(info: DatasetInfo) -> tuple[dict[str, str], dict[str, str]]:
    """Of features and of labels, by the names that frames give them, the dataset's names."""
    for path in info.passthrough_paths:
        if "." not in path:
            raise ColumnError(
                f'column "{path}" is no STRUCT: get_client reads tables that have two STRUCT '
                "columns, features and labels; FaucetClient.open reads any"
            )
    features, labels = names_in("features", info), names_in("labels", info)
    for struct, names in (("features", features), ("labels", labels)):
        if not names:
            raise ColumnError(f"exclude_features leaves no column of {struct}")
    return features, labels


def _short(paths: Sequence[str]) -> list[str]:
    """Paths without the STRUCTs that they begin with, where that leaves no two alike."""
    leaves = [path.rpartition(".")[2] for path in paths]
    times = Counter(leaves)
    return [leaf if times[leaf] == 1 else path for path, leaf in zip(paths, leaves, strict=True)]
