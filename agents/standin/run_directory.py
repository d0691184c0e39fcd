# SPDX-License-Identifier: Apache-2.0
"""The one directory below which a run keeps everything, and how its traces are recognised later.

The directory is claimed by a file in it, and every process of the run carries its path in the
environment, so that clean-up never guesses what is ours. Knows no container and no agent.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from agents.errors import ConfigError
from agents.openat2 import Resolve, openat2

#: In the environment of every process of a run: the absolute path of its directory.
RUN_DIR_VARIABLE = "NODESHARE_RUN_DIR"
_CLAIM = ".nodeshare-run"
_CLAIM_TEXT = "Made by nodeshare: everything below this directory is removed with the run.\n"


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """One `up` a directory, and nobody who takes it away meanwhile. Raises ConfigError.

    An abstract socket is the lock: it ends with the process, and leaves no file.
    """
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0nodeshare-up:{name}")
        except OSError as error:
            raise ConfigError(
                f"another `nodeshare up` runs in {str(directory)!r}",
                remedy="stop it (Ctrl-C there), or give this one a directory of its own with --dir",
            ) from error
        yield


def settle(directory: Path) -> Path:
    """The directory as mountinfo would name it. Raises ConfigError for one that cannot be a run's.

    Only its parents are resolved: a link in its own place is refused, because what it points to is
    not ours.
    """
    path = directory.parent.resolve() / directory.name
    if not directory.is_absolute() or len(path.parts) < 3 or ".." in directory.parts:
        raise ConfigError(
            f"{str(directory)!r} cannot hold a run",
            remedy="name an absolute path at least two levels deep",
        )
    if path.is_symlink():
        raise ConfigError(f"{str(path)!r} is a symbolic link", remedy="name the directory itself")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{str(path)!r} is not a directory", remedy="name another place")
    if not str(path).isprintable():
        raise ConfigError(f"{str(path)!r} cannot be shown", remedy="name a path of plain text")
    return path


def environment(directory: Path) -> Mapping[str, str]:
    """What every process of the run must have in its environment."""
    return {RUN_DIR_VARIABLE: str(settle(directory))}


def is_claimed(directory: Path) -> bool:
    """Whether a run made this directory; also true where there is none, or nothing in it."""
    if (directory / _CLAIM).is_file():
        return True
    return not directory.is_dir() or not any(directory.iterdir())


def require_claimed(directory: Path) -> None:
    """Raises ConfigError when the directory holds something that no run of ours has put there."""
    if not is_claimed(directory):
        raise ConfigError(
            f"{str(directory)!r} is not empty and was not made by nodeshare",
            remedy="name another directory, or empty this one",
        )


def claim(directory: Path) -> Path:
    """Make the directory ours, and answer its settled path.

    Raises ConfigError when it holds others' files, or cannot be made.
    """
    path = settle(directory)
    require_claimed(path)
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        (path / _CLAIM).write_text(_CLAIM_TEXT)
    except OSError as error:
        raise ConfigError(
            f"cannot make {str(path)!r}: {error.strerror}",
            remedy="run as root, or name a directory that can be written",
        ) from error
    return path


def release(directory: Path) -> bool:
    """Remove a claimed directory in which nothing else is left; whether it is gone."""
    if set(_names(directory)) <= {_CLAIM}:
        return not remove_tree(directory)
    return False


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove_tree(directory: Path) -> tuple[Path, ...]:
    """Remove a directory and all below it; answers what could not be removed.

    Follows no link and enters no mount, not even a bind mount of the same device: the kernel
    refuses the step (openat2 with RESOLVE_NO_XDEV, 5.6), whatever happened since anybody looked.
    """
    try:
        parent = os.open(directory.parent, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return ()
    kept: list[Path] = []
    try:
        _remove_directory(parent, directory, kept)
    finally:
        os.close(parent)
    return tuple(kept)


def _remove_directory(parent: int, path: Path, kept: list[Path]) -> None:
    try:
        descriptor = _open_beneath(parent, path.name)
    except FileNotFoundError:
        return
    except OSError:  # a link, a mount point, or not a directory
        kept.append(path)
        return
    before = len(kept)
    try:
        _remove_content(descriptor, path, kept)
    finally:
        os.close(descriptor)
    if len(kept) == before:
        _attempt(partial(os.rmdir, path.name, dir_fd=parent), path, kept)


def _remove_content(descriptor: int, path: Path, kept: list[Path]) -> None:
    with os.scandir(descriptor) as entries:
        children = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in children:
        if is_directory:
            _remove_directory(descriptor, path / name, kept)
        else:
            _attempt(partial(os.unlink, name, dir_fd=descriptor), path / name, kept)


def _attempt(act: Callable[[], None], path: Path, kept: list[Path]) -> None:
    try:
        act()
    except FileNotFoundError:
        pass
    except OSError:
        kept.append(path)


def _open_beneath(parent: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    return openat2(parent, name, flags, Resolve.NO_XDEV | Resolve.NO_SYMLINKS | Resolve.BENEATH)
