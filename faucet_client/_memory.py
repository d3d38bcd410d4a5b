"""Memory that processes share: sealed memfds, and mappings of them in huge pages.

Invariants:

- The writer of a memfd is its only writer, and only until `seal`; after that the kernel refuses
  every change of its bytes or size, from any process, through any mapping or descriptor.
- Memory is taken from the system in `collapse` and `reserve` and nowhere later: a write through a
  mapping of reserved memory cannot meet a shortage, which would be a SIGBUS, not an error.
- Readers map privately. What they write becomes their own copy of the page; nobody else sees it.
- An address returned here belongs to the caller, who gives it to `unmap` once, and never touches
  it afterwards. Nothing here tracks mappings; nothing here locks.

Huge pages matter more than anything else here: over 4 KiB pages a training loop runs at about
0.84 of its speed over local tensors, over 2 MiB pages at 1.00. Most systems never give huge pages
to shared memory by themselves (`shmem_enabled` is "never"), but since Linux 6.1 a process may ask
for them (MADV_COLLAPSE). All mappings are 2 MiB-aligned, since only such addresses can have them.

The best order for a writer, measured over 64 MiB: one page in each 2 MiB, `collapse`, then
`reserve` for the rest: 4 ms, and 1.5 ms to write. `reserve` first costs 33 ms, since the collapse
has 512 small pages to copy for each huge one; small pages alone cost 16 ms, and 22 ms to write.

The calls that take long let go of the interpreter's lock, so all of this may run in a thread.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from typing import Protocol

HUGE_PAGE_NBYTES = 2 << 20

# Of <linux/memfd.h>, <linux/mman.h>; Python does not name them (all).
_MFD_NOEXEC_SEAL = 0x8  # since Linux 6.3
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MADV_POPULATE_READ = 22  # since Linux 5.14
_MADV_COLLAPSE = 25  # since Linux 6.1
_PROT_NONE = 0
_MAP_FAILED = ctypes.c_void_p(-1).value

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

_libc = ctypes.CDLL(None, use_errno=True)
# Holds the interpreter's lock, for calls that take a few µs: to let go of it, and to wake up when
# it is free again, takes longer than they do.
_quick_libc = ctypes.PyDLL(None, use_errno=True)
_quick_libc.mmap.restype = ctypes.c_void_p
_quick_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = _quick_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Locks(Protocol):
    """Page-locks mappings, for a device to read them by itself (device/pages.py)."""

    def lock(self, address: int, nbytes: int) -> bool:
        """Page-locks a mapping; False if it cannot be."""
        ...

    def unlock(self, address: int) -> None:
        """Undoes `lock`, if it succeeded; before the memory is unmapped."""
        ...


def page_rounded(nbytes: int) -> int:
    """`nbytes` rounded up to whole pages: what so many bytes of a memfd take."""
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE


def create_memfd(name: str, nbytes: int) -> int:
    """A new anonymous, sealable, empty file in memory.

    Args:
        name: Shown in /proc/PID/maps, for people; it need not be unique.
        nbytes: The file's size. No memory is taken yet.

    Returns:
        The file descriptor; the caller closes it.

    Raises:
        OSError: no descriptor is free.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        # Needed where the administrator forbids executable memfds (vm.memfd_noexec=2).
        fd = os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError:
        fd = os.memfd_create(name, flags)
    try:
        os.ftruncate(fd, nbytes)
    except BaseException:
        os.close(fd)
        raise
    return fd


def reserve(fd: int, nbytes: int) -> None:
    """Takes the memory for the first `nbytes` of `fd`, where it is not there yet; grows the file.

    Past this, writing to these bytes cannot fail. It is no substitute for a budget: a kernel that
    overcommits memory, or a cgroup with a limit, may answer a shortage by killing instead.

    Raises:
        OSError: the kernel refuses so much memory.
    """
    os.posix_fallocate(fd, 0, nbytes)


def map_shared(fd: int, nbytes: int) -> int:
    """Maps `fd` for its writer: shared, readable and writable, at a 2 MiB-aligned address.

    Returns:
        The address.

    Raises:
        OSError: no address space, or `fd` is sealed.
    """
    return _map_aligned(fd, nbytes, mmap.MAP_SHARED)


