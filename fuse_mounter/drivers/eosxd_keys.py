# SPDX-License-Identifier: Apache-2.0
"""The keys of eosxd's configuration that its code reads, by section. Data.

From the sources of EOS 5 (fusex/eosfuse.cc). What the driver writes itself is not among them: name,
hostport, remotemountdir, localmountdir, auth.ssskeytab.
"""

from __future__ import annotations

from collections.abc import Mapping


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


KEYS: Mapping[str, frozenset[str]] = {
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
        ignore-containerization credential-store environ-deadlock-timeout forknoexec-heuristic
        """),
    "inline": _words("max-size default-compressor"),
    "cache": _words("""
        type size-mb size-ino journal-mb journal-ino clean-threshold location journal
        read-ahead-strategy read-ahead-bytes-min read-ahead-bytes-nominal read-ahead-bytes-max
        read-ahead-blocks-max read-ahead-sparse-ratio max-read-ahead-buffer max-write-buffer
        rescue-cache-files
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
