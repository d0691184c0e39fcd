# SPDX-License-Identifier: Apache-2.0
"""A C library that calls itself `libnvidia-ml.so.1`: drives the real pynvml path without a GPU.

library    builds it, and writes the machine it is to be
machines   a machine on disk, with processes, for either implementation of `Nvml`
remote     runs our driver over the library, in a process of its own
"""
