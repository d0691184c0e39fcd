# SPDX-License-Identifier: Apache-2.0
"""The lxcfs-compatible root: one file system for all containers, which answers whoever reads with
his own container's values. What pod specs and admission webhooks that were written for lxcfs expect
at /var/lib/lxcfs.

`python -m lxcfs_helper.compat` serves it, as a process of its own; `keeper` is the agent's side.
"""
