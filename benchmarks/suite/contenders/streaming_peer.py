"""MosaicML Streaming's names, on a torch that was built without CUDA too.

Importing `streaming` imports torchvision, for datasets of images, and the package index has
torchvision for CUDA's torch alone: beside another torch it lacks its operators and fails at the
first it looks for. None is used here, so that declarations of those are enough.
"""

from __future__ import annotations

import torch

if not torch.backends.cuda.is_built():
    _VISION = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _VISION.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from streaming import MDSWriter, StreamingDataset  # after the declaration

__all__ = ["MDSWriter", "StreamingDataset"]
