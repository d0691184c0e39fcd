# SPDX-License-Identifier: Apache-2.0
"""The `health` key: what XID errors do to the units of a device. Knows no device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from agents.config import Section
from gpu_plugin.xids import KNOWN, XidClass

#: XIDs are small numbers; a larger one is a slip of the keyboard.
_Code = Annotated[int, Field(ge=1, le=9999)]


class HealthConfig(Section):
    """`xids` puts codes into another class than ours (`gpu_plugin.xids`); `other_xids` is the class
    of codes that neither lists. With `heed_demands: false` a reset that the driver demands is told
    as a problem, and no more. A device gets new work again after `recover_after` clean probes in a
    row, one every two seconds.
    """

    xids: Mapping[_Code, XidClass] = Field(default_factory=dict)
    other_xids: XidClass = XidClass.RECOVERABLE
    heed_demands: bool = True
    recover_after: Annotated[int, Field(ge=1, le=10_000)] = 5

    def class_of(self, code: int) -> XidClass:
        if code in self.xids:
            return self.xids[code]
        return KNOWN[code].kind if code in KNOWN else self.other_xids

    def label(self, code: int) -> str:
        """The code as a metric label: those that nobody lists share one, so that labels are
        bounded.
        """
        return str(code) if code in self.xids or code in KNOWN else "other"
