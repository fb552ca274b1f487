"""One long sequence, cut into chunks that the rows of a batch take in their order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from dni_async.errors import UserError


class ContiguousBatches(TensorDataset):
    """Chunks (N, ...) of one long sequence, in order: a row of a batch continues that row of the last batch.

    ```
    9 chunks, batches of 2      step     0  1  2  3
                                row 0    0  1  2  3
                                row 1    4  5  6  7      chunk 8 is left out
    ```

    Args:
        tensors: each (N, ...).
        rows: number of rows of every batch; None: the batch size.
        unit: number of chunks that belong together, such as those of one of many sequences: no row begins
            or ends within a unit.
    """

    def __init__(self, *tensors: Tensor, rows: int | None = None, unit: int = 1) -> None:
        super().__init__(*tensors)
        self.rows, self.unit = rows, unit

    def steps(self, batch_size: int) -> int:
        """Return the batches of an epoch. Raises UserError when there are fewer chunks than rows."""
        rows, units = self.rows or batch_size, len(self) // self.unit
        if rows > units:
            raise UserError(
                f"a sequence of {units} chunks cannot fill {rows} rows; lower --batch-size, or take a "
                "longer one or shorter chunks"
            )
        return units // rows * self.unit

    def order(self, batch_size: int) -> Tensor:
        """Return (steps, rows), the indices of the chunks in each batch."""
        steps = self.steps(batch_size)
        rows = self.rows or batch_size
        return torch.arange(rows * steps).view(rows, steps).T


def text_chunks(text: Tensor, length: int, rows: int | None = None) -> ContiguousBatches:
    """Return a text (N,) as chunks x (M, length), and the symbol that follows each, y (M, length).

    What does not fill a chunk is left out.
    """
    count = max(0, len(text) - 1) // length
    x, y = (text[shift : shift + count * length].view(count, length) for shift in (0, 1))
    return ContiguousBatches(x, y, rows=rows)
