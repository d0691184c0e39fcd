# SPDX-License-Identifier: Apache-2.0
"""Remote file systems of the node: mounted once, published to every pod, kept alive."""
