"""Where batches are to come to, as a person says it, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import torch

from faucet_client.device.backend import Backend
from faucet_client.device.cuda import Cuda
from faucet_client.device.cuda import check as check_cuda
from faucet_client.errors import SpecError
from faucet_client.spec import whole_number

Device: TypeAlias = str | int | torch.device
"""What torch takes for a device: "cuda", "cuda:1", 1, or a torch.device."""


@dataclass(frozen=True)
class Transfer:
    """How batches come to a device.

    Attributes:
        device: Which: "cuda", "cuda:1", 1, or a torch.device.
        ahead: Blocks that are copied ahead of the one whose batches are being handed out.
        block_nbytes: About as many bytes are copied at a time; at least a batch. The device's
            memory holds `ahead` + 1 such blocks, and those of which a batch is kept.
        page_lock: Whether the shared memory is page-locked, to be copied from straight. Else it is
            copied into a ring of pinned memory first, two blocks large.
    """

    device: Device
    ahead: int = 2
    block_nbytes: int = 8 << 20
    page_lock: bool = True


Target: TypeAlias = Device | Transfer
"""What `device` may be, beside None."""


@dataclass(frozen=True)
class Kind:
    """A kind of devices.

    Attributes:
        check: Raises a DeviceError where there is no such device; sets up nothing.
        make: One that is ready for copies; or a DeviceError.
    """

    check: Callable[[torch.device], None]
    make: Callable[[torch.device], Backend]


BACKENDS = {"cuda": Kind(check_cuda, Cuda)}
"""Kinds of devices that batches can come to, by torch's name for them."""


def transfer_to(target: Target | None) -> Transfer | None:
    """How batches come to `target`; None where they are to stay in the host's memory.

    Raises:
        SpecError: it is no device, or of a kind that batches cannot come to.
        DeviceError: there is no such device here.
    """
    if target is None:
        return None
    transfer = target if isinstance(target, Transfer) else Transfer(target)
    device = _parsed(transfer.device)
    whole_number("ahead", transfer.ahead, 1, 1_024)
    whole_number("block_nbytes", transfer.block_nbytes, 1, 2**48)
    if device.type == "cpu":
        return None
    if device.type not in BACKENDS:
        raise SpecError(
            f'batches come to "cpu" or to a CUDA device, not to {device.type!r}: leave device out, '
            f'and move what a step needs, as batch.features.to("{device.type}")'
        )
    BACKENDS[device.type].check(device)
    return replace(transfer, device=device)


def backend_of(transfer: Transfer) -> Backend:
    """The device of a transfer that was checked, ready for copies.

    Raises:
        DeviceError: it is not there any more, or not for this process, as in a forked child.
    """
    device = cast(torch.device, transfer.device)
    return BACKENDS[device.type].make(device)


def _parsed(device: object) -> torch.device:
    if isinstance(device, torch.device):
        return device
    if isinstance(device, bool) or not isinstance(device, str | int):
        raise SpecError(
            'device must be "cuda", "cuda:1", "cpu", a torch.device or a Transfer, not '
            f"{device!r:.200}"
        )
    name = device if isinstance(device, str) else f"cuda:{device}"
    try:
        parsed = torch.device(name)
    except RuntimeError as error:
        raise SpecError(
            f'device={device!r} is no device: write "cuda", "cuda:1" or "cpu" ({error})'
        ) from None
    if str(parsed) != name:  # torch takes a number modulo 256
        raise SpecError(f'device={device!r} is no device: write "cuda", "cuda:1" or "cpu"')
    return parsed
