"""What a request may be refused for, and the HTTP status of each error."""

from medssl_monai.errors import InputError, NoImagesError, StoreError


class UnknownImageError(InputError):
    """The server has no image of that name."""


class UnknownTaskError(InputError):
    """The server has no task of that name."""


class BusyError(InputError):
    """A training is running."""


class ChangedLabelError(InputError):
    """Another reader has changed a label since it was shown."""


_STATUS = {
    UnknownImageError: 404,
    UnknownTaskError: 404,
    ChangedLabelError: 409,
    StoreError: 409,
    NoImagesError: 422,
    BusyError: 429,
}


def http_status(error: Exception) -> int:
    """The status of an answer that says this error; 400 for most."""
    return next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 400)
