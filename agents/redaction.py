# SPDX-License-Identifier: Apache-2.0
"""Takes secrets out of texts and documents before they leave a machine: what is called a secret,
what looks like one, and what is known to be one. In doubt it is taken out: a file that tells a
little less harms nobody.

Pure, except that a path which exists is kept where a secret is expected: it is the name of a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

REMOVED = "(removed)"
#: Shorter words are words of everybody.
_SHORTEST = 6
_MOST_KNOWN = 5000
_WORDS = (
    r"pass(?:words?|wds?|phrases?)?\d?|pw|secrets?|tokens?|credentials?|cookies?|authz?|authorization"
    r"|bearer|sas[_-]?url|sig(?:nature)?|(?:access|api|private|session|secret|account|encryption)"
    r"[_-]?key(?:[_-]?id)?"
)
#: The name of something secret: its last words say so.
_NAME = re.compile(rf"(?:^|[^a-z]|(?<=[a-z])(?=[A-Z]))(?:{_WORDS})$", re.IGNORECASE)
#: Everything in there: a program's environment may hold anything.
_ENVIRONMENT = re.compile(r"^(?:env|environ|environment|extra_env)$", re.IGNORECASE)
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.DOTALL)
# Whatever may be long is bounded: a line of a log is anybody's, and must not cost its square.
_URL = re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^/\s@\"'<>]{1,4096}@", re.IGNORECASE)
_ADDRESS = re.compile(r"(?<![\w/:])[^/@:\s\"'=]{1,64}:[^/@\s\"']{1,256}@(?=[\w.-]+:)")
_HEADER = re.compile(
    r"(?<![\w-])((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z-]{0,40}(?:token|key))(\s{0,9}[:=,]\s{0,9})"
    r"[^\r\n\"']+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer|basic)(\s{1,9}|%20|\+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"({_WORDS})([\"']?\s{{0,9}}[=:]\s{{0,9}}[\"']?)([^\s\"'&,;|)\]}}]+)", re.IGNORECASE
)
_OPTION = re.compile(
    rf"((?<!\S)--?(?:[\w-]{{0,60}}-)?(?:{_WORDS}))(\s{{1,9}})([^\s-]\S*)", re.IGNORECASE
)
#: Tokens and keys that are known by their form: JWT, EOS, AWS, GitHub, keys of XRootD's sss.
_FORMS = re.compile(
    r"(?<![\w-])eyJ[\w-]{8,4096}\.[\w-]{1,8192}\.[\w-]{0,4096}|\bzteos64:[\w+/=-]+"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_\w{20,}|\bk:[0-9a-fA-F]{16,}"
)


class Redactor:
    """`known` are secrets themselves; the longest go first, so that none leaves a rest."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        # As they are, and as a URL and JSON have them.
        forms = {f for one in known for f in (one, quote(one, safe=""), json.dumps(one)[1:-1])}
        words = sorted((one for one in forms if len(one) >= _SHORTEST), key=len, reverse=True)
        found = "|".join(map(re.escape, words[:_MOST_KNOWN]))
        self._known = re.compile(found) if found else None

    def text(self, text: str) -> str:
        """Of whatever origin: a log, an error, a line of a mount table."""
        if self._known is not None:
            text = self._known.sub(REMOVED, text)
        text = _PEM.sub(REMOVED, text)
        text = _URL.sub(rf"\1{REMOVED}@", text)
        text = _ADDRESS.sub(f"{REMOVED}@", text)
        text = _HEADER.sub(rf"\1\2{REMOVED}", text)
        text = _BEARER.sub(rf"\1\2{REMOVED}", text)
        text = _FORMS.sub(REMOVED, text)
        text = _OPTION.sub(_assigned, text)
        return _ASSIGNED.sub(_assigned, text)

    def document(self, value: Any, name: str = "") -> Any:
        """What JSON and YAML hold: by the names of its keys, and each text by itself."""
        match value:
            case Mapping():
                everything = bool(_ENVIRONMENT.match(name))
                return {
                    self.text(str(key)): self.document(one, "secret" if everything else str(key))
                    for key, one in value.items()
                }
            case str():
                secret = _NAME.search(name) and not _is_file(value)
                return REMOVED if secret and value else self.text(value)
            case Sequence():
                return list(self._words(value, name))
            case bool():
                return value
            case int() | float():
                return REMOVED if _NAME.search(name) else value  # a password of digits
            case _:
                return value

    def _words(self, words: Sequence[Any], name: str) -> Iterable[Any]:
        """Where `--password` is one word of a command, the next one is it."""
        before: object = ""
        for word in words:
            option = isinstance(before, str) and before.startswith("-") and "=" not in before
            secret = option and _NAME.search(str(before))
            yield self.document(word, "secret" if secret else name)
            before = word


def secrets_in(value: Any, name: str = "") -> Iterable[str]:
    """What `document` takes out of a document because of its name: it may be elsewhere, too."""
    match value:
        case Mapping():
            everything = bool(_ENVIRONMENT.match(name))
            for key, one in value.items():
                yield from secrets_in(one, "secret" if everything else str(key))
        case str():
            if _NAME.search(name) and not _is_file(value):
                yield value
        case Sequence():
            for one in value:
                yield from secrets_in(one, name)


def _assigned(match: re.Match[str]) -> str:
    name, between, value = match.groups()
    kept = value.startswith(REMOVED[:-1]) or _is_file(value)
    return match[0] if kept else f"{name}{between}{REMOVED}"


def _is_file(value: str) -> bool:
    """The name of a file is no secret; a key may begin with a slash as well."""
    try:
        return value.startswith("/") and "\0" not in value and Path(value).exists()
    except OSError:
        return False
