"""What a person sees of a spec at a prompt or in a notebook: its `repr`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faucet_client.preprocessing.policy import NO_POLICY

if TYPE_CHECKING:
    from faucet_client.preprocessing.spec import Feature, PreprocessingSpec

_LISTED = 60
_LONGEST_NAME = 40


def short(value: Any) -> str:
    """A value's `repr`, cut to 200 characters: a vocabulary may have 100,000 entries."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def feature_shown(feature: Feature) -> str:
    """One feature on a line: all but its summary."""
    shown = [repr(feature.name), short(feature.transform)]
    if feature.policy != NO_POLICY:
        shown.append(f"policy={feature.policy!r}")
    if feature.why:
        shown.append(f"why={feature.why!r}")
    if feature.notes:
        shown.append(f"notes={list(feature.notes)!r}")
    return f"Feature({', '.join(shown)})"


def spec_shown(spec: PreprocessingSpec) -> str:
    """A spec as a table, with a line a feature: type, name, what it gives, why."""
    total = len(spec.features)
    title = f"PreprocessingSpec of {_counted(total, 'feature')}: a matrix of width {spec.width:,}"
    if spec.id_names:
        title += f", and {_counted(len(spec.id_names), 'feature')} as ids"
    rows = [
        (f.transform.type, _cut(f.name), _gives(spec, f), _reasons(f))
        for f in spec.features[:_LISTED]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    more = [f"  and {total - _LISTED:,} more"] if total > _LISTED else []
    return "\n".join([title, *lines, *more])


def _gives(spec: PreprocessingSpec, feature: Feature) -> str:
    outputs = len(feature.output_names)
    gives = [_counted(outputs, "float")] if outputs else []
    if feature.gives_ids:
        gives.append(f"ids below {spec.cardinality(feature.name):,}")
    return ", ".join(gives)


def _reasons(feature: Feature) -> str:
    notes = f" ({_counted(len(feature.notes), 'note')})" if feature.notes else ""
    return feature.why + notes


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _cut(name: str) -> str:
    printable = name if name.isprintable() else repr(name)
    return printable if len(printable) <= _LONGEST_NAME else f"{printable[: _LONGEST_NAME - 1]}…"
