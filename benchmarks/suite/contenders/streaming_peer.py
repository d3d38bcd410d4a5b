"""MosaicML Streaming's names, on a torch that was built without CUDA too.

Importing `streaming` imports torchvision, for datasets of images, and the package index has
torchvision for CUDA's torch alone: beside another torch it lacks its operators and fails at the
first it looks for. None is used here, so that declarations of those are enough.
"""

from __future__ import annotations

import fcntl
from typing import Any

import torch

from benchmarks.suite.task import Task

if not torch.backends.cuda.is_built():
    _VISION = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _VISION.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from streaming import MDSWriter, StreamingDataset  # after the declaration

__all__ = ["MDSWriter", "open_dataset"]


def open_dataset(task: Task, batch_size: int) -> Any:
    """One trainer's dataset, over what was converted.

    One trainer after another: jobs that open theirs at the same moment choose the same names for
    their shared memory, and all but one fail (FileExistsError).
    """
    with open(f"{task.converted}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return StreamingDataset(
            local=task.converted, batch_size=batch_size, shuffle=True, shuffle_seed=task.rank
        )
