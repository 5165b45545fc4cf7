"""Words that a table, a tag or a file brings, to be read and not to be obeyed."""

import unicodedata

_ACTING = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def plain_text(text: object) -> str:
    r"""``str(text)`` with escapes in place of what acts on a terminal or hides in a line.

    These are control characters (Unicode's categories Cc, Cs, Zl, Zp) and those that change the direction of writing.
    All other characters stay. Markup of rich and mathematics of matplotlib stay too: whoever draws turns these off.

    Example:
        >>> plain_text("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _ACTING or unicodedata.bidirectional(character) in _TURNING
        else character
        for character in str(text)
    )
