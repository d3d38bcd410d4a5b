"""The JSON of a profile: what may stand in it, and what is said if something else does.

    {"format": "faucet-profile", "version": 1, "source": "…", "features": [{"name": "age", …}], …}

As for a preprocessing spec, the text is trusted in nothing: its size is bounded before it is
parsed, its depth by the parser, keys and types by the dataclasses. A field that a later release
adds is refused by name, and VERSION is raised where the same text would mean something else.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from faucet_client.errors import NotYetAvailable, SpecError
from faucet_client.preprocessing.strict_json import count, flag, parsed, real, shown, text_of

if TYPE_CHECKING:
    from faucet_client.profile.data import Profile

FORMAT = "faucet-profile"
VERSION = 1
LARGEST_NBYTES = 64 << 20
"""1,000 features have some 4 MB."""
MAX_ENTRIES = 100_000
"""The most entries of any list or object."""

_T = TypeVar("_T")


def dumps(profile: Profile) -> str:
    """A profile as JSON, without what is at its default."""
    return json.dumps(
        {"format": FORMAT, "version": VERSION, **plain(profile)}, ensure_ascii=True, allow_nan=False
    )


def plain(value: Any) -> dict[str, Any]:
    """A dataclass as plain values, without what is at its default."""
    found: dict[str, Any] = {}
    for each in fields(value):
        item = getattr(value, each.name)
        if each.default is MISSING or item != each.default:
            found[each.name] = _plain_item(item)
    return found


def _plain_item(item: Any) -> Any:
    if isinstance(item, tuple | list):
        return [_plain_item(each) for each in item]
    if isinstance(item, Mapping):
        return dict(item)
    return plain(item) if is_dataclass(item) else item


def loads(text: str | bytes, kind: type[_T]) -> _T:
    """The dataclass `kind` that `text` holds.

    Raises:
        SpecError: it is too large, no JSON, too deep, of another format, or breaks a rule.
        NotYetAvailable: it is of a newer version.
    """
    if not isinstance(text, str | bytes):
        raise SpecError(f"a profile's JSON must be a text, not {type(text).__name__}")
    if len(text) > LARGEST_NBYTES:
        raise SpecError(
            f"a profile's JSON may have {LARGEST_NBYTES >> 20} MiB, and this has more: is it the "
            "right file?"
        )
    try:
        found = parsed(text)
    except RecursionError:
        raise SpecError("the JSON is nested too deep to be a profile") from None
    except ValueError as error:  # also of a bad encoding, and of a number of too many digits
        raise SpecError(f"not JSON, and so no profile: {str(error)[:200]}") from None
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise SpecError(f'no profile: it must be an object with "format": "{FORMAT}"')
    version = count("version", found.pop("version", None))
    if version > VERSION:
        raise NotYetAvailable(
            f"the profile is of version {version:,}, and this release reads up to {VERSION}: "
            "upgrade faucetml"
        )
    return _dataclass("profile", found, kind)


def _dataclass(where: str, given: object, kind: type[_T]) -> _T:
    if not isinstance(given, dict):
        raise SpecError(f"{where} must be an object, not {shown(given)}")
    known = fields(kind)  # type: ignore[arg-type]  # all that come here are dataclasses
    missing = [each.name for each in known if each.default is MISSING and each.name not in given]
    if missing:
        raise SpecError(f"{where} lacks {', '.join(missing)}")
    hints = typing.get_type_hints(kind)
    unknown = [key for key in given if key not in hints]
    if unknown:
        raise SpecError(
            f"{where} has {shown(unknown[0])}, which is not known. A newer release may have "
            "written it: upgrade faucetml"
        )
    return kind(
        **{name: _item(f"{where}.{name}", item, hints[name]) for name, item in given.items()}
    )


def _item(where: str, value: object, hint: Any) -> Any:
    """`value` as what the annotation `hint` says."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # X | None
        return None if value is None else _item(where, value, inner[0])
    if origin in (tuple, Sequence):
        listed = _listed(where, value)
        if origin is tuple and inner[-1] is not Ellipsis and len(listed) != len(inner):
            raise SpecError(f"{where} must have {len(inner)} entries, not {len(listed):,}")
        return tuple(_item(f"{where}[{n}]", each, inner[0]) for n, each in enumerate(listed))
    if origin is Mapping:
        if not isinstance(value, dict) or len(value) > MAX_ENTRIES:
            raise SpecError(f"{where} must be an object, not {shown(value)}")
        return {key: _item(f"{where}.{key[:80]}", each, inner[1]) for key, each in value.items()}
    if is_dataclass(hint):
        return _dataclass(where, value, typing.cast("type", hint))
    return _SCALARS[hint](where, value)


def _listed(where: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise SpecError(f"{where} must be a list, not {shown(value)}")
    if len(value) > MAX_ENTRIES:
        raise SpecError(f"{where} has at most {MAX_ENTRIES:,} entries, not {len(value):,}")
    return value


_SCALARS: dict[Any, Any] = {str: text_of, int: count, float: real, bool: flag}
