"""A value that must not be seen by accident."""

from typing import NoReturn


class Secret:
    """Holds a secret text. Masked in repr, str, format and pickling; `reveal()` is the only way to the value.

    It is opened in two rooms only: `bursar.secrets` (to seal) and the outgoing header of an upstream request.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not serialised")
