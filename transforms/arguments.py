"""Keyword arguments that one class takes for another are written down once, at the class that uses them."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from medssl_monai.errors import ConfigError

Class = TypeVar("Class", bound=type)


def takes_arguments_of(other: Callable[..., Any], **defaults: Any) -> Callable[[Class], Class]:
    """Decorator for a class that passes its ``**keywords`` on to ``other``.

    The signature of the class lists the arguments of ``other`` by name, as ``help`` and ``inspect.signature`` show it.
    Calling the class with an argument that neither has raises a `ConfigError`.

    Args:
        other: what the keywords are passed to.
        defaults: arguments of ``other`` with another default in this class.
    """

    def decorate(cls: Class) -> Class:
        construct = cls.__init__  # type: ignore[misc]
        own = [p for p in inspect.signature(construct).parameters.values() if p.kind is not p.VAR_KEYWORD][1:]
        passed_on = [
            p.replace(kind=p.KEYWORD_ONLY, default=defaults.get(name, p.default))
            for name, p in inspect.signature(other).parameters.items()
            if name not in {p.name for p in own}
        ]
        signature = inspect.Signature([*own, *passed_on])

        @functools.wraps(construct)
        def checked(self: Any, *args: Any, **keywords: Any) -> None:
            for name in keywords:
                if name not in signature.parameters:
                    known = ", ".join(signature.parameters)
                    raise ConfigError(f"{cls.__name__}: there is no argument {name!r}; choose from {known}")
            construct(self, *args, **{**defaults, **keywords})

        cls.__init__ = checked  # type: ignore[misc]
        cls.__signature__ = signature  # type: ignore[attr-defined]
        return cls

    return decorate
