# SPDX-License-Identifier: Apache-2.0
"""Gauges as exposition text, for thousands of samples with few sets of labels. Pure; knows no
agent.

prometheus_client escapes and sorts every label of every sample at every scrape, which with hundreds
of containers is most of the scrape. Here a set of labels is written once. Prometheus' text format
and OpenMetrics write a gauge alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

#: How an OpenMetrics document ends.
_END = b"# EOF\n"
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def label_text(labels: Mapping[str, str]) -> str:
    """As it stands between name and value, such as `{pod="a",container="b"}`."""
    pairs = (f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
    return f"{{{','.join(pairs)}}}"


def gauge_text(name: str, documentation: str, samples: Iterable[tuple[str, float | int]]) -> str:
    """One family; a sample is labels, as `label_text` writes them, and a value. Without samples,
    what it means is there all the same.
    """
    lines = [f"# HELP {name} {documentation}", f"# TYPE {name} gauge"]
    lines += [f"{name}{labels} {value}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def joined(exposition: bytes, more: str) -> bytes:
    """What prometheus_client wrote, in either format, with more families at its end."""
    if not more:
        return exposition
    body, end = exposition.removesuffix(_END), _END if exposition.endswith(_END) else b""
    return body + more.encode() + end
