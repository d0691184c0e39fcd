# SPDX-License-Identifier: Apache-2.0
"""Real programs that ask how many CPUs (or how much memory) there are, each in its own way: what a
container needs for them, and what they say. Knows nothing of views, listeners or variables.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Where a container has what was compiled for it.
PLACE = "/counters"
_PYTHON = "/usr/bin/python3"
_OPENMP = """
#include <omp.h>
#include <stdio.h>
int main(void) {
    int threads = 0;
#pragma omp parallel
#pragma omp single
    threads = omp_get_num_threads();
    printf("%d\\n", threads);
    return 0;
}
"""
_JAVA = """
public class Processors {
    public static void main(String[] arguments) {
        System.out.println(Runtime.getRuntime().availableProcessors());
    }
}
"""
_GO = """
package main

import (
    "fmt"
    "runtime"
)

func main() { fmt.Println(runtime.GOMAXPROCS(0)) }
"""
_OPENBLAS = (
    "import numpy, threadpoolctl as t; "
    "print(max(one['num_threads'] for one in t.threadpool_info() "
    "if one['internal_api'] == 'openblas'))"
)


@dataclass(frozen=True, slots=True)
class Counter:
    """One row. `command` is for a shell, its last word the number; `kib`: of memory. `version` is
    what was tried; it never takes less than `least`."""

    name: str
    command: str
    version: str
    kib: bool = False
    least: int = 1


@dataclass
class Counters:
    """Those that this machine has. `binds` is what a container needs besides /usr and /etc."""

    directory: Path
    rows: list[Counter] = field(default_factory=list)
    binds: dict[str, Path] = field(default_factory=dict)

    def add(
        self, name: str, command: str, version: str, *, kib: bool = False, least: int = 1
    ) -> None:
        self.rows.append(Counter(name, command, version, kib, least))

    def script(self) -> str:
        """For one shell: a line for each row."""
        return "\n".join(
            f'echo "{number}=$({row.command} 2>/dev/null | tail -n 1)"'
            for number, row in enumerate(self.rows)
        )

    def said(self, output: str) -> Mapping[Counter, int]:
        """What each printed. Raises AssertionError when one said no number."""
        lines = dict(line.split("=", 1) for line in output.splitlines())
        found = {}
        for number, row in enumerate(self.rows):
            words = lines.get(str(number), "").split()
            assert words, f"{row.name}: {output!r}"
            assert words[-1].isdigit(), f"{row.name}: {output!r}"
            found[row] = int(words[-1])
        return found


def counters(directory: Path, *, everything: bool) -> Counters:
    """Compiled into this directory. `everything`: also those that take long to start or to make, of
    programs that the machine happens to have."""
    directory.mkdir()
    found = Counters(directory, binds={PLACE: directory})
    found.add("`nproc`", "nproc", _version(["nproc", "--version"]))
    _openmp(found)
    python = _version([_PYTHON, "--version"])
    _python(found, _PYTHON, python)
    if tuple(map(int, python.split(".")[:2])) < (3, 13):
        _newer_python(found)
    modules = _modules()
    if {"numpy", "threadpoolctl"} <= modules.keys():
        found.add("numpy (OpenBLAS)", _of_python(_OPENBLAS), modules["numpy"])
    for module in ("joblib", "psutil"):
        if module in modules:
            count = f"import {module}; print({module}.cpu_count())"
            found.add(f"`{module}.cpu_count()`", _of_python(count), modules[module])
    if shutil.which("busybox"):
        busybox = _version(["busybox"])
        found.add("busybox `nproc`", "busybox nproc", busybox)
        found.add(
            "busybox `free` (memory)",
            "busybox free -k | awk '/^Mem:/ {print $2}'",
            busybox,
            kib=True,
        )
    if everything:
        for add in (_java, _node, _r, _go):
            add(found)
    return found


def _of_python(code: str) -> str:
    return f'{_PYTHON} -c "{code}"'


def _openmp(found: Counters) -> None:
    source = found.directory / "openmp.c"
    source.write_text(_OPENMP)
    _run(["gcc", "-O1", "-fopenmp", "-o", str(found.directory / "openmp"), str(source)])
    version = _version(["gcc", "-dumpfullversion"])
    found.add("OpenMP (libgomp)", f"{PLACE}/openmp", version)


def _python(found: Counters, interpreter: str, version: str) -> None:
    """From 3.13 on a variable counts, and there is another call."""
    new = tuple(map(int, version.split(".")[:2])) >= (3, 13)
    calls = ("cpu_count()", "process_cpu_count()") if new else ("cpu_count()",)
    for call in calls:
        command = f'{interpreter} -c "import os; print(os.{call})"'
        found.add(f"Python {'from' if new else 'before'} 3.13 `os.{call}`", command, version)


def _newer_python(found: Counters) -> None:
    """Beside the distribution's own."""
    for name in ("python3.13", "python3.14"):
        done = _try([name, "-c", "import sys; print(sys.base_prefix)"])
        if done is not None:
            prefix = Path(done.strip())
            if not prefix.is_relative_to("/usr"):
                found.binds[str(prefix)] = prefix
            interpreter = str(prefix / "bin" / name)
            _python(found, interpreter, _version([interpreter, "--version"]))
            return


