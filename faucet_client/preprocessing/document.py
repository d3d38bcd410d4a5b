"""The JSON of a preprocessing spec: what may stand in it, and what is said if something else does.

    {"format": "faucet-preprocessing", "version": 1, "features": [
        {"name": "age", "transform": {"type": "CONTINUOUS", "mean": 30.25, "stddev": 13.75},
         "policy": {"impute": 30.25, "missing_flag": true}, "why": "…",
         "summary": {"rows": 2000, …}}, …]}

The text comes from anywhere, so it is trusted in nothing: its size is bounded before it is parsed,
its depth by the parser, keys and types by the dataclasses. A later release that adds a transform or
an optional field does not raise VERSION, since an older reader refuses both by name; VERSION is
raised where the same text would mean something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from faucet_client.errors import NotYetAvailable, SpecError
from faucet_client.preprocessing.policy import Policy
from faucet_client.preprocessing.strict_json import count, flag, parsed, real, shown, text_of
from faucet_client.preprocessing.summary import BoxCoxTrial, Summary
from faucet_client.preprocessing.transforms import TRANSFORMS, Transform

FORMAT = "faucet-preprocessing"
VERSION = 1
LARGEST_NBYTES = 32 << 20
"""1,000 features with 1,000 quantiles each have 20 MB."""
MAX_FEATURES = 100_000

_T = TypeVar("_T")


def canonical(plain: Mapping[str, Any]) -> bytes:
    """The one JSON of a value: keys sorted, no spaces, ASCII."""
    return json.dumps(
        plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def dumps(plain: Mapping[str, Any]) -> str:
    """JSON for files and people."""
    return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def loads(text: str | bytes) -> dict[str, Any]:
    """The object that `text` holds, its format and version checked.

    Raises:
        SpecError: it is too large, no JSON, too deep, or of another format.
        NotYetAvailable: it is of a newer version.
    """
    if not isinstance(text, str | bytes):
        raise SpecError(f"a preprocessing spec's JSON must be a text, not {type(text).__name__}")
    if len(text) > LARGEST_NBYTES:
        raise SpecError(
            f"a preprocessing spec's JSON may have {LARGEST_NBYTES >> 20} MiB, and this has more: "
            "is it the right file?"
        )
    try:
        plain = parsed(text)
    except RecursionError:
        raise SpecError("the JSON is nested too deep to be a preprocessing spec") from None
    except ValueError as error:  # also of a bad encoding, and of a number of too many digits
        raise SpecError(f"not JSON, and so no preprocessing spec: {str(error)[:200]}") from None
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise SpecError(
            f'no preprocessing spec: it must be an object with "format": "{FORMAT}"; for specs of '
            "the 2020 package use PreprocessingSpec.from_faucetml"
        )
    version = plain.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise SpecError(f'"version" must be a whole number from 1, not {shown(version)}')
    if version > VERSION:
        raise NotYetAvailable(
            f"the preprocessing spec is of version {shown(version)}, and this release reads up to "
            f"{VERSION}: upgrade faucetml"
        )
    _check_keys("the spec", plain, required=("format", "version", "features"))
    return plain


def features(plain: Mapping[str, Any]) -> list[Any]:
    """The entries of its features.

    Raises:
        SpecError: they are no list, or too many.
    """
    entries = plain["features"]
    if not isinstance(entries, list):
        raise SpecError(f'"features" must be a list, not {shown(entries)}')
    if len(entries) > MAX_FEATURES:
        raise SpecError(f"a spec has at most {MAX_FEATURES:,} features, not {len(entries):,}")
    return entries


def feature(
    entry: object, number: int
) -> tuple[str, Transform, str, Summary | None, tuple[str, ...], Policy, bool]:
    """Name, transform, why, summary, notes and policy of one entry, and whether it is ragged.

    Raises:
        SpecError: naming the feature, its field and the rule.
        NotYetAvailable: the transform is not known.
    """
    where = f"feature {number}"
    plain = _object(where, entry)
    name = plain.get("name")
    if not isinstance(name, str):
        raise SpecError(f'{where}: "name" must be a text, not {shown(name)}')
    where = f'feature "{name[:80]}"'
    optional = ("policy", "ragged", "why", "summary", "notes")
    _check_keys(where, plain, required=("name", "transform"), optional=optional)
    try:
        transform = read_transform(plain["transform"])
        why = text_of("why", plain.get("why", ""))
        given = plain.get("summary")
        summary = None if given is None else _dataclass("summary", Summary, given)
        notes = tuple(text_of("notes", each) for each in _list("notes", plain.get("notes", [])))
        policy = _dataclass("policy", Policy, plain.get("policy", {}))
        ragged = flag("ragged", plain.get("ragged", False))
    except SpecError as error:
        raise type(error)(f"{where}: {error}") from None
    return name, transform, why, summary, notes, policy, ragged


def transform(transform: Transform) -> dict[str, Any]:
    """A transform as plain values."""
    return {"type": transform.type, **_plain(transform)}


def policy(policy: Policy) -> dict[str, Any]:
    """A policy as plain values, without what is None."""
    return _plain(policy)


def summary(summary: Summary) -> dict[str, Any]:
    """A summary as plain values, without what is None."""
    return _plain(summary)


def _plain(value: Any) -> dict[str, Any]:
    plain = {}
    for each in fields(value):
        item = getattr(value, each.name)
        if isinstance(item, tuple):
            item = list(item)
        elif isinstance(item, BoxCoxTrial):
            item = _plain(item)
        if item is not None:
            plain[each.name] = item
    return plain


def read_transform(given: object) -> Transform:
    """The inverse of `transform`.

    Raises:
        SpecError: it is no transform, or a field is out of range.
        NotYetAvailable: its type is not known.
    """
    plain = dict(_object("transform", given))
    kind = plain.pop("type", None)
    if not isinstance(kind, str):
        raise SpecError(f'transform: "type" must be a text, not {shown(kind)}')
    if kind not in TRANSFORMS:
        raise NotYetAvailable(
            f"the transform {shown(kind)} is not known; this release has "
            f"{', '.join(TRANSFORMS)}: upgrade faucetml, or override the feature"
        )
    return _dataclass(kind, TRANSFORMS[kind], plain)


def _dataclass(where: str, kind: type[_T], given: object) -> _T:
    plain = _object(where, given)
    known = fields(kind)  # type: ignore[arg-type]  # all that come here are dataclasses
    required = tuple(each.name for each in known if each.default is MISSING)
    optional = tuple(each.name for each in known if each.default is not MISSING)
    _check_keys(where, plain, required, optional)
    read = {each.name: _READERS[str(each.type)] for each in known}
    return kind(**{name: read[name](f"{where}.{name}", item) for name, item in plain.items()})


def _object(where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SpecError(f"{where} must be an object, not {shown(value)}")
    return value


def _check_keys(
    where: str, plain: Mapping[str, Any], required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    missing = [key for key in required if key not in plain]
    if missing:
        raise SpecError(f"{where} lacks {', '.join(missing)}")
    unknown = [key for key in plain if key not in required and key not in optional]
    if unknown:
        raise SpecError(
            f"{where} has {shown(unknown[0])}, which is not known; it may have "
            f"{', '.join(required + optional) or 'nothing'}. A newer release may have written it: "
            "upgrade faucetml"
        )


def _list(where: str, value: object) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise SpecError(f"{where} must be a list, not {shown(value)}")
    return tuple(value)


def _trial(where: str, value: object) -> BoxCoxTrial:
    return _dataclass(where, BoxCoxTrial, value)


_READERS: dict[str, Callable[[str, object], Any]] = {
    "bool": flag,
    "int": count,
    "int | None": count,
    "float": real,
    "float | None": real,
    "tuple[int, ...]": _list,
    "tuple[str, ...]": _list,
    "tuple[str, ...] | tuple[int, ...]": _list,
    "tuple[float, float] | None": _list,
    "tuple[float, ...]": _list,
    "BoxCoxTrial | None": _trial,
}
"""How a field is read, by its annotation. A test sees to it that none is missing."""
