# SPDX-License-Identifier: Apache-2.0
"""What the text of a view is made of, so that only what moved is read and rendered again.

A view declares its sources (`lxcfs_helper.views`); whoever sweeps finds out which sources of a
container moved. Knows no view and no file.
"""

from __future__ import annotations

import enum


class Source(enum.IntFlag):
    """`LIMITS` changes when somebody sets a limit (here or above), or when CPUs of the host come
    and go; `CPU` and `MEMORY` move with use, `IO` with what was read from and written to devices,
    `LOAD` with how many tasks run and ran, sampled now and then. `HOST`: what the host itself has
    left is in it. `TIME`: what is shown is different a second later, although nothing happened.
    """

    NONE = 0
    LIMITS = enum.auto()
    MEMORY = enum.auto()
    CPU = enum.auto()
    IO = enum.auto()
    LOAD = enum.auto()
    TIME = enum.auto()
    HOST = enum.auto()


#: For a container of which nothing is known.
EVERYTHING = Source(sum(Source))
