"""The README's training script runs as it stands, but for the path of its table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from faucet_client.testing import LocalDaemon

README = Path(__file__).parents[2] / "README.md"


def test_the_training_script_of_the_readme_runs(tmp_path: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert "/data/clicks/*.parquet" in script
    count = 50_000
    generator = np.random.default_rng(0)
    table = pa.table({name: generator.random(count) for name in ("age", "hour", "price")})
    table = table.append_column("clicked", pa.array(generator.integers(0, 2, count)))
    table = table.append_column("user_id", pa.array(np.arange(count)))
    pq.write_table(table, tmp_path / "clicks.parquet")
    with LocalDaemon([tmp_path]) as daemon:
        done = subprocess.run(
            [sys.executable, "-c", script.replace("/data/clicks", str(tmp_path))],
            env={"FAUCET_ADDRESS": daemon.address},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        (dataset,) = daemon.client().status().datasets
    assert (done.returncode, done.stderr) == (0, "")
    assert dataset.source_rows_read == count
