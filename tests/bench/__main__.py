# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.bench`: measure the subjects one after the other, print a table, write JSON.

A subject is a module here with `measure(context)`, which returns rows. One that needs what this
machine lacks is reported so; one that fails is reported with its error, and the exit code is 1.
Goals are those of the design; not meeting one is reported and is no failure.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from agents.tables import Table, lines
from tests.bench.measure import COLUMNS, Context, NotHere, Row

#: In this order; each is a module.
SUBJECTS = (
    "views",
    "sweep",
    "fresh",
    "affinity",
    "gpu",
    "scan",
    "reaction",
    "shown",
    "page",
    "mounts",
    "replacement",
    "reconcile",
    "files",
    "scratch",
    "agents",
)
_LIBRARIES = ("nodeshare", "grpcio", "pyfuse3", "trio", "prometheus-client", "pydantic")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one subject. `error` is a traceback, `missing` what this machine lacks."""

    subject: str
    title: str
    rows: Sequence[Row]
    seconds: float
    load: float
    error: str = ""
    missing: str = ""

    def table(self) -> Table:
        note = f"{self.seconds:.0f} s; load average before it {self.load:.1f}"
        if self.missing:
            note = f"not measured: {self.missing}"
        if self.error:
            note = f"FAILED: {self.error.strip().splitlines()[-1]}"
        rows = [row.cells() for row in self.rows]
        return Table(f"{self.subject}: {self.title}", COLUMNS, rows, note)

    def document(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "title": self.title,
            "seconds": round(self.seconds, 2),
            "load_before": self.load,
            "missing": self.missing,
            "error": self.error,
            "rows": [row.document() for row in self.rows],
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        sys.stderr.write("bench: not root: run it with sudo (mounts, namespaces, cgroups)\n")
        return 2
    # Whoever ends us gets a clean machine: the signal becomes an exception, and clean-up runs.
    signal.signal(signal.SIGTERM, _interrupt)
    # Short: a socket's path has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="nsbench"))
    machine = describe_machine()
    _say(" · ".join(f"{key} {value}" for key, value in machine.items()))
    outcomes = []
    try:
        for subject in options.only or SUBJECTS:
            outcome = measured(subject, Context(directory / subject, options.quick))
            outcomes.append(outcome)
            _say("\n".join(lines([outcome.table()])))
            if outcome.error:
                sys.stderr.write(outcome.error)
    finally:
        _remove(directory)
    if options.json is not None:
        document = {"quick": options.quick, "machine": machine}
        document["subjects"] = [outcome.document() for outcome in outcomes]
        options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        _say(f"all repetitions: {options.json}")
    _say(summary(outcomes))
    return 1 if any(outcome.error for outcome in outcomes) else 0


def _remove(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError as error:
        sys.stderr.write(f"bench: left behind: {directory}: {error.strerror}\n")


def measured(subject: str, context: Context) -> Outcome:
    """One subject, whatever comes of it."""
    module = importlib.import_module(f"tests.bench.{subject}")
    title = (module.__doc__ or "").partition("\n")[0].rstrip(".")
    load, started = os.getloadavg()[0], time.monotonic()
    rows: Sequence[Row] = ()
    error = missing = ""
    try:
        rows = module.measure(context)
    except NotHere as lacking:
        missing = str(lacking)
    except Exception:  # noqa: BLE001 -- the others are measured all the same; the exit code says it
        error = traceback.format_exc()
    return Outcome(subject, title, rows, time.monotonic() - started, load, error, missing)


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many goals were met, and which were not."""
    rows = [(outcome.subject, row) for outcome in outcomes for row in outcome.rows]
    missed = [f"{subject}: {row.what}" for subject, row in rows if row.met is False]
    unknown = [f"{subject}: {row.what}" for subject, row in rows if row.goal and row.met is None]
    unknown += [outcome.subject for outcome in outcomes if outcome.missing or outcome.error]
    text = f"goals met: {sum(row.met is True for _, row in rows)}"
    text += f"; not met: {', '.join(missed) or 'none'}"
    return text + (f"; not measured: {', '.join(unknown)}" if unknown else "")


def describe_machine() -> dict[str, str]:
    """What a figure cannot be read without."""
    names = {
        "kernel": platform.release(),
        "cores": str(os.cpu_count()),
        "cpu": _cpu_model(),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB",
        "python": platform.python_version(),
    }
    names |= {library: version(library) for library in _LIBRARIES}
    return names | {peer: _debian_version(peer) for peer in ("lxcfs", "bindfs")}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _debian_version(package: str) -> str:
    if shutil.which("dpkg-query") is None or shutil.which(package) is None:
        return "not installed"
    query = os.popen(f"dpkg-query --show --showformat '${{Version}}' {package} 2>/dev/null")
    return query.read() or "unknown version"


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every repetition there")
    parser.add_argument("--quick", action="store_true", help="short counts: does it work at all")
    parser.add_argument(
        "--only", action="append", choices=SUBJECTS, help="this subject (may be given again)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
