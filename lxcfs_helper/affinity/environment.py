# SPDX-License-Identifier: Apache-2.0
"""The environment by which programs start as many threads as a CPU limit allows. Pure.

For containers whose system calls nobody answers. A variable counts only for programs that read it,
is fixed when a program starts, and is inherited: it does not follow a limit that changes. Knows no
cgroup: whoever asks knows the limit.
"""

from __future__ import annotations

import enum
import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal

from agents.config_values import shown
from agents.errors import ConfigError

#: Name to who reads it. Left out are runtimes that read the quota themselves (the JVM, .NET, Go
#: from 1.25), where a variable could only be wrong after a resize, and names that cost a line on
#: standard error (JAVA_TOOL_OPTIONS).
VARIABLES: Mapping[str, str] = {
    "OMP_NUM_THREADS": "OpenMP; with it PyTorch, Arrow, and nproc",
    "OPENBLAS_NUM_THREADS": "OpenBLAS: numpy, scipy, R, Octave",
    "MKL_NUM_THREADS": "Intel's MKL",
    "BLIS_NUM_THREADS": "BLIS",
    "NUMEXPR_MAX_THREADS": "NumExpr: the most it may be told to use",
    "NUMEXPR_NUM_THREADS": "NumExpr: what it uses, so pandas' eval",
    "NUMBA_NUM_THREADS": "Numba's parallel loops",
    "LOKY_MAX_CPU_COUNT": "joblib, so scikit-learn's n_jobs=-1",
    "PYTHON_CPU_COUNT": "os.cpu_count and os.process_cpu_count of Python from 3.13",
    "GOMAXPROCS": "Go before 1.25",
    "RAYON_NUM_THREADS": "Rayon: many programs in Rust",
    "POLARS_MAX_THREADS": "Polars",
    "JULIA_NUM_THREADS": "Julia's threads",
    "JULIA_CPU_THREADS": "Julia's Sys.CPU_THREADS, so its BLAS",
    "MC_CORES": "R's parallel::mclapply",
    "R_PARALLELLY_AVAILABLECORES_SYSTEM": "R's parallelly and future",
    "R_DATATABLE_NUM_THREADS": "R's data.table",
    "RCPP_PARALLEL_NUM_THREADS": "R's RcppParallel",
}

#: Kubernetes' quantity of CPUs, as far as a limit is written so.
_QUANTITY = re.compile(r"(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})(m?)", re.ASCII)
#: More than any machine has: a slip, such as a limit in millicores without its unit.
_MOST = 8192


class Format(enum.Enum):
    """How the variables are written."""

    #: For `eval` in a shell.
    SHELL = "shell"
    #: For `docker run --env-file` and systemd's EnvironmentFile.
    ENV_FILE = "env-file"
    JSON = "json"
    #: The list that stands below `env:` of a container in a pod.
    YAML = "yaml"


def threads(cpus: float) -> int:
    """Threads for that many CPUs, which may be a fraction: enough to use all of them."""
    return max(1, math.ceil(cpus))


def environment(count: int) -> dict[str, str]:
    """Every variable, for that many threads."""
    return dict.fromkeys(VARIABLES, str(count))


def parse_cpus(text: str) -> float:
    """`2`, `2.5`, `500m`, as in a pod's limits. Raises ConfigError."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"--cpus {shown(text)} is no number of CPUs; write one such as 2, 2.5 or 500m"
        )
    cpus = Decimal(match[1]) / (1000 if match[2] else 1)
    if not 0 < cpus <= _MOST:
        raise ConfigError(
            f"--cpus {shown(text)} is not above 0 and at most {_MOST}; write the limit of the"
            " container, and leave the variables out where it has none"
        )
    return float(cpus)


def written(variables: Mapping[str, str], form: Format) -> str:
    """The variables in this form, without a newline at the end."""
    match form:
        case Format.SHELL:
            lines = [f"export {name}={value}" for name, value in variables.items()]
        case Format.ENV_FILE:
            lines = [f"{name}={value}" for name, value in variables.items()]
        case Format.YAML:
            # Quoted: Kubernetes takes texts alone.
            lines = [f'- {{name: {name}, value: "{value}"}}' for name, value in variables.items()]
        case Format.JSON:
            lines = [json.dumps(dict(variables), indent=2)]
    return "\n".join(lines)
