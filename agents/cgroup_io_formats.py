# SPDX-License-Identifier: Apache-2.0
"""The texts of cgroup files about input and output, v1 and v2, as values.

Pure: text in, values out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IoCounts:
    """What a cgroup read, wrote and discarded on one device: bytes and requests."""

    read_bytes: int = 0
    reads: int = 0
    written_bytes: int = 0
    writes: int = 0
    discarded_bytes: int = 0
    discards: int = 0


def io_v2(text: str) -> dict[tuple[int, int], IoCounts]:
    """v2's io.stat (`8:0 rbytes=… wbytes=… rios=… wios=… dbytes=… dios=…`), by device number."""
    found = {}
    for line in text.splitlines():
        device, *pairs = line.split()
        number = _device(device)
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if number is not None and "rbytes" in values:
            names = ("rbytes", "rios", "wbytes", "wios", "dbytes", "dios")
            found[number] = IoCounts(*(int(values.get(name, 0)) for name in names))
    return found


def io_v1(bytes_text: str, requests_text: str) -> dict[tuple[int, int], IoCounts]:
    """v1's blkio.throttle.io_service_bytes and io_serviced (`8:0 Read 4096`), by device number."""
    sizes, requests = _by_operation(bytes_text), _by_operation(requests_text)
    return {
        device: IoCounts(
            *(
                counts[device].get(operation, 0)
                for operation in ("Read", "Write", "Discard")
                for counts in (sizes, requests)
            )
        )
        for device in sizes.keys() & requests.keys()
    }


def _by_operation(text: str) -> dict[tuple[int, int], dict[str, int]]:
    found: dict[tuple[int, int], dict[str, int]] = {}
    for words in map(str.split, text.splitlines()):
        number = _device(words[0]) if len(words) == 3 else None
        if number is not None:
            found.setdefault(number, {})[words[1]] = int(words[2])
    return found


def _device(text: str) -> tuple[int, int] | None:
    major, colon, minor = text.partition(":")
    if not (colon and major.isdigit() and minor.isdigit()):
        return None
    return int(major), int(minor)
