# SPDX-License-Identifier: Apache-2.0
"""A bar for whoever waits at a terminal. Knows nothing of what is done. Next to `screen` the only
importer of `rich`, which only commands load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

#: How much is done, and what there is to say of it.
Show = Callable[[int, str], None]


@contextmanager
def bar(title: str, most: int | None) -> Iterator[Show]:
    """Drawn on stderr, gone at the end. `most` None: nobody knows how much there is to do."""
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[found]}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        task = progress.add_task(title, total=most, found="")
        yield lambda done, found: progress.update(task, completed=done, found=found)
