"""One long sequence in pieces that batches take in their order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from dni_async.errors import UserError


class ContiguousBatches(TensorDataset):
    """Pieces (N, ...) of one long sequence, in order: each row of a batch goes on where it ended in the last.

    ```
    9 pieces, batches of 2      step     0  1  2  3
                                row 0    0  1  2  3
                                row 1    4  5  6  7      piece 8 is left out
    ```

    rows: how many side by side; None: as many as a batch shall have. unit: pieces that belong together, such
    as those of one sequence of many: no row begins or ends within a unit.
    """

    def __init__(self, *tensors: Tensor, rows: int | None = None, unit: int = 1) -> None:
        super().__init__(*tensors)
        self.rows, self.unit = rows, unit

    def steps(self, batch_size: int) -> int:
        """Batches once through. Raises UserError when there are fewer pieces than rows."""
        rows, units = self.rows or batch_size, len(self) // self.unit
        if rows > units:
            raise UserError(
                f"a sequence of {units} pieces cannot fill {rows} rows; lower --batch-size, or take a "
                "longer one or shorter pieces"
            )
        return units // rows * self.unit

    def order(self, batch_size: int) -> Tensor:
        """(steps, rows) numbers of the pieces in each batch."""
        steps = self.steps(batch_size)
        rows = self.rows or batch_size
        return torch.arange(rows * steps).view(rows, steps).T


def pieces_of(text: Tensor, length: int, rows: int | None = None) -> ContiguousBatches:
    """A text (N,) in pieces x (M, length), and with each what follows its symbols, y (M, length).

    What does not fill a piece is left out.
    """
    count = max(0, len(text) - 1) // length
    x, y = (text[shift : shift + count * length].view(count, length) for shift in (0, 1))
    return ContiguousBatches(x, y, rows=rows)
