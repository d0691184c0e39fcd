# SPDX-License-Identifier: Apache-2.0
"""Kubelet device plugin: GPU memory in fractions, MIG slices dedicated or shared.

ARCHITECTURE.md has a map of the modules.
"""
