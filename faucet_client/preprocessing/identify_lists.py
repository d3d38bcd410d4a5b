"""Which transform columns of lists get.

Lists of text become CATEGORICAL or HASHED as text does, by their elements; so do lists of whole
numbers, which can only be ids where their lengths differ. Lists of numbers that have one length by
their type become VECTOR. Other lists of numbers do so by override alone, if all rows that the fit
sees have one length.
"""

from __future__ import annotations

import numpy as np

from faucet_client.errors import ColumnError
from faucet_client.preprocessing.columns import kind_of
from faucet_client.preprocessing.identify_others import Categories, check_rows, unlisted_in
from faucet_client.preprocessing.list_statistics import ListStatistics, VectorStatistics
from faucet_client.preprocessing.lists import Lists
from faucet_client.preprocessing.options import FitOptions, FitPolicy
from faucet_client.preprocessing.spec import Feature
from faucet_client.preprocessing.summary import Summary
from faucet_client.preprocessing.transforms import Categorical, Hashed, Vector


def becomes_vector(name: str, lists: Lists, options: FitOptions) -> bool:
    """Whether a column is to be a VECTOR, and not the ids of its elements.

    Raises:
        ColumnError: it can be neither by rule, or the type that is forced on it is for no lists.
    """
    forced = options.type_of(name)
    if forced is not None:
        if forced in (Vector.type, Categorical.type, Hashed.type):
            return forced == Vector.type
        raise ColumnError(
            f'column "{name}" cannot be {forced}, which feature_overrides says: it holds lists, '
            "which can be VECTOR, CATEGORICAL or HASHED"
        )
    if kind_of(name, lists.elements) != "numbers":
        return False
    if lists.width is not None:
        return True
    check_variable(name, whole=np.asarray(lists.elements).dtype.kind in "iu")
    return False


def check_variable(name: str, *, whole: bool) -> None:
    """Refuses lists of numbers that are not whole, where no override says what they are.

    Raises:
        ColumnError: naming the remedies.
    """
    if not whole:
        raise ColumnError(
            f'column "{name}" has lists of numbers that are not whole, of any length: if all lists '
            'have one length, say feature_overrides={"' + name + '": "VECTOR"}; else make numbers '
            "of them in the source's query, or leave it out (exclude_features)"
        )


def identify_vector(name: str, known: VectorStatistics, options: FitOptions) -> Feature:
    """The feature that a column of lists of one length becomes.

    Raises:
        ColumnError: there is no row, no list to tell the length, or one of another length than
            was given; or a policy was.
    """
    check_rows(name, known.rows)
    _check_no_policy(name, options)
    override = options.feature_overrides.get(name)
    if isinstance(override, Vector):
        if known.width not in (None, override.width):
            raise ColumnError(
                f'column "{name}" cannot be the VECTOR of {override.width:,} that '
                f"feature_overrides gives: it has lists of {known.width:,}"
            )
        transform, why = override, "given in feature_overrides"
    elif known.width is None:
        raise ColumnError(
            f'column "{name}" cannot be VECTOR: none of the {known.rows:,} rows has a list to tell '
            "the length; give it, as Vector(length), or put the column into exclude_features"
        )
    else:
        said = "lists of one length by their type" if override is None else "feature_overrides says"
        transform, why = Vector(known.width), f"{said} VECTOR" if override else said
    notes = []
    if known.nulls == known.rows:
        notes.append(
            f"none of the {known.rows:,} rows has all of its numbers: put it into exclude_features"
        )
    if known.infinite:
        notes.append(
            f"{known.infinite:,} of {known.rows:,} lists have an infinite number, which is served "
            "as 0: make it null in the source's query"
        )
    summary = Summary(rows=known.rows, nulls=known.nulls, infinite=known.infinite)
    return Feature(name, transform, why, summary, tuple(notes))


def identify_lists(name: str, known: ListStatistics, options: FitOptions) -> Feature:
    """The feature that a column of lists of text or whole numbers becomes: ragged.

    Raises:
        ColumnError: there is no row, the type that is forced on the column does not fit it, or a
            policy was given.
    """
    check_rows(name, known.rows)
    _check_no_policy(name, options)
    column = Categories(name, known.elements, options, of_lists=True)
    transform, why = column.transform()
    unlisted = unlisted_in(transform, known.elements)
    summary = Summary(
        rows=known.rows,
        nulls=known.nulls,
        distinct=known.elements.distinct_count(),
        unlisted=unlisted,
    )
    column.note_oddities(transform, unlisted)
    return Feature(name, transform, why, summary, tuple(column.notes), ragged=True)


def _check_no_policy(name: str, options: FitOptions) -> None:
    if options.policies.get(name, FitPolicy()) != FitPolicy():
        raise ColumnError(
            f'column "{name}" holds lists, which take no policy: a missing list is empty, or all '
            "0 as a VECTOR; take it out of policies"
        )