def map_private(fd: int, nbytes: int) -> int:
    """Maps `fd` for a reader: copy-on-write, at a 2 MiB-aligned address, all pages present.

    Writable, because torch has no read-only tensors: an in-place operation then changes a private
    copy of the page instead of killing the process.

    Returns:
        The address.

    Raises:
        OSError: no address space.
    """
    # NORESERVE: strict accounting would charge every reader for copies that hardly any ever makes.
    address = _map_aligned(fd, nbytes, mmap.MAP_PRIVATE | _MAP_NORESERVE)
    # Not MAP_POPULATE: on a private writable mapping it would copy every page.
    _libc.madvise(address, nbytes, _MADV_POPULATE_READ)
    return address


def map_read_only(fd: int, nbytes: int) -> int:
    """Maps a sealed `fd` for a device: shared and read-only, 2 MiB-aligned, all pages present.

    Unlike `map_private`'s, its pages stay the shared ones when they are page-locked. A write kills
    the process.

    Returns:
        The address.

    Raises:
        OSError: no address space.
    """
    try:
        address = _map_aligned(fd, nbytes, mmap.MAP_SHARED, mmap.PROT_READ)
    except PermissionError:
        # Before Linux 6.7 a write seal forbids this through a descriptor that could write.
        readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            address = _map_aligned(readable, nbytes, mmap.MAP_SHARED, mmap.PROT_READ)
        finally:
            os.close(readable)
    _libc.madvise(address, nbytes, _MADV_POPULATE_READ)
    return address


def discard(address: int, nbytes: int) -> None:
    """Puts private, empty memory in the place of a mapping, which thereby ends.

    For a writer whose arrays may still be held somewhere: what touches them then reads zeros or
    writes to nobody, instead of crashing. `unmap` is still due.

    Raises:
        OSError: the kernel refuses.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
    _mmap(address, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1)


def unmap(address: int, nbytes: int) -> None:
    """Ends a mapping.

    Raises:
        OSError: `address` is not page-aligned.
    """
    if _libc.munmap(address, nbytes):
        raise _os_error("munmap")


def collapse(fd: int, address: int, nbytes: int) -> bool:
    """Takes memory for the whole 2 MiB extents of `fd` in huge pages; best effort.

    Args:
        fd: A memfd of at least `nbytes`, preferably still empty.
        address: Where it is mapped, shared.
        nbytes: Its mapped size; a rest beyond the last whole 2 MiB is left alone.

    Returns:
        Whether all the extents are huge pages now. If not (an old kernel, memory too fragmented),
        nothing is lost: `reserve` takes small ones.
    """
    whole = nbytes // HUGE_PAGE_NBYTES * HUGE_PAGE_NBYTES
    if not whole:
        return False
    try:
        # The kernel collapses an extent only if it has a page. Taken so, and not by touching it
        # through the mapping, a shortage is an error and no SIGBUS.
        for start in range(0, whole, HUGE_PAGE_NBYTES):
            os.posix_fallocate(fd, start, mmap.PAGESIZE)
    except OSError:
        return False
    return bool(_libc.madvise(address, whole, _MADV_COLLAPSE) == 0)


def seal(fd: int) -> None:
    """Makes the bytes and the size of a memfd final, for every process and for good.

    Raises:
        OSError: a writable shared mapping of it exists (EBUSY), or it is sealed (EPERM).
    """
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)


def is_sealed(fd: int) -> bool:
    """Whether neither bytes nor size of `fd` can change any more. False for what is no memfd."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False


def _map_aligned(
    fd: int, nbytes: int, flags: int, protection: int = mmap.PROT_READ | mmap.PROT_WRITE
) -> int:
    """Maps over an aligned part of a larger reservation, and gives back the rest of that."""
    if nbytes <= 0:
        raise ValueError(f"cannot map {nbytes} bytes")
    size = page_rounded(nbytes)
    reserved = size + HUGE_PAGE_NBYTES
    start = _mmap(
        None, reserved, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, -1
    )
    address = -(-start // HUGE_PAGE_NBYTES) * HUGE_PAGE_NBYTES
    try:
        _mmap(address, size, protection, flags | _MAP_FIXED, fd)
    except OSError:
        _quick_libc.munmap(start, reserved)
        raise
    if address > start:
        _quick_libc.munmap(start, address - start)
    if address + size < start + reserved:
        _quick_libc.munmap(address + size, start + reserved - address - size)
    return address


def _mmap(address: int | None, nbytes: int, protection: int, flags: int, fd: int) -> int:
    mapped = _quick_libc.mmap(address, nbytes, protection, flags, fd, 0)
    if mapped is None or mapped == _MAP_FAILED:
        raise _os_error("mmap")
    return int(mapped)


def _os_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