def _java(found: Counters) -> None:
    if shutil.which("javac") and shutil.which("java"):
        source = found.directory / "Processors.java"
        source.write_text(_JAVA)
        _run(["javac", "-d", str(found.directory), str(source)])
        version = _version(["java", "--version"])
        found.add("Java `availableProcessors()`", f"java -cp {PLACE} Processors", version)


def _node(found: Counters) -> None:
    if shutil.which("node"):
        version = _version(["node", "--version"])
        for call in ("availableParallelism()", "cpus().length"):
            found.add(f"node `os.{call}`", f"node -p 'os.{call}'", version)


def _r(found: Counters) -> None:
    if shutil.which("Rscript"):
        version = _version(["Rscript", "--version"])
        call = "parallel::detectCores()"
        found.add(f"R `{call}`", f"Rscript -e 'cat({call})'", version)


def _go(found: Counters) -> None:
    """Two rows: before and from the version that reads the quota itself."""
    version = _version(["go", "env", "GOVERSION"]) if shutil.which("go") else ""
    numbers = tuple(map(int, version.split(".")[:2])) if version else ()
    if len(numbers) != 2:
        return
    module = found.directory / "count"
    module.mkdir()
    (module / "count.go").write_text(_GO)
    # What a program does by default depends on the version that it is written for.
    (module / "go.mod").write_text(f"module count\n\ngo {numbers[0]}.{numbers[1]}\n")
    environment = {"GOCACHE": str(found.directory / "cache"), "CGO_ENABLED": "0"}
    environment |= {"GOPATH": str(found.directory / "path"), "GOTOOLCHAIN": "local"}
    _run(["go", "build", "-C", str(module), "-o", str(found.directory / "go"), "."], environment)
    # adjustCgroupGOMAXPROCS of its runtime/cgroup_linux.go.
    era, least = ("before 1.25", 1) if numbers < (1, 25) else ("from 1.25", 2)
    found.add(f"Go {era}", f"{PLACE}/go", version, least=least)


def _modules() -> dict[str, str]:
    """What the distribution's Python has, with its version."""
    code = "from importlib.metadata import distributions as all; "
    code += "print(*(f'{one.name} {one.version}' for one in all()), sep='\\n')"
    lines = (_try([_PYTHON, "-c", code]) or "").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def _version(argv: Sequence[str]) -> str:
    """The first thing in what it prints that looks like one."""
    found = re.search(r"\d+(\.\d+)+", _try(argv) or "")
    return found[0] if found else "?"


def _try(argv: Sequence[str]) -> str | None:
    """What it prints; None: it is not there, or fails."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return None
    return done.stdout + done.stderr if done.returncode == 0 else None


def _run(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, done.stderr
