# SPDX-License-Identifier: Apache-2.0
"""Scratch that cleans itself: files that nobody used for long are announced, and then removed."""
