# SPDX-License-Identifier: Apache-2.0
"""Simulated machines: GPUs from a description, with processes, faults and limits from a state file.

    description   what a machine is made of (`load_machine`), from YAML
    state         what happens on it (`SimulatedState` writes, `StateReader` reads)
    nvml          the `Nvml` that answers from both (`SimulatedNvml`)

It is what an agent uses on a machine without a GPU, and says so: `Machine.simulated`.
"""
