# SPDX-License-Identifier: Apache-2.0
"""The nearest real thing to a Kubernetes node on a bare machine: an embedded kubelet, a runner.

Shipped, because `nodeshare up` uses it; the end-to-end tests use the same. No agent imports it.
"""
