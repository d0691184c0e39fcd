# SPDX-License-Identifier: Apache-2.0
"""`nodeshare support-bundle`: what helps somebody else to understand this node, in one archive,
without secrets. Also where agents are dead or hang: each part has a limit of time and size, and
what could not be collected is said in the archive. Knows no agent's content.

Looks at kernel files, the agents' sockets, the configuration and logs; never into a mount.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from agents import support_parts
from agents.agent import Agent
from agents.redaction import Redactor
from agents.support_parts import Subject

T = TypeVar("T")

#: For one part, and for all of them, in seconds.
_PART_S, _ALL_S = 10.0, 60.0
#: In bytes: of one part its end counts, and so does the sum.
LONGEST_PART, LONGEST_ALL = 1 << 20, 16 << 20
_README = """What nodeshare's support-bundle has found out about this node.

Taken out are values whose names say that they are secrets, texts that look like secrets (keys,
tokens, passwords in URLs), and every word of the files with secrets that the configuration names.
Names of pods, namespaces, users' ids and hosts are in it: look at it before you hand it on.

not-collected.txt says what could not be looked at, and why.
"""


@dataclass(frozen=True, slots=True)
class Collected:
    """Files by name, and why others are missing."""

    files: Mapping[str, str]
    missing: Sequence[str]


def write(agents: Sequence[Agent], config: Path | None, output: Path | None) -> tuple[Path, int]:
    """Collect everything into `output` (None: a file of that name and time here); where it lies and
    how many parts are missing. Raises OSError when it cannot be written.
    """
    subject = support_parts.subject(agents, config)
    at = datetime.now(UTC)
    name = f"nodeshare-support-{subject.node.node_name()}-{at:%Y%m%dT%H%M%SZ}"
    path = output or Path(f"{name.replace('/', '_')}.tar.gz")
    # Before anything is collected: that may take a minute.
    with os.fdopen(_opened(path, new=output is None), "wb") as file:
        collected = collect(subject)
        file.write(_archive(name, collected, at.timestamp()))
    return path, len(collected.missing)


def _opened(path: Path, *, new: bool) -> int:
    """For its owner alone: it names everybody's pods. `new`: a name of our choice, which nobody
    may have laid out for us.
    """
    if str(path) == "-":
        return os.dup(1)
    how = os.O_EXCL if new else os.O_TRUNC
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o600)


def collect(subject: Subject) -> Collected:
    """Every part, one after the other; none can hold up the others."""
    missing = list(subject.problems)
    secrets, problem = _limited(partial(support_parts.known_secrets, subject))
    if secrets is None:
        missing.append(f"files with secrets: {problem}; their words are not looked for elsewhere")
    redactor = Redactor(secrets or subject.named_secrets)
    files: dict[str, str] = {}
    room, deadline = LONGEST_ALL, time.monotonic() + _ALL_S
    for name, part in _parts(subject):
        if time.monotonic() > deadline or room <= 0:
            missing.append(f"{name}: no {'room' if room <= 0 else 'time'} was left for it")
            continue
        found, problem = _limited(part)
        if found is None:
            missing.append(f"{name}: {redactor.text(problem)}")
            continue
        for file, content in found.items():
            text = _text(redactor, content)[-min(LONGEST_PART, max(room, 0)) :]
            room -= len(text)
            files[f"{name}/{file}" if file else name] = text
    files["errors.txt"] = "\n".join(_errors(files)) + "\n"
    files["not-collected.txt"] = "\n".join(missing) + "\n" if missing else "everything was there\n"
    files["README.txt"] = _README
    return Collected(files, missing)


#: A part: its files by name (empty: it is one file), as text or as what JSON holds.
Part = Callable[[], Mapping[str, object]]


def _parts(subject: Subject) -> Iterator[tuple[str, Part]]:
    for agent in subject.agents:
        yield f"status/{agent.section}.json", partial(support_parts.status, subject, agent)
        yield f"metrics/{agent.section}.txt", partial(support_parts.metrics, subject, agent)
    for name, part in support_parts.PARTS.items():
        yield name, partial(part, subject)


def _limited(part: Callable[[], T]) -> tuple[T | None, str]:
    """What it returned; None with the reason. What hangs in the kernel is left behind."""
    found: list[T] = []
    problems: list[str] = []

    def run() -> None:
        try:
            found.append(part())
        except Exception as error:  # noqa: BLE001 -- told in the archive; the other parts matter more
            problems.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_PART_S)
    if found:
        return found[0], ""
    return None, problems[0] if problems else f"no answer within {_PART_S:g} s"


def _text(redactor: Redactor, content: object) -> str:
    if isinstance(content, str):
        return redactor.text(content[-LONGEST_PART:])
    return json.dumps(redactor.document(content), indent=1, default=str) + "\n"


_ERRORS = ('"level": "error"', '"level": "warning"', "[error", "[warning", "Traceback", "Error:")


def _errors(files: Mapping[str, str], most: int = 200) -> list[str]:
    """The last lines of logs that somebody should have read."""
    found = [
        f"{name}: {line}"
        for name, text in files.items()
        if name.startswith("logs/")
        for line in text.splitlines()
        if any(mark in line for mark in _ERRORS)
    ]
    return found[-most:]


def _archive(name: str, collected: Collected, at: float) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for file, text in sorted(collected.files.items()):
            content = text.encode(errors="backslashreplace")
            entry = tarfile.TarInfo(f"{name}/{file}")
            entry.size, entry.mtime, entry.mode = len(content), int(at), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()
