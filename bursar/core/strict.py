"""Reads plain data (YAML, JSON, environment) into a struct tree and reports ALL faults, each with its path.

`msgspec.convert` stops at the first fault and ignores unknown keys unless told otherwise; an operator wants the whole
list in one run, and "did you mean". Used for `bursar.yaml` and for the bodies of the admin API. Not for hot paths.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T", bound=msgspec.Struct)


class Fault(msgspec.Struct, frozen=True):
    """One thing wrong in the input. `word` is stable; `hint` says what to write instead."""

    path: str  # "providers.openai.base_url", "limits[2].unit"; "" = the whole input
    word: str  # unknown_key | missing | wrong_kind | bad_value | unreadable
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.path}: {self.message}" if self.path else self.message
        return f"{text} ({self.hint})" if self.hint else text


class Faults(Exception):
    """Everything that is wrong with one input, in the order in which it was found."""

    of = "the configuration has"  # what people are told before the number

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = list(faults)
        super().__init__("; ".join(map(str, self.faults)))


class EnvText(str):
    """A value from the environment: text that stands for a number, a truth value or a YAML/JSON flow list."""

    __slots__ = ()


def read(kind: type[T], data: object, flow: Callable[[str], object] | None = None) -> T:
    """Convert `data` to `kind`, or raise Faults naming everything that does not fit. `flow` reads an EnvText list."""
    value, faults = read_what_fits(kind, data, flow)
    if faults or value is None:
        raise Faults(faults)
    return value


def read_what_fits(
    kind: type[T], data: object, flow: Callable[[str], object] | None = None
) -> tuple[T | None, list[Fault]]:
    """Like `read`, but what does not fit is left out or left at its default: further rules can look at the rest.

    The value is None when a required field of `kind` itself is at fault.
    """
    faults: list[Fault] = []
    value = _Reader(faults, flow).value(_described(kind), data, "")
    return (None if value is _BAD else value), faults


@lru_cache(maxsize=64)  # thousands of documents are of a few kinds
def _described(kind: type) -> inspect.Type:
    return inspect.type_info(kind)


def suggest(word: str, known: Iterable[str]) -> str:
    """``did you mean `x`?``, or the short list of what is known, or nothing."""
    names = list(known)
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known: {', '.join(sorted(names))}" if 0 < len(names) <= 12 else ""


def join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


_BAD: Any = object()


class _Reader:
    """Walks the type and the data side by side. A fault leaves `_BAD` in its place: the walk goes on."""

    def __init__(self, faults: list[Fault], flow: Callable[[str], object] | None) -> None:
        self._faults = faults
        self._flow = flow

    def fault(self, path: str, word: str, message: str, hint: str = "") -> Any:
        self._faults.append(Fault(path, word, message, hint))
        return _BAD

    def struct(self, kind: inspect.StructType, data: object, path: str) -> Any:
        if not isinstance(data, Mapping):
            return self.fault(path, "wrong_kind", f"expected a mapping, got {_kind_name(data)}")
        fields = {field.encode_name: field for field in kind.fields}
        for key in data:
            if key not in fields:
                self.fault(join(path, str(key)), "unknown_key", "unknown key", suggest(str(key), fields))
        values: dict[str, Any] = {}
        for name, field in fields.items():
            if name in data:
                values[field.name] = self.value(field.type, data[name], join(path, name))
            elif field.required:
                values[field.name] = self.fault(join(path, name), "missing", "is required")
        if any(values.get(field.name) is _BAD for field in kind.fields if field.required):
            return _BAD
        return kind.cls(**{name: value for name, value in values.items() if value is not _BAD})

    def value(self, kind: inspect.Type, data: object, path: str) -> Any:
        if isinstance(data, EnvText) and isinstance(kind, _NESTED) and self._flow:
            data = self._flow(data)
        walk: _Walk = _WALKS.get(type(kind)) or _Reader.leaf
        return walk(self, kind, data, path)

    def union(self, kind: inspect.UnionType, data: object, path: str) -> Any:
        """Unions here are `X | None` only: null, or the one other type."""
        if data is None or (isinstance(data, EnvText) and data in {"", "null"}):
            return None
        others = [t for t in kind.types if not isinstance(t, inspect.NoneType)]
        return self.value(others[0], data, path)

    def sequence(self, kind: inspect.VarTupleType | inspect.ListType, data: object, path: str) -> Any:
        if not isinstance(data, list | tuple):
            return self.fault(path, "wrong_kind", f"expected a list, got {_kind_name(data)}")
        items = [self.value(kind.item_type, item, f"{path}[{index}]") for index, item in enumerate(data)]
        fitting = [item for item in items if item is not _BAD]
        return tuple(fitting) if isinstance(kind, inspect.VarTupleType) else fitting

    def mapping(self, kind: inspect.DictType, data: object, path: str) -> Any:
        if not isinstance(data, Mapping):
            return self.fault(path, "wrong_kind", f"expected a mapping, got {_kind_name(data)}")
        values = {}
        for key, item in data.items():
            if not isinstance(key, str):
                self.fault(join(path, str(key)), "wrong_kind", "the key must be text", f'write "{key}" in quotes')
                continue
            value = self.value(kind.value_type, item, join(path, key))
            if value is not _BAD:
                values[key] = value
        return values

    def literal(self, kind: inspect.LiteralType, data: object, path: str) -> Any:
        if data in kind.values:
            return str(data) if isinstance(data, str) else data
        return self.fault(path, "bad_value", f"{shown(data)} is not one of its values", _choices(data, kind.values))

    def metadata(self, kind: inspect.Metadata, data: object, path: str) -> Any:
        """`Annotated[X, Meta(extra={"parse": f})]`: `f` reads the text form, raising ValueError for the operator."""
        parse = (kind.extra or {}).get("parse")
        if parse is None:
            return self.value(kind.type, data, path)
        try:
            return parse(data)
        except ValueError as error:
            return self.fault(path, "bad_value", str(error))

    def anything(self, _kind: inspect.AnyType, data: object, _path: str) -> Any:
        """Read by somebody else."""
        return data

    def leaf(self, kind: inspect.Type, data: object, path: str) -> Any:
        target = _PLAIN[type(kind)]
        if target is str and isinstance(data, EnvText):
            return str(data)
        try:
            value: Any = msgspec.convert(data, target, strict=not isinstance(data, EnvText))
        except msgspec.ValidationError:
            return self.fault(path, "wrong_kind", f"expected {_NAMES[target]}, got {_kind_name(data)}")
        if problem := _out_of_bounds(kind, value):
            return self.fault(path, "bad_value", f"{shown(data)} {problem}")
        return value


_Walk = Callable[[_Reader, Any, object, str], Any]
_WALKS: dict[type[inspect.Type], _Walk] = {
    inspect.UnionType: _Reader.union,
    inspect.StructType: _Reader.struct,
    inspect.VarTupleType: _Reader.sequence,
    inspect.ListType: _Reader.sequence,
    inspect.DictType: _Reader.mapping,
    inspect.LiteralType: _Reader.literal,
    inspect.Metadata: _Reader.metadata,
    inspect.AnyType: _Reader.anything,
}
_NESTED = (inspect.StructType, inspect.VarTupleType, inspect.ListType, inspect.DictType)
_PLAIN: dict[type[inspect.Type], type] = {
    inspect.StrType: str,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.BoolType: bool,
}
_NAMES: dict[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _out_of_bounds(kind: inspect.Type, value: Any) -> str:
    """What a number's or text's declared bounds (`msgspec.Meta`) say against a value; "" if nothing."""
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        if kind.ge is not None and value < kind.ge:
            return f"is below {kind.ge}"
        if kind.le is not None and value > kind.le:
            return f"is above {kind.le}"
    if isinstance(kind, inspect.StrType):
        if kind.min_length and len(value) < kind.min_length:
            return "is too short"
        if kind.max_length is not None and len(value) > kind.max_length:
            return f"is longer than {kind.max_length} characters"
    return ""


def _kind_name(data: object) -> str:
    if data is None:
        return "nothing"
    if isinstance(data, Mapping):
        return "a mapping"
    if isinstance(data, list | tuple):
        return "a list"
    return shown(data)


def shown(data: object) -> str:
    """A value as the operator wrote it, cut short: a pasted key must not come back whole."""
    text = str(data)
    return f"`{text}`" if len(text) <= 24 else f"`{text[:8]}…`"


def _choices(data: object, values: Iterable[object]) -> str:
    names = [str(value) for value in values]
    close = difflib.get_close_matches(str(data).lower(), names, n=1, cutoff=0.6)
    listed = " | ".join(names)
    return f"did you mean `{close[0]}`? ({listed})" if close else f"one of {listed}"
