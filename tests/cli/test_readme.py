"""The README's training script runs as it stands, against a local server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from faucet_client.testing import LocalDaemon
from tests.bigquery_server.local import LocalBigQuery

README = Path(__file__).parents[2] / "README.md"


def test_the_training_script_of_the_readme_runs() -> None:
    (script,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert 'BigQuerySource(table="my-project.shop.clicks")' in script
    count = 50_000
    generator = np.random.default_rng(0)
    table = pa.table({name: generator.random(count) for name in ("age", "hour", "price")})
    table = table.append_column("clicked", pa.array(generator.integers(0, 2, count)))
    table = table.append_column("user_id", pa.array(np.arange(count)))
    with LocalBigQuery() as bigquery:
        bigquery.load("my-project.shop.clicks", table)
        settings = {
            "bigquery_project": "my-project",
            "bigquery_credentials": "anonymous",
            "bigquery_api_endpoint": bigquery.rest,
            "bigquery_storage_endpoint": bigquery.grpc,
            "bigquery_storage_insecure": "true",
        }
        with LocalDaemon(settings=settings) as daemon:
            done = subprocess.run(
                [sys.executable, "-c", script],
                env={"FAUCET_ADDRESS": daemon.address},
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            (dataset,) = daemon.client().status().datasets
    assert (done.returncode, done.stderr) == (0, "")
    assert dataset.source_rows_read == count
