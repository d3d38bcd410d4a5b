from pathlib import Path

import pytest

from faucetd.machine import MemoryLimit, cpu_count, memory_limit

GIB = 2**30


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "proc/meminfo", f"MemTotal: {16 * GIB // 1024} kB\nMemFree: 1 kB\n")
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def membership(root: Path, cgroup: str, mount: str) -> None:
    write(root, "proc/self/cgroup", cgroup + "\n")
    write(root, "proc/self/mountinfo", f"22 1 0:3 / /proc rw - proc proc rw\n{mount}\n")


V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw"
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"


def test_without_a_cgroup_the_machines_memory_is_the_limit(root: Path) -> None:
    assert memory_limit(root) == MemoryLimit(16 * GIB, "this machine's memory")


def test_the_tightest_limit_above_a_cgroup_of_version_2_counts(root: Path) -> None:
    membership(root, "0::/a/b/c", V2)
    write(root, "sys/fs/cgroup/a/b/c/memory.max", "max\n")
    write(root, "sys/fs/cgroup/a/b/memory.max", f"{2 * GIB}\n")
    write(root, "sys/fs/cgroup/a/memory.max", f"{4 * GIB}\n")
    assert memory_limit(root) == MemoryLimit(2 * GIB, "the limit in /sys/fs/cgroup/a/b/memory.max")


def test_a_container_that_sees_its_cgroup_as_the_top_is_limited_by_it(root: Path) -> None:
    membership(root, "0::/", V2)
    write(root, "sys/fs/cgroup/memory.max", f"{GIB}\n")
    assert memory_limit(root).nbytes == GIB


def test_a_limit_of_version_1_counts(root: Path) -> None:
    membership(root, "0::/\n4:memory:/x", V1)
    write(root, "sys/fs/cgroup/memory/x/memory.limit_in_bytes", f"{3 * GIB}\n")
    write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert memory_limit(root).nbytes == 3 * GIB


@pytest.mark.parametrize("mounted_part", ["/docker/1f", "/"])
def test_a_container_may_see_a_path_that_is_not_below_its_mount(
    root: Path, mounted_part: str
) -> None:
    membership(root, "4:cpu,memory:/docker/1f", V1.replace("0:32 /", f"0:32 {mounted_part}"))
    write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{GIB}\n")
    assert memory_limit(root).nbytes == GIB


@pytest.mark.parametrize("path", ["/../sibling", "/a/../../b", "/dockers/2"])
@pytest.mark.parametrize("mounted_part", ["/", "/docker"])
def test_a_path_outside_of_the_mount_ends_at_the_mount(
    root: Path, mounted_part: str, path: str
) -> None:
    membership(root, f"0::{path}", V2.replace("0:28 /", f"0:28 {mounted_part}"))
    write(root, "sys/fs/cgroup/memory.max", f"{GIB}\n")
    write(root, "sys/fs/memory.max", "1\n")
    assert memory_limit(root).nbytes == GIB


def test_a_limit_above_the_machines_memory_does_not_bind(root: Path) -> None:
    membership(root, "0::/", V2)
    write(root, "sys/fs/cgroup/memory.max", f"{64 * GIB}\n")
    assert memory_limit(root).origin == "this machine's memory"


def test_this_machine_has_memory_and_processors() -> None:
    assert memory_limit().nbytes > 2**26
    assert cpu_count() >= 1
