"""What a model server makes of raw columns with a spec; batches must have it bit for bit."""

from __future__ import annotations

from typing import Any

import torch

from faucet_client import PreprocessingSpec
from faucet_client.preprocessing.encode import Encoded, encode


def serve(spec: PreprocessingSpec, columns: dict[str, Any]) -> tuple[Encoded, torch.Tensor]:
    """The encoded columns, with their ids; and the features, float32 [rows, spec.width]."""
    encoded = encode(spec, columns)
    module = spec.preprocessor()
    return encoded, module(torch.from_numpy(encoded.values), torch.from_numpy(encoded.presence))
