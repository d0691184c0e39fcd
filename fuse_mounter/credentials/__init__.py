# SPDX-License-Identifier: Apache-2.0
"""Credentials of users, where their programs and the clients of mounts look for them, and fresh."""
