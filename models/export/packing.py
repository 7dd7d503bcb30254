"""How the matrices of a graph are stored and multiplied: float32, 8 bits or 4 bits.

- float32: for checks; an export and PyTorch then differ by the order of sums alone.
- 8 bits: rq8 (`models.export.quantize`), int8 rows times activations quantised per row.
- 4 bits: `MatMulNBits`, blocks of 32 along the input with a scale each, activations quantised
  per block inside the operator. Embedding and head stay rq8: they decide which token comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from models.export.decoder import EMBEDDING, HEAD, Matrix
from models.export.quantize import Float32, quantize_blocks, quantize_rows

_ROWS = 4096


class Precision(IntEnum):
    """Bits per weight of the blocks' matrices."""

    FLOAT = 32
    RQ8 = 8
    Q4 = 4

    def of(self, name: str) -> Precision:
        """How the matrix `name` is stored in a graph of this precision."""
        return Precision.RQ8 if self is Precision.Q4 and name in (EMBEDDING, HEAD) else self


def pack(
    matrix: Matrix, parameters: Mapping[str, Float32], precision: Precision, *, by_row: bool
) -> dict[str, NDArray[np.generic]]:
    """The stored tensors of a matrix.

    Args:
        matrix: what to store, in terms of the checkpoint.
        parameters: the checkpoint.
        precision: of this matrix.
        by_row: rq8 values are stored `[out, in]`, for look-ups alone, not transposed.
    """
    parts = [parameters[name] for name in matrix.weights]
    weight = parts[0] if len(parts) == 1 else np.concatenate(parts)
    factor = np.float32(matrix.factor)
    tensors: dict[str, NDArray[np.generic]] = {}
    if precision is Precision.FLOAT:
        tensors[f"{matrix.name}.float"] = weight * factor
    else:
        # In slices: quantising takes several times the memory of what is quantised.
        slices = [weight[start : start + _ROWS] for start in range(0, len(weight), _ROWS)]
        quantize = quantize_blocks if precision is Precision.Q4 else quantize_rows
        done = [quantize(part * factor if matrix.factor != 1 else part) for part in slices]
        values = np.concatenate([one[0] for one in done])
        if precision is Precision.RQ8 and not by_row:
            values = np.ascontiguousarray(values.T)
        suffix = "q4" if precision is Precision.Q4 else "q8"
        tensors[f"{matrix.name}.{suffix}"] = values
        tensors[f"{matrix.name}.scale"] = np.concatenate([one[1] for one in done])
    if matrix.biases:
        bias = np.concatenate([parameters[name] for name in matrix.biases])
        tensors[f"{matrix.name}.bias"] = bias * factor
    return tensors
