# SPDX-License-Identifier: Apache-2.0
"""The CPU count that system calls tell: answers, profiles that ask for them, and the mild way."""
