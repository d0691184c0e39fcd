# SPDX-License-Identifier: Apache-2.0
"""The program `nodeshare`. Knows nothing but where the command line is, so that Ctrl-C in the
moment in which everything else is loaded ends it without a traceback.
"""

from __future__ import annotations

import os
import signal
import sys

#: As a shell has it for a command that Ctrl-C ended.
EXIT_INTERRUPTED = 130
_EXIT_TERMINATED = 143


def main() -> int:
    """Run the command of `sys.argv`; returns the exit code."""
    if os.getpid() == 1:
        # The kernel keeps from the first process of a container what it does not handle: its pod
        # would be killed late, instead of ended, if it is told to end while all this is loaded.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(_EXIT_TERMINATED))
    try:
        from agents.cli import main as run
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return run()


if __name__ == "__main__":
    sys.exit(main())
