# SPDX-License-Identifier: Apache-2.0
"""What every agent is made of; knows nothing of GPUs, mounts or views."""
