"""The table that the examples train on: invented passengers of an invented ship.

    python examples/passengers.py passengers.parquet
    python examples/passengers.py my_training_table.parquet --rows 20000

Its shape is that of 2020: a column `hash_on`, which decides the split, and two STRUCT columns,
`features` and `labels`. What is no number is a code, since preprocessing took numbers alone: `sex`
is 1 for a woman, `title` one of Master, Miss, Mr and Mrs, `embarked` one of three ports. An age or
a port may be missing. The same rows each time. It needs pyarrow, which the daemon brings.
"""

from __future__ import annotations

import argparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 891


def passengers(rows: int = ROWS) -> pa.Table:
    """The passengers; about four in ten survive, and who they are says something about it."""
    random = np.random.default_rng(1912)
    pclass = random.choice([1, 2, 3], rows, p=[0.25, 0.2, 0.55])
    woman = random.random(rows) < 0.35
    age = np.round(np.clip(random.normal(42 - 5 * pclass, 13), 0.5, 85), 1)
    siblings = random.poisson(0.5, rows)
    parents = random.poisson(0.4, rows)
    fare = np.round(random.lognormal(4.8 - pclass, 0.5), 4)
    has_cabin = random.random(rows) < np.array([0.8, 0.15, 0.05])[pclass - 1]
    title = np.where(woman, np.where(age < 25, 1, 3), np.where(age < 14, 0, 2))
    embarked = random.choice([0, 1, 2], rows, p=[0.2, 0.1, 0.7])
    logit = 2.5 * woman - 0.9 * (pclass - 2) - 0.03 * (age - 30) + 0.5 * has_cabin - 1.1
    survived = random.random(rows) < 1 / (1 + np.exp(-logit))
    features = {
        "pclass": pa.array(pclass),
        "sex": pa.array(woman.astype(np.int64)),
        "age": pa.array(age, mask=random.random(rows) < 0.2),
        "num_siblings_or_spouses": pa.array(siblings),
        "num_children_or_parents": pa.array(parents),
        "family_size": pa.array(siblings + parents + 1),
        "fare": pa.array(fare),
        "has_cabin": pa.array(has_cabin.astype(np.int64)),
        "title": pa.array(title),
        "embarked": pa.array(embarked, mask=random.random(rows) < 0.01),
    }
    labels = {"survived": pa.array(survived.astype(np.int64))}
    return pa.table(
        {
            "hash_on": np.arange(1, rows + 1),
            "features": pa.StructArray.from_arrays(list(features.values()), list(features)),
            "labels": pa.StructArray.from_arrays(list(labels.values()), list(labels)),
        }
    )


def main() -> None:
    """Writes the table as a Parquet file."""
    parser = argparse.ArgumentParser(description="Writes the examples' table as a Parquet file.")
    parser.add_argument("path")
    parser.add_argument("--rows", type=int, default=ROWS)
    arguments = parser.parse_args()
    pq.write_table(passengers(arguments.rows), arguments.path)


if __name__ == "__main__":
    main()
