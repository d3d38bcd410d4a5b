"""Sealed memfds and their mappings: `faucet_client._memory`."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faucet_client import _memory

NBYTES = 3 * _memory.HUGE_PAGE_NBYTES + 5 * mmap.PAGESIZE


@pytest.fixture
def fd() -> Iterator[int]:
    fd = _memory.create_memfd("faucet-test", NBYTES)
    yield fd
    os.close(fd)


@pytest.fixture
def sealed(fd: int) -> int:
    os.pwrite(fd, b"faucet", 0)
    _memory.seal(fd)
    return fd


def mappings() -> list[tuple[int, int]]:
    """Start and end of each mapping of a memfd of this module's."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split()[0].split("-") for line in lines if "memfd:faucet-test" in line]
    return [(int(start, 16), int(end, 16)) for start, end in ranges]


def test_a_new_memfd_takes_no_memory_and_reserving_takes_all(fd: int) -> None:
    assert os.fstat(fd).st_size == NBYTES
    assert os.fstat(fd).st_blocks == 0
    _memory.reserve(fd, NBYTES)
    assert os.fstat(fd).st_blocks * 512 == NBYTES


def test_reserving_more_than_the_file_grows_it(fd: int) -> None:
    _memory.reserve(fd, 2 * NBYTES)
    assert os.fstat(fd).st_size == 2 * NBYTES


def test_a_refused_reservation_is_an_error_and_no_signal(fd: int) -> None:
    # A limit of the process's files stands in for a shortage, which a test had better not cause.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (NBYTES, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            _memory.reserve(fd, NBYTES + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("map_it", [_memory.map_shared, _memory.map_private])
def test_mappings_are_aligned_to_huge_pages_and_exactly_as_large_as_asked(
    map_it: Callable[[int, int], int], fd: int
) -> None:
    address = map_it(fd, NBYTES)
    assert address % _memory.HUGE_PAGE_NBYTES == 0
    assert mappings() == [(address, address + NBYTES)]
    _memory.unmap(address, NBYTES)
    assert mappings() == []


def test_mapping_and_unmapping_leave_no_address_space_behind(sealed: int) -> None:
    def mapped_nbytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE

    before = mapped_nbytes()
    for _ in range(20):
        _memory.unmap(_memory.map_private(sealed, NBYTES), NBYTES)
        with pytest.raises(PermissionError):
            _memory.map_shared(sealed, NBYTES)
    assert mapped_nbytes() - before < 10 * _memory.HUGE_PAGE_NBYTES


def test_mapping_nothing_is_refused(fd: int) -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        _memory.map_shared(fd, 0)


def test_the_writers_mapping_is_the_file(fd: int) -> None:
    address = _memory.map_shared(fd, NBYTES)
    ctypes.memmove(address + 100, b"faucet", 6)
    _memory.unmap(address, NBYTES)
    assert os.pread(fd, 6, 100) == b"faucet"


def test_what_one_reader_writes_in_place_no_other_reader_sees(sealed: int) -> None:
    one, other = _memory.map_private(sealed, NBYTES), _memory.map_private(sealed, NBYTES)
    ctypes.memmove(one, b"FAUCET", 6)
    assert ctypes.string_at(one, 6) == b"FAUCET"
    assert ctypes.string_at(other, 6) == b"faucet"
    assert os.pread(sealed, 6, 0) == b"faucet"
    _memory.unmap(one, NBYTES)
    _memory.unmap(other, NBYTES)


def test_a_sealed_memfd_cannot_be_changed_by_anyone(sealed: int) -> None:
    assert _memory.is_sealed(sealed)
    reopened = os.open(f"/proc/self/fd/{sealed}", os.O_RDWR)
    try:
        for fd in (sealed, reopened):
            with pytest.raises(PermissionError):
                os.pwrite(fd, b"x", 0)
            for size in (0, 2 * NBYTES):
                with pytest.raises(PermissionError):
                    os.ftruncate(fd, size)
            with pytest.raises(PermissionError):
                _memory.seal(fd)
            with pytest.raises(PermissionError):
                _memory.map_shared(fd, NBYTES)
    finally:
        os.close(reopened)
    assert mappings() == []


def test_sealing_waits_for_the_last_writable_mapping_to_go(fd: int) -> None:
    address = _memory.map_shared(fd, NBYTES)
    with pytest.raises(OSError, match="busy"):
        _memory.seal(fd)
    assert not _memory.is_sealed(fd)
    _memory.discard(address, NBYTES)
    _memory.seal(fd)
    assert _memory.is_sealed(fd)
    _memory.unmap(address, NBYTES)


def test_discarded_memory_can_be_touched_and_reaches_nobody(fd: int) -> None:
    os.pwrite(fd, b"faucet", 0)
    address = _memory.map_shared(fd, NBYTES)
    _memory.discard(address, NBYTES)
    assert ctypes.string_at(address, 6) == bytes(6)
    ctypes.memmove(address, b"FAUCET", 6)
    assert os.pread(fd, 6, 0) == b"faucet"
    _memory.unmap(address, NBYTES)


def test_a_file_that_is_no_memfd_is_not_sealed(tmp_path: Path) -> None:
    with (tmp_path / "plain").open("wb") as plain:
        assert not _memory.is_sealed(plain.fileno())


def test_collapsing_keeps_what_was_written_and_leaves_the_rest_to_reserve(fd: int) -> None:
    address = _memory.map_shared(fd, NBYTES)
    ctypes.memmove(address + _memory.HUGE_PAGE_NBYTES - 3, b"faucet", 6)
    collapsed = _memory.collapse(fd, address, NBYTES)
    if collapsed:
        whole = NBYTES // _memory.HUGE_PAGE_NBYTES * _memory.HUGE_PAGE_NBYTES
        assert os.fstat(fd).st_blocks * 512 == whole
    _memory.reserve(fd, NBYTES)
    assert os.fstat(fd).st_blocks * 512 == NBYTES
    assert ctypes.string_at(address + _memory.HUGE_PAGE_NBYTES - 3, 6) == b"faucet"
    _memory.unmap(address, NBYTES)


def test_collapsing_less_than_a_huge_page_does_nothing(fd: int) -> None:
    address = _memory.map_shared(fd, mmap.PAGESIZE)
    assert not _memory.collapse(fd, address, mmap.PAGESIZE)
    assert os.fstat(fd).st_blocks == 0
    _memory.unmap(address, mmap.PAGESIZE)


def test_a_memfd_is_made_where_the_kernel_does_not_know_noexec(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = os.memfd_create
    asked: list[int] = []

    def old_kernel(name: str, flags: int) -> int:
        asked.append(flags)
        if flags & ~(os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING):
            raise OSError(errno.EINVAL, "Invalid argument")
        return make(name, flags)

    monkeypatch.setattr(os, "memfd_create", old_kernel)
    fd = _memory.create_memfd("faucet-test", NBYTES)
    assert len(asked) == 2
    assert not os.get_inheritable(fd)
    _memory.seal(fd)
    os.close(fd)
