# SPDX-License-Identifier: Apache-2.0
"""The error tree. Knows no agent, and never logs: an error is raised here and logged once, at a
boundary.

    AgentError             something a person can act on: message, and a remedy where there is one
    ├── ConfigError        the user's configuration or command line (exit code 2, no traceback)
    ├── Unavailable        transient or absent: the only thing that is retried
    └── FsError            becomes the errno of a FUSE reply

Anything else that is raised is a bug: it cancels the nursery and ends the process with code 1.
"""

from __future__ import annotations


class AgentError(Exception):
    """What went wrong in one lower-case phrase; `remedy` says what to do about it (None: nothing
    known).
    """

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message}; {self.remedy}"


class ConfigError(AgentError):
    """The configuration or the command line is wrong; nothing was started."""


class Unavailable(AgentError):
    """Something outside is absent or did not answer in time; worth another try later."""


class FsError(AgentError):
    """A file-system operation failed with this errno (positive), which is what the caller gets."""

    def __init__(self, errno: int, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.errno = errno
