# SPDX-License-Identifier: Apache-2.0
"""The keys of eosxd's configuration that its code reads, by section, and the values they take.
Data, and what checks an operator's keys against it.

From the sources of EOS 5 (fusex/eosfuse.cc). What the driver writes itself is refused, with the
place that is meant for it: `eosxd_config`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

#: The client's own word for the level above the sections.
TOP = ""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


KEYS: Mapping[str, frozenset[str]] = {
    TOP: _words("appname mdcachedir mdzmqtarget mdzmqidentity"),
    "options": _words("""
        debug debuglevel jsonstats backtrace libfusethreads hide-versions md-kernelcache
        md-kernelcache.enoent.timeout md-backend.timeout md-backend.put.timeout data-kernelcache
        rename-is-sync rm-is-sync rmdir-is-sync global-flush global-locking flush-wait-open
        flush-wait-open-size flush-wait-umount flush-nowait-executables fd-limit no-fsync
        overlay-mode rm-rf-protect-levels rm-rf-bulk show-tree-size cpu-core-affinity no-xattr
        no-eos-xattr-listing no-link nocache-graceperiod leasetime write-size-flush-interval
        submounts inmemory-inodes tmp-fake-rename hack-ms-office-file-save
        protect-directory-symlink-loops
        """),
    "auth": _words("""
        shared-mount krb5 gsi gsi-first sss sssEndorsement oauth2 ztn unix unix-root
        ignore-containerization environ-deadlock-timeout forknoexec-heuristic
        """),
    "inline": _words("max-size default-compressor"),
    "cache": _words("""
        type size-mb size-ino journal-mb journal-ino clean-threshold read-ahead-strategy
        read-ahead-bytes-min read-ahead-bytes-nominal read-ahead-bytes-max read-ahead-blocks-max
        read-ahead-sparse-ratio max-read-ahead-buffer max-write-buffer rescue-cache-files
        """),
    "xrdcl": _words("""
        TimeoutResolution ConnectionWindow ConnectionRetry StreamErrorWindow RequestTimeout
        StreamTimeout RedirectLimit LogLevel
        """),
    "recovery": _words("""
        read read-open read-open-noserver read-open-noserver-retrywindow write write-open
        write-open-noserver write-open-noserver-retrywindow
        """),
}

#: What the driver says itself, and by what the operator says it.
WRITTEN: Mapping[str, Mapping[str, str]] = {
    TOP: {
        "name": "the agent chooses it",
        "hostport": "write options.mgm",
        "remotemountdir": "write options.remote_path",
        "localmountdir": "the agent chooses it",
        "statfilesuffix": "the agent chooses it",
        "statfilepath": "the agent chooses it",
        "encryptionkey": "write credentials.encryption_key, the name of a file that has it",
    },
    "auth": {
        "ssskeytab": "write credentials.sss_keytab",
        "credential-store": "every client has its own, below /var/cache/eos",
    },
    "cache": {
        "location": "every client has its own, below /var/cache/eos",
        "journal": "every client has its own, below /var/cache/eos",
    },
}

_TEXT = _words("""
    appname mdcachedir mdzmqtarget mdzmqidentity overlay-mode sssEndorsement default-compressor type
    read-ahead-strategy
    """)
_LISTS = _words("no-fsync")
_EITHER = _words("LogLevel")
_CLOSED = {"type": ("disk", "memory")}
_FORMS = {
    "appname": (re.compile(r"[^&\s]+"), "has no '&' and no space"),
    "overlay-mode": (re.compile(r"0?[0-7]{3}"), "is an octal mode in quotes, such as '0777'"),
    "mdzmqtarget": (
        re.compile(r"tcp://[^\s/:]+:\d{1,5}|tcp://\[[0-9A-Fa-f:]+\]:\d{1,5}"),
        "is such as tcp://eos.example.org:1100",
    ),
}


def checked(client: Any) -> Any:
    """An operator's own keys, if eosxd would read each of them, and as it is meant. Raises
    ValueError with all that is wrong.
    """
    if isinstance(client, dict) and (problems := [*_problems(client)]):
        raise ValueError("; ".join(problems))
    return client


def _problems(client: Mapping[str, Any]) -> Iterator[str]:
    for name, value in client.items():
        if name in KEYS and name != TOP:
            yield from _of_section(name, value)
        else:
            yield from _of_key(TOP, name, value)
    auth = client.get("auth")
    # In that branch of its code the tokens of BEARER_TOKEN_FILE are not looked for.
    if isinstance(auth, dict) and auth.get("gsi-first") and auth.get("ztn", 1):
        yield "auth.gsi-first: eosxd then never looks for ztn's tokens; say ztn: 0, or gsi-first: 0"


def _of_section(section: str, keys: Any) -> Iterator[str]:
    if not isinstance(keys, dict):
        yield f"{section}: {keys!r} is not a mapping of keys to values"
        return
    for key, value in keys.items():
        yield from _of_key(section, key, value)


def _of_key(section: str, key: str, value: Any) -> Iterator[str]:
    where = f"{section}.{key}" if section else key
    if instead := WRITTEN.get(section, {}).get(key):
        yield f"{where}: this key is written by the agent: {instead}"
    elif key not in KEYS[section]:
        yield f"{where}: eosxd does not read this key here; {_hint(section, key)}"
    elif problem := _wrong(key, value):
        yield f"{where}: {value!r} {problem}"


def _hint(section: str, key: str) -> str:
    for elsewhere, keys in KEYS.items():
        if key in keys:
            return f"it belongs to {elsewhere}" if elsewhere else "it belongs above the sections"
    known: Iterable[str] = KEYS[section] if section else {*KEYS, *KEYS[TOP]} - {TOP}
    close = difflib.get_close_matches(key, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"


def _wrong(key: str, value: Any) -> str | None:
    """Its JSON library throws on a value of another kind, and the client then ends."""
    if key in _LISTS:
        fine = isinstance(value, list) and all(isinstance(one, str) for one in value)
        return None if fine else "is not a list of texts"
    if key in _EITHER:
        return None if isinstance(value, int | float | str) else "is neither a text nor a number"
    if key not in _TEXT:
        fine = isinstance(value, int | float) and math.isfinite(value)
        return None if fine else "is not a number"
    if not isinstance(value, str):
        return "is not a text; put it in quotes"
    if key in _CLOSED and value not in _CLOSED[key]:
        return f"is none of {', '.join(_CLOSED[key])}"
    form, words = _FORMS.get(key, (None, ""))
    return words if form is not None and not form.fullmatch(value) else None
