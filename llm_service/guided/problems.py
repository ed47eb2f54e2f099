"""What is wrong with a grammar, told without a word of it.

The library's own messages quote the grammar, which is the user's. They are recognised by their fixed parts,
and tests hold these to the library at hand.
"""

from __future__ import annotations

import re

_COSTLY = "takes too much work; simplify it"
NEVER = "nothing can ever match it"

# The first that is found in the library's message, and what it means.
_MEANINGS = (
    ("Unsatisfiable schema", NEVER),
    ("are not disjoint", "has patternProperties that may overlap; they must not"),
    ("oneOf constraints", "has a oneOf whose branches may overlap; use anyOf"),
    ("Unknown format", "names a string format that is not supported"),
    ("not present in a registry", "refers to another document; it must be complete in itself"),
    ("lookarounds not supported", "holds an anchor or word boundary that is not at its ends"),
    ("look-around", "holds a look-around; they are not supported"),
    ("backreferences", "holds a back-reference; they are not supported"),
    ("too large", _COSTLY),
    ("fuel", _COSTLY),
    ("Unable to determine if regex is empty", _COSTLY),
    ("regex parse error", "holds a malformed regular expression"),
)

_UNSUPPORTED = re.compile(r"Unimplemented keys: \[([^\]\n]*)\]")
# Only these may be named: whatever else stands in the message may be the user's own.
_KEYWORDS = (
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
)


def schema_problem(message: str) -> str:
    """What the library's message says about a JSON schema."""
    if found := _UNSUPPORTED.search(message):
        named = [keyword for keyword in _KEYWORDS if f'"{keyword}"' in found[1]]
        return (
            f"uses keywords that are not supported: {', '.join(named)}" if named else "uses unknown keywords"
        )
    return _meaning(message) or "is not a JSON schema, or not one that is supported"


def regex_problem(message: str) -> str:
    """What the library's message says about a regular expression."""
    return _meaning(message) or "is not a regular expression, or not one that is supported"


def probe_problem(message: str) -> str:
    """What a first step has shown by the library's message; there is none where no token is possible."""
    return _COSTLY if message and "NoExtension" not in message else NEVER


def _meaning(message: str) -> str | None:
    return next((meaning for part, meaning in _MEANINGS if part in message), None)
