# SPDX-License-Identifier: Apache-2.0
"""What is handed to the small programs arrives as it was."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agents.hostfs import HostFs
from agents.standin.launch import (
    Busybox,
    CgroupDirectory,
    Entry,
    Launch,
    entry_from,
    launch_from,
    to_descriptor,
)
from agents.standin.pods import DeviceNode, Volume, VolumePropagation

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
PATHS = TEXT.map(lambda text: Path("/", text.replace("/", "_")))


@given(
    argv=st.lists(TEXT, min_size=1).map(tuple),
    env=st.dictionaries(TEXT, TEXT),
    path=PATHS,
    propagation=st.sampled_from(VolumePropagation),
    busybox=st.none() | st.builds(Busybox, PATHS, st.lists(TEXT).map(tuple)),
)
def test_a_launch_arrives(
    argv: tuple[str, ...],
    env: dict[str, str],
    path: Path,
    propagation: VolumePropagation,
    busybox: Busybox | None,
) -> None:
    launch = Launch(
        hostname="notebook",
        argv=argv,
        env=env,
        root=path,
        host=HostFs(proc=path),
        cgroups=(CgroupDirectory(path, "memory"),),
        volumes=(Volume(path, "/data", read_only=True, propagation=propagation),),
        devices=(DeviceNode(path, "/dev/nvidia0", "r"),),
        busybox=busybox,
    )
    assert launch_from(to_descriptor(launch)) == launch


def test_an_entry_arrives_and_closes_its_descriptor() -> None:
    entry = Entry(("sh", "-c", "x" * 200_000), {"A": "b"}, (Path("/a"), Path("/b")))
    descriptor = to_descriptor(entry)
    assert entry_from(descriptor) == entry
    assert not Path(f"/proc/self/fd/{descriptor}").exists()


def test_a_path_that_is_not_unicode_arrives() -> None:
    path = Path(os.fsdecode(b"/srv/\xff"))
    entry = Entry(("true",), {}, (path,))
    assert entry_from(to_descriptor(entry)).cgroups == (path,)
