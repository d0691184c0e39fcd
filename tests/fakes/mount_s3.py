# SPDX-License-Identifier: Apache-2.0
"""A test double of mount-s3: its command line and credentials, over a folder served by bindfs.

`mount-s3 BUCKET PLACE --option[=value] …`. It refuses options that it does not know, finds its keys
by AWS_SHARED_CREDENTIALS_FILE and AWS_PROFILE, and takes the folder that `--endpoint-url=file://…`
names for all buckets (the real one speaks HTTP alone).
"""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path

_FLAGS = {
    *("allow-delete", "allow-other", "allow-overwrite", "allow-root", "auto-unmount"),
    *("force-path-style", "foreground", "incremental-upload", "no-sign-request", "read-only"),
    *("requester-pays", "transfer-acceleration"),
}
_VALUES = {
    *("cache", "dir-mode", "endpoint-url", "file-mode", "gid", "log-directory", "max-threads"),
    *("maximum-throughput-gbps", "metadata-ttl", "prefix", "profile", "region", "storage-class"),
    *("uid", "upload-checksums"),
}


def main(words: list[str]) -> None:
    """Becomes bindfs, or ends with what is wrong."""
    names = [word for word in words if not word.startswith("--")]
    options = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    if len(names) != 2:
        _wrong("error: the following required arguments were not provided")
    for key, value in options.items():
        if key not in _FLAGS | _VALUES or (key in _FLAGS) is bool(value):
            _wrong(f"error: unexpected argument '--{key}' found")
    if "foreground" not in options:
        _wrong("this double stays in the foreground")
    if "no-sign-request" not in options:
        _keys()
    bucket, place = names
    folder = Path(options.get("endpoint-url", "").removeprefix("file://")) / bucket
    if not folder.is_dir():
        sys.exit(f"Error: The bucket {bucket} does not exist")
    access = ["ro"] if "read-only" in options else []
    access += ["allow_other"] if "allow-other" in options else []
    handed_on = ",".join(["fsname=mountpoint-s3", *access])
    os.execvp("bindfs", ["bindfs", "-f", "-o", handed_on, str(folder), place])


def _keys() -> None:
    """Raises SystemExit without them."""
    file = configparser.ConfigParser()
    file.read(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "/nowhere"))
    profile = os.environ.get("AWS_PROFILE", "default")
    if not file.has_option(profile, "aws_secret_access_key"):
        sys.exit("Error: No signing credentials available")


def _wrong(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
