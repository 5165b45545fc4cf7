"""The exceptions of this package.

    MedSSLError
    ├── InputError                 the input is wrong; the command line exits with 1
    │   ├── NoImagesError          a source has no image of the wanted modality
    │   ├── StoreError             a slice store is missing, broken, or of another schema version
    │   ├── GeometryError          positions or orientations contradict each other
    │   ├── NotHounsfieldError     intensities are not Hounsfield units
    │   ├── LabelError             a label table does not fit its images
    │   │   └── ContradictionError   one image has two labels, or a patient is in two splits
    │   ├── CheckpointError        weights do not belong to the network they are given to
    │   └── ConfigError            a configuration names something that does not exist
    └── DivergedError              a loss stopped being finite; the last good checkpoint is kept

Every message names the thing, the rule it broke, the value found, and the remedy.
"""

from collections.abc import Iterable
from difflib import get_close_matches

TRACEBACK = "MEDSSL_TRACEBACK"
"""Environment variable that makes the command line show the traceback of an error."""


class MedSSLError(Exception):
    """Base of all exceptions that this package raises deliberately."""


class InputError(MedSSLError, ValueError):
    """The input is wrong, not the program."""


class NoImagesError(InputError):
    """A source holds no image of the wanted kind."""


class StoreError(InputError):
    """A slice store is missing, incomplete, or written with another schema version."""


class BusyStoreError(StoreError):
    """Another run is writing to a slice store."""


class GeometryError(InputError):
    """Image positions or orientations contradict each other."""


class NotHounsfieldError(InputError):
    """Intensities are not Hounsfield units, which are required."""


class LabelError(InputError):
    """A label table does not fit its images."""


class ContradictionError(LabelError):
    """Labels contradict one another: one image has two labels, or a patient or series is in two splits."""


class CheckpointError(InputError):
    """Weights do not belong to the network they are loaded into."""


class ConfigError(InputError):
    """A configuration names a key, preset or file that does not exist."""


class DivergedError(MedSSLError):
    """A training loss is no longer finite."""


def suggestion(found: object, known: Iterable[str]) -> str:
    """``" (did you mean 'max_epochs'?)"`` for a word close to a known one, else nothing: a part of an error message."""
    close = get_close_matches(str(found), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
