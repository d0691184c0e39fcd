# SPDX-License-Identifier: Apache-2.0
"""Resource view: each container sees its own limits in /proc and /sys."""
