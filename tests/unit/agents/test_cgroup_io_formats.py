# SPDX-License-Identifier: Apache-2.0
"""Texts about input and output, as v1 and v2 write them."""

from __future__ import annotations

from agents import cgroup_io_formats as formats
from agents.cgroup_io_formats import IoCounts


def test_input_and_output_of_v2() -> None:
    text = (
        "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=512 dios=3\n"
        "259:3 rbytes=1 wbytes=2 rios=3 wios=4\n"  # before 4.20: no discards
        "7:0 \n"  # as kernels write it for a device that was not used
        "253:0 cost.usage=5\n"
    )
    assert formats.io_v2(text) == {
        (8, 0): IoCounts(4096, 1, 8192, 2, 512, 3),
        (259, 3): IoCounts(1, 3, 2, 4, 0, 0),
    }
    assert formats.io_v2("") == {}


def test_input_and_output_of_v1() -> None:
    sizes = "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\n8:0 Discard 512\n8:0 Total 12\nTotal 12\n"
    requests = "8:0 Read 1\n8:0 Write 2\n8:16 Read 5\nTotal 3\n"
    assert formats.io_v1(sizes, requests) == {(8, 0): IoCounts(4096, 1, 8192, 2, 512, 0)}
    assert formats.io_v1("Total 0\n", "Total 0\n") == {}
