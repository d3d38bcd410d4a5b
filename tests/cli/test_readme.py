"""The README's scripts run as they stand: training against a local server, serving without one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from faucet_client import PreprocessingSpec
from faucet_client.testing import LocalDaemon
from tests.bigquery_server.local import LocalBigQuery

README = Path(__file__).parents[2] / "README.md"


def run(script: str, folder: Path, **environ: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_scripts_of_the_readme_run(tmp_path: Path) -> None:
    script, ranks, serving = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert 'BigQuerySource(table="my-project.shop.clicks")' in script
    count = 50_000
    generator = np.random.default_rng(0)
    table = pa.table({name: generator.random(count) for name in ("age", "price")})
    cities = np.array(["Wien", "Graz", "Linz"])[generator.integers(0, 3, count)]
    table = table.append_column("city", pa.array(cities))
    times = (generator.integers(0, 10**9, count) * 10**6).astype("datetime64[us]")
    table = table.append_column("seen_at", pa.array(times, pa.timestamp("us", "UTC")))
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
            run(script, tmp_path, FAUCET_ADDRESS=daemon.address)
            begin = script[: script.index("for epoch")]
            given = (
                "import torch; model = torch.nn.Linear(1, 1); rank, step, path = 1, 1000, 'c.pt'"
            )
            run(f"{begin}\n{given}\n{ranks}", tmp_path, FAUCET_ADDRESS=daemon.address)
            (dataset,) = daemon.client().status().datasets
    assert dataset.source_rows_read == count
    spec = PreprocessingSpec.load(tmp_path / "preprocessing.json")
    assert spec.cardinality("city") == 2 + 3
    told = "assert features.shape == (1, spec.width); assert cities.item() >= 2"
    run(f"{serving}\n{told}", tmp_path)
    assert set(spec.feature_names) == {"age", "price", "city", "seen_at"}
