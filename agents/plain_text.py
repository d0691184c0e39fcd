# SPDX-License-Identifier: Apache-2.0
"""Text of whatever origin as one harmless line: names of pods, processes and files, messages of
servers and clients are their authors' affair.

Pure. Says nothing about HTML: whoever writes that escapes it as well.
"""

from __future__ import annotations

#: Longer texts are cut: a name may have 10 kB, an annotation 256 KiB.
LONGEST = 300


def plain(text: str, longest: int = LONGEST) -> str:
    """At most `longest` characters of it, all printable.

    What is not is shown as Python writes it (`\\n`, `\\u202e`): line ends, what a terminal would
    obey, what turns the direction of the text around it, what has no width, and halves of
    surrogate pairs, which no encoding takes.
    """
    if len(text) <= longest and text.isprintable():
        return text
    shown = "".join(map(_shown, text[: longest + 1]))
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _shown(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()
