"""`faucetd profile`: which dataset it takes, what it writes, and what it says where it cannot."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from faucet_client import DatasetSpec, ParquetSource
from faucet_client.testing import LocalDaemon
from tests.cli.conftest import Faucetd


def test_a_page_is_written_or_one_line_says_why_not(faucetd: Faucetd, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": [1.5 * n for n in range(100)], "y": [0, 1] * 50}), path)
    with LocalDaemon(allowed_roots=[tmp_path], workers=1) as daemon:
        at = {"FAUCET_ADDRESS": daemon.address}
        nothing = faucetd("profile", env=at)
        assert (nothing.returncode, nothing.stdout) == (1, "")
        assert "0 datasets are open; a training script opens one" in nothing.stderr

        client = daemon.client()
        dataset = client.open(DatasetSpec(ParquetSource(str(path)), ["x"], ["y"]))
        wrote = faucetd("profile", env=at)
        assert (wrote.returncode, wrote.stderr) == (0, "")
        assert wrote.stdout == f"wrote profile.html: 1 feature of parquet:{path}\n"
        page = (tmp_path / "profile.html").read_text()
        assert "<html" in page
        assert dataset.info.key in page

        plain = DatasetSpec(ParquetSource(str(path)), ["x"], preprocessing="none")
        other = client.open(plain).info.key
        several = faucetd("profile", env=at)
        assert several.returncode == 1
        for key in (dataset.info.key, other):
            assert f"{key[:12]} (parquet:{path})" in several.stderr
        assert 'preprocessing="auto"' in faucetd("profile", other[:12], env=at).stderr
        lost = faucetd("profile", dataset.info.key[:8], "--output", "no/such.html", env=at)
        assert (lost.returncode, lost.stdout) == (1, "")
        assert lost.stderr == (
            "Error: the page cannot be written to no/such.html: No such file or directory; name "
            "another file with --output\n"
        )
