"""The base of all values that users hold: what every encoder, pickle and copy makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import msgspec


class AsIs:
    """Says to pydantic, in an annotation, that a value is handed on as it is: what it may be, this package checks."""

    def __get_pydantic_core_schema__(self, source: Any, handler: object) -> dict[str, Any]:
        return {"type": "is-instance", "cls": source} if isinstance(source, type) else {"type": "any"}

    def __get_pydantic_json_schema__(self, core_schema: object, handler: object) -> dict[str, Any]:
        return {}


AS_IS = AsIs()


class Record(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The base of all values: encodable fields, and a place beside them for what is not encoded."""

    def with_extras(self, **values: object) -> Self:
        """The same record, with values that are reachable on it but never encoded or compared."""
        self.__dict__.update(values)
        return self

    def replace(self, **changes: Any) -> Self:
        """A copy with other fields. What is not encoded goes along."""
        return msgspec.structs.replace(self, **changes).with_extras(**self.__dict__)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain Python values, ready for any JSON encoder."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """The fields' names and plain values, so that ``dict(record)`` is ``to_dict()``: FastAPI asks for it."""
        return iter(self.to_dict().items())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> dict[str, Any]:
        """What pydantic does with a record: it takes one or what ``to_dict`` gave, and writes ``to_dict``."""
        return {
            "type": "function-plain",
            "function": {"type": "no-info", "function": cls._read},
            "serialization": {"type": "function-plain", "function": cls.to_dict},
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: object, handler: object) -> dict[str, Any]:
        (schema,), parts = msgspec.json.schema_components((cls,), ref_template="{name}")
        described: dict[str, Any] = _resolve(schema, parts)
        return described

    @classmethod
    def _read(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error

    def __copy__(self) -> Self:
        return self.replace()

    def __reduce__(self) -> tuple[Any, ...]:
        reduced: tuple[Any, ...] = super().__reduce__()  # type: ignore[assignment]
        return _rebuild, (reduced[0], reduced[1], dict(self.__dict__))


def _rebuild(build: Callable[..., Record], arguments: tuple[Any, ...], beside: dict[str, object]) -> Record:
    record = build(*arguments)
    record.__dict__.update(beside)
    return record


def _resolve(part: Any, parts: Mapping[str, Any]) -> Any:
    """A part of a JSON schema with what it refers to in place of the references: no record holds itself."""
    if isinstance(part, list):
        return [_resolve(one, parts) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _resolve(parts[part["$ref"]], parts)
    return {name: _resolve(one, parts) for name, one in part.items()}
