"""The blocks of one epoch on a device, some of them ahead of the one that is handed out.

Invariants:

- All of it is in the trainer's thread. It waits for the reader's next block only when there is
  nothing else to hand out.
- An error that the reader meets ahead is raised in its turn, after the batches before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from faucet_client.batch import Batch, Block
from faucet_client.device.carrier import Carrier, Placed
from faucet_client.device.columns import parted
from faucet_client.errors import FaucetError


class Ahead:
    """An epoch; iterable once.

    Args:
        carrier: The reader's.
        blocks: The reader's blocks of the epoch, in the host's memory.
        ready: Whether the next of them can be had without waiting.

    Attributes:
        failure: The error that is to be raised when its turn comes.
    """

    def __init__(
        self, carrier: Carrier, blocks: Iterator[Block], ready: Callable[[], bool]
    ) -> None:
        self.failure: FaucetError | None = None
        self._carrier = carrier
        self._blocks: Iterator[Block] | None = blocks
        self._ready = ready
        self._parts: deque[Block] = deque()
        self._sent: deque[Future[Placed]] = deque()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self._send(wait=True)
            if not self._sent:
                break
            placed = self._carrier.take(self._sent.popleft())
            for index in range(placed.block.batches):
                self._send(wait=False)
                yield placed.batch(index)
            del placed  # the next one may be long in coming
        if self.failure is not None:
            # Another one: its traceback has this frame, which has the first.
            raise type(self.failure)(self.failure.message)

    def _send(self, *, wait: bool) -> None:
        """Sends parts until so many are ahead, as far as they can be had; waits for one at most."""
        while len(self._sent) < self._carrier.transfer.ahead:
            if not self._parts and not self._more(wait=wait and not self._sent):
                return
            self._sent.append(self._carrier.send(self._parts.popleft()))

    def _more(self, *, wait: bool) -> bool:
        """Takes the reader's next block; False if there is none, or none yet."""
        if self._blocks is None or not (wait or self._ready()):
            return False
        try:
            block = next(self._blocks, None)
        except FaucetError as error:
            self.failure = type(error)(error.message)  # its traceback would hold mapped memory
            block = None
        if block is None:
            self._blocks = None
            return False
        self._parts.extend(parted(block, self._carrier.transfer.block_nbytes))
        return True
