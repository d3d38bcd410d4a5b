"""The memory of one segment while it is written.

Invariants:

- The memory is taken in a thread of its own from the moment of construction, since huge pages can
  take the kernel long and the writer has a source to wait for meanwhile. `view` waits for it.
- One root array covers the mapping, and every view is a view of that, so the mapping lives as long
  as the last view. Once the pages are sealed or dropped, views that are left are of empty private
  memory: whoever holds one by mistake reads zeros and harms nobody.
- `seal` or `drop` ends the object, in any state, and leaves neither thread nor mapping nor, after
  `drop`, descriptor.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref

import numpy as np
from numpy.typing import NDArray

from faucet_client import _memory


class WritablePages:
    """A memfd of `nbytes`, mapped for writing.

    Raises:
        OSError: no descriptor or no address space. That there is no memory shows in `view`.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.fd = _memory.create_memfd("faucet-segment", nbytes)
        try:
            self.address = _memory.map_shared(self.fd, nbytes)
        except BaseException:
            os.close(self.fd)
            raise
        memory = (ctypes.c_uint8 * nbytes).from_address(self.address)
        self._root: NDArray[np.uint8] | None = np.frombuffer(memoryview(memory), np.uint8)
        self._unmap = weakref.finalize(self._root, _memory.unmap, self.address, nbytes)
        self._unmap.atexit = False  # the end of the process unmaps, whatever threads still do
        self._shortage: OSError | None = None
        self.in_huge_pages = False
        self._taking = threading.Thread(target=self._take, name="faucet-pages", daemon=True)
        try:
            self._taking.start()
        except BaseException:
            self._root = None
            os.close(self.fd)
            raise

    def view(self) -> NDArray[np.uint8]:
        """All bytes, writable, once the memory is there.

        Raises:
            OSError: there is not so much memory.
        """
        self._taking.join()
        if self._shortage is not None:
            raise self._shortage
        if self._root is None:
            raise ValueError("the pages are sealed or dropped")
        return self._root

    def seal(self) -> int:
        """Ends the mapping and seals.

        Returns:
            The descriptor, which is the caller's from here on.

        Raises:
            OSError: the kernel refuses to seal; `drop` is still due then.
        """
        self._end_mapping()
        _memory.seal(self.fd)
        fd, self.fd = self.fd, -1
        return fd

    def drop(self) -> None:
        """Gives everything back. Idempotent; does nothing after `seal`."""
        try:
            self._end_mapping()
        finally:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)

    def _take(self) -> None:
        try:
            self.in_huge_pages = _memory.collapse(self.fd, self.address, self.nbytes)
            _memory.reserve(self.fd, self.nbytes)
        except OSError as error:
            self._shortage = error

    def _end_mapping(self) -> None:
        self._taking.join()
        if self._root is None:
            return
        self._root = None  # unmaps here and now, if nobody holds a view
        if self._unmap.alive:
            _memory.discard(self.address, self.nbytes)
