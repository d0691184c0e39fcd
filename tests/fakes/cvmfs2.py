# SPDX-License-Identifier: Apache-2.0
"""A test double of cvmfs2: its command line and configuration, over a folder served by bindfs.

`cvmfs2 -f -o OPTIONS REPOSITORY PLACE`. It refuses options that it does not know, reads the files
of `config=a:b` in this order, and wants a proxy and a server; of servers it knows `file://` alone.
`@fqrn@` in it stands for the repository.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_OPTIONS = {"config", "fsname", "allow_other", "ro", "uid", "gid", "disable_watchdog"}
_SETTING = re.compile(r"(?P<key>CVMFS_[A-Z0-9_]+)=(?P<quote>['\"]?)(?P<value>.*)(?P=quote)")


def main(words: list[str]) -> None:
    """Becomes bindfs, or ends with what is wrong."""
    if len(words) != 5 or words[:2] != ["-f", "-o"]:
        sys.exit("usage: cvmfs2 -f -o options repository place")
    options = dict(word.partition("=")[::2] for word in words[2].split(","))
    repository, place = words[3:]
    if unknown := sorted(options.keys() - _OPTIONS):
        sys.exit(f"cvmfs2: unknown option {unknown[0]}")
    settings = _settings(options.get("config", ""))
    for needed in ("CVMFS_HTTP_PROXY", "CVMFS_SERVER_URL"):
        if not settings.get(needed):
            sys.exit(f"cvmfs2: {needed} required")
    url = settings["CVMFS_SERVER_URL"].replace("@fqrn@", repository)
    if not Path(url.removeprefix("file://")).is_dir():
        sys.exit(f"cvmfs2: failed to load root catalog from {url}")
    handed_on = f"fsname={options.get('fsname', 'cvmfs2')},allow_other,ro"
    source = url.removeprefix("file://")
    os.execvp("bindfs", ["bindfs", "-f", "-o", handed_on, source, place])


def _settings(files: str) -> dict[str, str]:
    found = {}
    for name in files.split(":"):
        for line in Path(name).read_text().splitlines():
            if match := _SETTING.fullmatch(line.strip()):
                found[match["key"]] = match["value"]
            elif line.strip() and not line.startswith("#"):
                sys.exit(f"cvmfs2: {name}: {line!r}")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
