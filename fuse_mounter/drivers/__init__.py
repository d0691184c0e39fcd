# SPDX-License-Identifier: Apache-2.0
"""How a kind of mount is made: one small file each, behind `base.Driver`."""
