"""A fitted preprocessing: which transform each feature gets. Inert, hashable, JSON.

    spec = PreprocessingSpec.load("/models/clicks/preprocessing.json")
    module = spec.preprocessor()                      # a torch.nn.Module
    features = module(values, presence)               # float32 [n, spec.width]

Most features are dense: numbers that go into the module, and float32 columns that come out of it.
CATEGORICAL and HASHED features are ids beside them (`encode.py` makes both of raw columns), but for
one-hot ones, and the missing flag that a policy adds to an id: those are dense, too, and what goes
into the module for them is the id as a number. A feature of lists is a VECTOR, of as many columns
as its lists have numbers, or **ragged**: a CATEGORICAL or HASHED of the lists' elements.

Invariants: features are in the order of `TRANSFORMS`, then by name, whatever order they were given
in; that is the order of the module's input and output, and of the ids. Two specs are equal, and
have the same `key()`, exactly if they make the same outputs of the same inputs: a feature's `why`,
`summary` and `notes` do not count.
Torch is imported by `preprocessor()` alone.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faucet_client.errors import ColumnError, SpecError
from faucet_client.preprocessing import document, faucetml
from faucet_client.preprocessing.policy import NO_POLICY, Policy
from faucet_client.preprocessing.showing import feature_shown, short, spec_shown
from faucet_client.preprocessing.summary import Summary
from faucet_client.preprocessing.transforms import (
    TRANSFORMS,
    Categorical,
    Hashed,
    Transform,
    Vector,
    cardinality_of,
    gives_ids,
    inputs_of,
    outputs_of,
)

if TYPE_CHECKING:
    from faucet_client.preprocessing.module import Preprocessor

_ORDER = {kind: number for number, kind in enumerate(TRANSFORMS)}
_LONGEST_NAME = 1_024


@dataclass(frozen=True)
class Feature:
    """One column of the input, and what becomes of it.

    Args:
        name: The column's name in the dataset.
        transform: What becomes of it.
        why: The rule that chose the transform, for people.
        summary: What the fit saw.
        notes: What a person should look at, each with what to do.
        policy: What is done about its values before they are transformed.
        ragged: Whether the column holds lists, of whose elements the transform is: CATEGORICAL or
            HASHED, delivered as the ids of each list.

    Raises:
        SpecError: the name is no text, the transform none of the known ones, or the policy none
            that fits it.
    """

    name: str
    transform: Transform
    why: str = field(default="", compare=False)
    summary: Summary | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    policy: Policy = NO_POLICY
    ragged: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not isinstance(self.transform, Transform):
            raise SpecError(
                f'feature "{self.name}": the transform must be one of '
                f"{', '.join(kind.__name__ for kind in TRANSFORMS.values())}, not "
                f"{str(self.transform)[:80]!r}"
            )
        if not isinstance(self.policy, Policy):
            raise SpecError(
                f'feature "{self.name}": the policy must be a Policy, not {str(self.policy)[:80]!r}'
            )
        try:
            self.policy.check(self.transform)
        except SpecError as error:
            raise SpecError(f'feature "{self.name}": {error}') from None
        if self.ragged and not (gives_ids(self.transform) and self.policy == NO_POLICY):
            raise SpecError(
                f'feature "{self.name}" is of lists (ragged), which become ids: it must be '
                "CATEGORICAL, not one-hot, or HASHED, and without a policy"
            )

    @property
    def of_lists(self) -> bool:
        """Whether its column holds lists."""
        return self.ragged or isinstance(self.transform, Vector)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of its columns in the module's input: its own, or `name[0]` and so on."""
        return tuple(self.name + suffix for suffix in inputs_of(self.transform))

    def __repr__(self) -> str:
        return feature_shown(self)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of its columns in the dense output.

        Its own, or `name=value` for each one-hot value, `name.hour_sin` and so on for a time,
        `name[0]` and so on for a vector, none for an id; then `name.missing`, where its policy has
        a flag.
        """
        own = tuple(self.name + suffix for suffix in outputs_of(self.transform))
        return (*own, f"{self.name}.missing") if self.policy.missing_flag else own

    @property
    def dense(self) -> bool:
        """Whether it has columns in the dense output."""
        return bool(self.output_names)

    @property
    def gives_ids(self) -> bool:
        """Whether it is delivered as an id a row."""
        return gives_ids(self.transform) and not self.ragged


@dataclass(frozen=True)
class Difference:
    """What differs between two specs.

    Attributes:
        feature: The feature's name.
        field: "transform" where the type differs or a side lacks the feature, else the number's
            name, such as "mean", or "policy.clip".
        before: In the first spec; None where it lacks the feature.
        after: In the second one.
    """

    feature: str
    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.feature}: {self.field} {short(self.before)} -> {short(self.after)}"


@dataclass(frozen=True)
class PreprocessingSpec:
    """What becomes of each feature.

    Args:
        features: In any order; kept by type, then name.

    Raises:
        SpecError: there is no feature, or two of one name, or with outputs of one name.
    """

    features: Sequence[Feature]

    def __post_init__(self) -> None:
        features = _features(self.features)
        _check_once("features", (feature.name for feature in features))
        _check_once("outputs", (name for feature in features for name in feature.output_names))
        object.__setattr__(
            self,
            "features",
            tuple(sorted(features, key=lambda f: (_ORDER[f.transform.type], f.name))),
        )

    def __repr__(self) -> str:
        return spec_shown(self)

    # What it says -------------------------------------------------------------------------------

    @property
    def feature_names(self) -> tuple[str, ...]:
        """All features, dense and ids: the columns that a table must have."""
        return tuple(feature.name for feature in self.features)

    @property
    def dense_features(self) -> tuple[Feature, ...]:
        """The features that go through the module, in the order of its input and output."""
        return tuple(feature for feature in self.features if feature.dense)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The columns of the module's input, in order: [F]."""
        return tuple(name for feature in self.dense_features for name in feature.input_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The columns of the module's output, in order: [width]."""
        return tuple(name for feature in self.features for name in feature.output_names)

    @property
    def width(self) -> int:
        """How many columns the module's output has; 0 where all features are ids."""
        return len(self.output_names)

    @property
    def id_names(self) -> tuple[str, ...]:
        """The features that are delivered as ids, int64 [n] each, in order."""
        return tuple(feature.name for feature in self.features if feature.gives_ids)

    @property
    def ragged_names(self) -> tuple[str, ...]:
        """The features that are delivered as a list of ids a row, in order."""
        return tuple(feature.name for feature in self.features if feature.ragged)

    def cardinality(self, name: str) -> int:
        """How many ids the feature `name` may have: the rows of its embedding.

        Raises:
            ColumnError: there is no such feature, or it is not delivered as ids.
        """
        transform = self.feature(name).transform
        if not (gives_ids(transform) and isinstance(transform, Categorical | Hashed)):
            raise ColumnError(
                f'feature "{name}" is {transform.type}, and is not delivered as ids: those are '
                f"{_listing([*self.id_names, *self.ragged_names])}"
            )
        return cardinality_of(transform)

    def feature(self, name: str) -> Feature:
        """The feature of that name.

        Raises:
            ColumnError: there is none.
        """
        self._check_known([name])
        return next(feature for feature in self.features if feature.name == name)

    def outputs_of(self, name: str) -> range:
        """Which columns of the module's output are of the feature `name`; none of a mere id.

        Raises:
            ColumnError: there is no such feature.
        """
        self._check_known([name])
        start = 0
        for feature in self.features:
            width = len(feature.output_names)
            if feature.name == name:
                return range(start, start + width)
            start += width
        raise AssertionError(name)

    def key(self) -> str:
        """64 hex digits: SHA-256 of the canonical JSON of what decides the output's bytes."""
        return hashlib.sha256(document.canonical(self._plain(notes=False))).hexdigest()

    def diff(self, other: PreprocessingSpec) -> tuple[Difference, ...]:
        """What differs in `other`, by feature, in the order of names; empty if they are equal."""
        mine = {feature.name: feature for feature in self.features}
        theirs = {feature.name: feature for feature in other.features}
        found: list[Difference] = []
        for name in sorted(mine.keys() | theirs.keys()):
            one, another = mine.get(name), theirs.get(name)
            if one is None or another is None:
                before, after = (each and each.transform for each in (one, another))
                found.append(Difference(name, "transform", before, after))
                continue
            if one.transform.type == another.transform.type:
                found += _differences(name, "", one.transform, another.transform)
            else:
                found.append(Difference(name, "transform", one.transform, another.transform))
            found += _differences(name, "policy.", one.policy, another.policy)
            if one.ragged != another.ragged:
                found.append(Difference(name, "ragged", one.ragged, another.ragged))
        return tuple(found)

    # Others made of it --------------------------------------------------------------------------

    def exclude(self, names: Iterable[str]) -> PreprocessingSpec:
        """The same without some features.

        Raises:
            ColumnError: there is no feature of one of the names.
            SpecError: none is left.
        """
        names = _names(names)
        self._check_known(names)
        return PreprocessingSpec(tuple(f for f in self.features if f.name not in names))

    def override(
        self,
        transforms: Mapping[str, Transform] | None = None,
        *,
        policies: Mapping[str, Policy] | None = None,
    ) -> PreprocessingSpec:
        """The same with other transforms or policies for some features, which keep their summaries.

        Raises:
            ColumnError: there is no feature of one of the names.
            SpecError: what was given is no transform or no policy, or a policy does not fit.
        """
        transforms, policies = transforms or {}, policies or {}
        self._check_known([*transforms, *policies])
        changed = []
        for feature in self.features:
            changes: dict[str, Any] = {}
            if feature.name in transforms:
                new = transforms[feature.name]
                changes = {"transform": new, "why": "overridden", "notes": ()}
                changes["ragged"] = feature.of_lists and not isinstance(new, Vector)
            if feature.name in policies:
                changes["policy"] = policies[feature.name]
            changed.append(replace(feature, **changes))
        return PreprocessingSpec(changed)

    def check_inputs(self, names: Iterable[str]) -> None:
        """Refuses a table that lacks a feature.

        Raises:
            ColumnError: naming the features that are missing, and what is there.
        """
        there = _names(names)
        known = set(there)
        missing = [name for name in self.feature_names if name not in known]
        if missing:
            raise ColumnError(
                f"the preprocessing spec is for other columns: {_listing(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing from {_listing(there)}. Fit a "
                "spec for these columns, or take those features out with spec.exclude([...])"
            )

    def preprocessor(self) -> Preprocessor:
        """The `torch.nn.Module` that does it; torch is imported now."""
        from faucet_client.preprocessing.module import Preprocessor

        return Preprocessor(self)

    # To and from other forms --------------------------------------------------------------------

    def to_json(self) -> str:
        """JSON, indented, with a version; `from_json` gives back an equal spec."""
        return document.dumps(self._plain(notes=True))

    @classmethod
    def from_json(cls, text: str | bytes) -> PreprocessingSpec:
        """The spec that `to_json` wrote.

        Raises:
            SpecError: it is no such JSON; the message names the feature and the rule.
            NotYetAvailable: it is of a newer version, or has a transform this one does not know.
        """
        entries = document.features(document.loads(text))
        found = []
        for number, entry in enumerate(entries):
            found.append(Feature(*document.feature(entry, number)))
        return cls(tuple(found))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_json` into a file, at once or not at all.

        Raises:
            OSError: it cannot be written.
        """
        target = Path(path)
        descriptor, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self.to_json())
                file.flush()
                os.fsync(file.fileno())
            os.chmod(part, 0o666 & ~_umask())
            os.replace(part, target)
        except BaseException:
            os.unlink(part)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PreprocessingSpec:
        """The spec that `save` wrote.

        Raises:
            OSError: the file cannot be read.
            SpecError: as of `from_json`; the message begins with the path.
        """
        with open(path, "rb") as file:
            text = file.read(document.LARGEST_NBYTES + 1)
        try:
            return cls.from_json(text)
        except SpecError as error:
            raise type(error)(f"{os.fspath(path)}: {error}") from None

    @classmethod
    def from_faucetml(cls, specs: Mapping[str, object]) -> PreprocessingSpec:
        """A spec of the 2020 package.

        Args:
            specs: By feature, its `NormalizationParameters` as a dataclass or as a dict.

        Raises:
            SpecError: a feature's parameters are not such; the message names feature and rule.
        """
        return cls(tuple(Feature(*faucetml.read(name, specs[name])) for name in _mapping(specs)))

    def to_faucetml(self) -> dict[str, dict[str, Any]]:
        """By feature, a dict as the 2020 package's `NormalizationParameters`.

        Raises:
            SpecError: a feature has a transform or a policy that the package did not know.
        """
        for feature in self.features:
            faucetml.check(feature.name, feature.transform, feature.policy)
        return {f.name: faucetml.write(f.transform, f.summary) for f in self.features}

    def _plain(self, *, notes: bool) -> dict[str, Any]:
        entries = []
        for feature in self.features:
            entry: dict[str, Any] = {
                "name": feature.name,
                "transform": document.transform(feature.transform),
            }
            if feature.policy != NO_POLICY:
                entry["policy"] = document.policy(feature.policy)
            if feature.ragged:
                entry["ragged"] = True
            if notes and feature.why:
                entry["why"] = feature.why
            if notes and feature.summary is not None:
                entry["summary"] = document.summary(feature.summary)
            if notes and feature.notes:
                entry["notes"] = list(feature.notes)
            entries.append(entry)
        return {"format": document.FORMAT, "version": document.VERSION, "features": entries}

    def _check_known(self, names: Iterable[str]) -> None:
        known = self.feature_names
        for name in _names(names):
            if name not in known:
                near = difflib.get_close_matches(name, known)
                asked = f" Did you mean {_listing(near)}?" if near else ""
                raise ColumnError(
                    f'the preprocessing spec has no feature "{name}".{asked} '
                    f"It has {_listing(known)}."
                )


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        raise SpecError(
            f"a feature's name must be a text of 1 to {_LONGEST_NAME:,} characters, not "
            f"{str(name)[:80]!r}"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SpecError(f"a feature's name must be of valid Unicode, not {name[:80]!r}") from None


def _features(given: object) -> tuple[Feature, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise SpecError(f"features must be a list of Feature, not {str(given)[:80]!r}")
    features = tuple(given)
    for feature in features:
        if not isinstance(feature, Feature):
            raise SpecError(f"features must be a list of Feature, not of {str(feature)[:80]!r}")
    if not features:
        raise SpecError("a preprocessing spec needs at least one feature")
    return features


def _names(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise SpecError(f"names of features must be a list, not {names!r}")
    listed = tuple(names)
    for name in listed:
        if not isinstance(name, str):
            raise SpecError(f"a feature's name must be a text, not {name!r}")
    return listed


def _mapping(specs: object) -> Mapping[str, object]:
    if not isinstance(specs, Mapping):
        raise SpecError(f"specs of the 2020 package must be a dict by feature, not {specs!r:.80}")
    _names(specs)
    return specs


def _check_once(noun: str, names: Iterable[str]) -> None:
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise SpecError(
            f"the {noun} of a preprocessing spec must have names of their own, but "
            f"{_listing(repeated)} is there more than once: rename or exclude one"
        )


def _differences(
    name: str, prefix: str, before: Transform | Policy, after: Transform | Policy
) -> list[Difference]:
    found = []
    for each in fields(before):
        old, new = getattr(before, each.name), getattr(after, each.name)
        if old != new:
            found.append(Difference(name, prefix + each.name, old, new))
    return found


def _listing(names: Iterable[str], shown: int = 30) -> str:
    listed = list(names)
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(f'"{name}"' for name in listed[:shown]) + more if listed else "nothing"


def _umask() -> int:
    # There is no way to read it but to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
