"""Runs a command beside a daemon and a local BigQuery that has the examples' tables.

    python examples/local.py python examples/train_2020.py
    python examples/local.py jupyter lab examples

From a clone with everything installed (`make venv`): the local BigQuery is that of the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from passengers import passengers

sys.path.insert(0, str(Path(__file__).parents[1]))

from faucet_client.testing import LocalDaemon
from tests.bigquery_server import LocalBigQuery

ROWS = {"passengers": 891, "my_training_table": 20_000}


def main() -> int:
    """Runs the command; its exit status."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    with LocalBigQuery() as bigquery:
        for name, rows in ROWS.items():
            partitions = {"2020-01-20": passengers(rows)}
            bigquery.load(f"my-project.my_dataset.{name}", partitions=partitions)
        settings = {
            "bigquery_project": "my-project",
            "bigquery_credentials": "anonymous",
            "bigquery_api_endpoint": bigquery.rest,
            "bigquery_storage_endpoint": bigquery.grpc,
            "bigquery_storage_insecure": "true",
        }
        with LocalDaemon(settings=settings) as daemon:
            environment = os.environ | {"FAUCET_ADDRESS": daemon.address}
            return subprocess.run(sys.argv[1:], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
