# SPDX-License-Identifier: Apache-2.0
"""A container as a runtime makes it whose pod has volumes from the host with mountPropagation:
Bidirectional: another root, in a mount namespace of its own, to which some paths are lent.

The steps are those of runc: the volumes are bound recursively and made shared, so that they stay
peers of the host's mounts; then the root is pivoted, and the former one is made a slave and let go.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_SCRIPT = """
set -e
new=$1; lent=$2; bound=$3; propagation=$4; shift 4
mount --make-private "$(findmnt --noheadings --output TARGET --target "$new")"
mount -t tmpfs -o mode=0755 container "$new"
for path in /*; do
    case $path in /tmp) mkdir -m 1777 "$new/tmp"; continue;; esac
    if [ -L "$path" ]; then cp -P "$path" "$new$path"
    elif [ -d "$path" ]; then mkdir "$new$path"; mount --rbind "$path" "$new$path"
    fi
done
for path in $lent; do
    mkdir -p "$new$path"
    mount --rbind "$path" "$new$path"
    mount "--make-$propagation" "$new$path"
done
for path in $bound; do
    if [ -d "$path" ]; then mkdir -p "$new$path"; else touch "$new$path"; fi
    mount --bind "$path" "$new$path"
done
mkdir "$new/.former"
cd "$new"
pivot_root . .former
mount --make-rslave /.former
umount -l /.former
exec "$@"
"""


def in_container(
    argv: Sequence[str],
    new_root: Path,
    *,
    lent: Sequence[Path],
    bound: Sequence[Path] = (),
    propagation: str = "rshared",
) -> list[str]:
    """A command line that runs `argv` there. `new_root`: an empty directory below /tmp. `lent` and
    `bound` (also files) keep their paths; without `lent` nothing that is mounted in it is seen
    outside. `propagation` rshared is Bidirectional, rslave HostToContainer, rprivate None.
    """
    paths = [" ".join(map(str, some)) for some in (lent, bound)]
    begin = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", _SCRIPT, "container"]
    return [*begin, str(new_root), *paths, propagation, *argv]
