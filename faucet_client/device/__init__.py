"""Batches on a GPU: copied ahead, on a stream of their own, out of the memory that is shared.

    for batch in dataset.batches("train", batch_size=1024, device="cuda"):
        loss = step(batch.features, batch.labels["clicked"])  # both are on the GPU

A block of batches that is copied is a `Block` again, whose columns lie on the device, so that a
`Batch` is the same thing everywhere. Copied are parts of blocks, of some MiB, since a copy of each
batch would cost more to begin than to make.

Invariants:

- The trainer's thread takes the reader's blocks, sends parts of them to the carrier, and hands
  batches out (`ahead.py`). It alone counts: a state has what was handed out, whatever was sent.
- The carrier's thread begins copies and never waits for one that it need not wait for
  (`carrier.py`). It keeps the host's rows until the event behind their copies has come: so long the
  segment is mapped, page-locked and leased.
- It is the stream that uses a batch that waits for its copy, not the trainer's thread.
- Shared memory is mapped a second way for this: read-only and shared, since to page-lock a private
  mapping would make a private copy of it. It is page-locked in the feed's thread once it is mapped,
  and let go of in the reaper's before it is unmapped (`pages.py`). Where that fails, and for rows
  that were joined or shuffled, the way is through a ring of pinned memory (`ring.py`).
- Only `cuda.py` speaks to CUDA. All else stands on `Backend`, and is tested without a GPU.
"""

from faucet_client.device.ahead import Ahead
from faucet_client.device.carrier import Carrier
from faucet_client.device.transfer import BACKENDS, Target, Transfer, transfer_to

__all__ = ["BACKENDS", "Ahead", "Carrier", "Target", "Transfer", "transfer_to"]
