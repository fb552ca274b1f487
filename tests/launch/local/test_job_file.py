from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from launch.local.job_file import LARGE, read_job, write_job


def passed_on(job: Any, path: Path) -> Any:
    path.write_bytes(b"")
    write_job(path, job)
    return read_job(path)


LARGE_TENSOR = torch.randn(LARGE // 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1, "b": torch.arange(4)},
        LARGE_TENSOR,
        [LARGE_TENSOR.bfloat16().repeat(4).view(8, -1).t(), LARGE_TENSOR > 0],
        torch.nn.Parameter(LARGE_TENSOR),
        LARGE_TENSOR.numpy().reshape(2, -1),
        [numpy.arange(LARGE), numpy.arange(3), numpy.asfortranarray(numpy.ones((1024, 512)))],
    ],
    ids=range(6),
)
def test_a_job_comes_back_as_it_was(value: Any, tmp_path: Path) -> None:
    got = passed_on(value, tmp_path / "job")
    assert type(got) is type(value)
    pairs = zip(got, value, strict=True) if isinstance(value, list) else [(got, value)]
    for a, b in pairs:
        if isinstance(b, dict):
            assert a.keys() == b.keys() and torch.equal(a["b"], b["b"])
        elif isinstance(b, torch.Tensor):
            assert torch.equal(a, b) and (a.dtype, a.stride()) == (b.dtype, b.stride())
        else:
            assert numpy.array_equal(a, b) and a.dtype == b.dtype


def test_tensors_that_share_memory_share_it_afterwards(tmp_path: Path) -> None:
    whole = LARGE_TENSOR.clone()
    got, half = passed_on([whole, whole[: LARGE // 8]], tmp_path / "job")
    got[0] = 7.0
    assert half[0] == 7.0
    assert (tmp_path / "job").stat().st_size < LARGE + 4096


def test_what_one_rank_changes_no_other_rank_sees(tmp_path: Path) -> None:
    job = [LARGE_TENSOR.clone(), numpy.zeros(LARGE)]
    first = passed_on(job, tmp_path / "job")
    first[0].fill_(1.0)
    first[1][:] = 1
    second = read_job(tmp_path / "job")
    assert torch.equal(second[0], LARGE_TENSOR) and not second[1].any()


def test_a_function_of_a_notebook_takes_large_data_along(tmp_path: Path) -> None:
    data = LARGE_TENSOR.clone()
    assert passed_on(lambda: data.sum(), tmp_path / "job")() == data.sum()


def test_a_rank_reads_nothing_of_large_data_that_it_does_not_use(tmp_path: Path) -> None:
    passed_on(torch.zeros(64 << 20, dtype=torch.uint8), tmp_path / "job")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    got = read_job(tmp_path / "job")
    assert resident() - before < 16 << 20
    assert not got.any() and resident() - before > 48 << 20
