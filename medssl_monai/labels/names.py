"""Names of classes and of splits: which spellings mean the same, and which are refused."""

import unicodedata
from collections.abc import Iterable

from medssl_monai.errors import LabelError, suggestion

SPLITS = ("train", "validation", "test")
_SPELLINGS = {"training": "train", "val": "validation", "valid": "validation", "testing": "test"}
_MISSING = ("nan", "<na>")  # how pandas writes an empty cell as text


def split_named(text: str) -> str | None:
    """The split of that name, whatever its capitals; None if there is none.

    Example:
        >>> split_named("Valid"), split_named("TRAINING"), split_named("dev")
        ('validation', 'train', None)
    """
    name = text.strip().casefold()
    name = _SPELLINGS.get(name, name)
    return name if name in SPLITS else None


def checked_split(text: str) -> str:
    """The split of that name, see `split_named`.

    Raises:
        LabelError: there is none.
    """
    split = split_named(text)
    if split is None:
        raise LabelError(f"split {text!r}: must be one of {', '.join(SPLITS)}{split_suggestion(text)}; correct it")
    return split


def split_suggestion(text: str) -> str:
    """See `errors.suggestion`, of all spellings of splits."""
    return suggestion(text.strip().casefold(), (*SPLITS, *_SPELLINGS))


def class_named(text: str) -> str:
    """The name in Unicode's composed form (NFC), in which equal names have equal characters.

    Archives made on a Mac decompose letters with accents, so that two names look equal and differ.
    """
    return unicodedata.normalize("NFC", text)


def is_missing(text: str) -> bool:
    """Whether a text is how pandas writes a missing value: ``nan`` or ``<NA>``, whatever the capitals."""
    return text.strip().casefold() in _MISSING


def check_class_name(name: str, where: str) -> None:
    """Refuse names that mean "missing", and those that MONAI's configurations, which hold them, do not read as text.

    Raises:
        LabelError: `name` is a missing value; it begins with ``$`` (it would be run as Python), ``@`` or ``%``, or
            holds ``#``.
    """
    if is_missing(name):
        raise LabelError(
            f"{where}: the class {name!r} is how pandas writes a missing value; fill in the class, delete the row, or "
            "give a class that is really called so another name"
        )
    if name.startswith(("$", "@", "%")) or "#" in name:
        raise LabelError(
            f"{where}: the class {name!r} must not begin with $, @ or % or contain #, which MONAI's configurations "
            "read as commands and references; rename it"
        )


def two_forms(spellings: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each class that is spelt in more than one Unicode form."""
    forms: dict[str, set[str]] = {}
    for spelling in spellings:
        forms.setdefault(class_named(spelling), set()).add(spelling)
    return tuple(
        f"the class {name!r} is written in {len(found)} Unicode forms (composed and decomposed); they are one class"
        for name, found in sorted(forms.items())
        if len(found) > 1
    )
