# SPDX-License-Identifier: Apache-2.0
"""Structured logs: one event a line on stdout, the standard library's records in the same form.

Every line carries `node` and `agent`: from a processor, since gRPC's pool threads lose context
variables. The event is a constant phrase, everything variable is a key. Secrets are never passed to
a logger.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from contextlib import AbstractContextManager
from typing import IO, Any

# structlog's console renderer imports rich where that is installed: megabytes that no agent needs.
_hidden = {name: sys.modules.pop(name) for name in ("rich",) if name in sys.modules}
sys.modules["rich"] = None  # type: ignore[assignment]  # None: not importable
try:
    import structlog
finally:
    del sys.modules["rich"]
    sys.modules.update(_hidden)

from agents.config import LogConfig, LogFormat  # noqa: E402 -- after structlog, see above

Logger = structlog.stdlib.BoundLogger


def get_logger(**keys: str) -> Logger:
    """A logger whose every line carries `keys`."""
    logger: Logger = structlog.stdlib.get_logger(**keys)
    return logger


def log_context(**keys: str) -> AbstractContextManager[None]:
    """While it is open, every line that this thread (or task) logs carries `keys`."""
    return structlog.contextvars.bound_contextvars(**keys)


def configure(config: LogConfig, *, agent: str, node: str, stream: IO[str] | None = None) -> None:
    """Route everything to one handler on `stream` (None: stdout). May be called again with a new
    level.
    """

    def identity(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {"agent": agent, "node": node, **event}

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        identity,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _renderer(config.format),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.value.upper())


def _renderer(form: LogFormat) -> structlog.typing.Processor:
    if form is LogFormat.JSON:
        return structlog.processors.JSONRenderer(default=str)
    return structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
