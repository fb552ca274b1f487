"""Where data lives, and a reader for the official IDX files of MNIST (gzipped or not)."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from dni_async.errors import UserError

PIXEL_MEAN, PIXEL_STD = 0.1307, 0.3081
"""Mean and standard deviation of MNIST's training pixels, in units of 0..1."""

_GZIP_START = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08


def cache_folder() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME/dni_async, else ~/.cache/dni_async."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # a relative one is void, says the XDG specification
        return Path(base, "dni_async")
    try:
        return Path.home() / ".cache" / "dni_async"
    except RuntimeError as error:
        raise UserError("no home folder to keep downloads in (HOME): set XDG_CACHE_HOME") from error


def locate(root: Path | None, folder: str, filenames: Sequence[str]) -> list[Path] | None:
    """Paths of `filenames`, each as it is or with .gz appended, or None when they are nowhere.

    Places, in this order: root/folder, root, the cache's folder. A place counts when it has all the
    files. Raises `UserError` when root is no folder, or has some of the files but not all: half a data
    set is a mistake to mend, not a reason to look elsewhere. Half a cache is a download cut short.
    """
    if root is not None:
        if not root.is_dir():
            raise UserError(f"the data folder is not a folder ({root}): give an existing one")
        for place in (root / folder, root):
            found = _found(place, filenames)
            if len(found) == len(filenames):
                return list(found.values())
            if found:
                lacking = ", ".join(name for name in filenames if name not in found)
                raise UserError(f"files are missing ({lacking} in {place}): add them, or remove the others")
    found = _found(cache_folder() / folder, filenames)
    return list(found.values()) if len(found) == len(filenames) else None


def _found(place: Path, filenames: Sequence[str]) -> dict[str, Path]:
    candidates = {name: (place / f"{name}.gz", place / name) for name in filenames}
    present = {name: [path for path in paths if _present(path)] for name, paths in candidates.items()}
    return {name: paths[0] for name, paths in present.items() if paths}


def _present(path: Path) -> bool:
    """Is there anything at `path`? A dangling link counts: reading it then says what is wrong."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"cannot look for data ({path}): {error.strerror}") from error
    return True


def read_idx(path: Path, rank: int) -> np.ndarray:
    """The array of unsigned bytes, of `rank` dimensions, in an IDX file.

    ```
    byte  0 1 | 2      | 3    | 4 ...                                 | ...
          0 0 | 0x08   | rank | one big-endian 4-byte size a dimension | the elements, row-major
    ```
    Raises `UserError`, with the file's name, unless every byte of it is accounted for.
    """
    content = read_file(path)
    magic, expected = content[:4], bytes([0, 0, _UNSIGNED_BYTE, rank])
    if magic != expected:
        raise damaged(path, f"not the expected IDX file: magic 0x{magic.hex()} instead of 0x{expected.hex()}")
    start = 4 + 4 * rank
    if len(content) < start:
        raise damaged(path, "IDX file cut off in its header")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", rank, 4))
    if len(content) - start != math.prod(shape):
        raise damaged(path, f"IDX file of {len(content) - start} data bytes where its header says {shape}")
    if 0 in shape:
        raise damaged(path, f"IDX file that holds nothing: its header says {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_file(path: Path) -> bytes:
    """The file's bytes, unzipped when they start like gzip, whatever the file is called."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the file ({path}): {error.strerror}") from error
    if not content.startswith(_GZIP_START):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise damaged(path, f"damaged gzip file: {error}") from error


def read_labelled(
    images: Path, labels: Path, side: int = 28, classes: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """(N, side, side) uint8 images and their (N,) int64 labels in 0..classes-1, from two IDX files.

    Raises `UserError` when a file is damaged, or the two do not belong together.
    """
    x, y = read_idx(images, rank=3), read_idx(labels, rank=1)
    if x.shape[1:] != (side, side):
        raise damaged(images, f"images of {x.shape[1]}x{x.shape[2]} pixels instead of {side}x{side}")
    if len(x) != len(y):
        raise damaged(labels, f"{len(y)} labels for the {len(x)} images of {images.name}")
    if y.max() >= classes:
        raise damaged(labels, f"label {y.max()} outside 0..{classes - 1}")
    return x, y.astype(np.int64)


def damaged(path: Path, what: str) -> UserError:
    """The error for a file that is not as it should be."""
    return UserError(f"{what} ({path}): put an intact copy in its place")


def normalise(pixels: Tensor) -> Tensor:
    """Pixels in 0..1 as the network takes them: about zero mean and unit variance over MNIST."""
    return pixels.sub(PIXEL_MEAN).div_(PIXEL_STD)
