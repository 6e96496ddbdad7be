"""Turns instances into tables of plain values and back, for other processes and for the cache of headers.

One table for each type, one column for each field, as in a database: a value that others refer to is told once, and so
is a column that says the same in every row. What the types are made of is read from them, so that a new field needs no
change here. The source is left out: one file may be named in many ways.
"""

from __future__ import annotations

import types
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from itertools import chain, islice, repeat
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from medvl.dicom.instance import Instance, SeriesFacts, StudyFacts, located
from medvl.records import Frame, LookupTable, PixelLayout, Plane, Source, Traits, Window

Table = list[Any]  # of what JSON can hold: the number of rows, then the columns
_TYPES = (Instance, Frame, StudyFacts, SeriesFacts, Traits, Plane, Window, PixelLayout, LookupTable)  # referrers first
_OWNED = frozenset({Frame, Plane})  # by one other value each, told in the order of their owners
_LOCATED = frozenset({Instance, Frame})  # with a source, their first field
_SCALARS = frozenset({str, int, float, bool, types.NoneType})


def encode_instances(instances: Iterable[Instance]) -> list[Table]:
    """Turn instances into tables."""
    listed: _Listed = {type_: _List() for type_ in _TYPES}
    listed[Instance].values.extend(instances)
    return [_table_of(type_, listed) for type_ in _TYPES]


def decode_instances(tables: Sequence[Table]) -> Instances:
    """Turn tables back. Broken ones raise TypeError, ValueError or LookupError."""
    read: dict[type, list[Any]] = {}
    for type_, (count, *columns) in zip(reversed(_TYPES), reversed(tables), strict=True):
        make = _unfrozen(type_) if type_ in _LOCATED else type_
        read[type_] = list(map(make, *_full(type_, count, columns, read)))
        if len(read[type_]) != count:
            raise ValueError(f"{len(read[type_])} rows of {count}")
    return Instances(read[Instance])


class Instances:
    """Instances that were told in tables. Where they lie is said when they are taken."""

    def __init__(self, instances: Sequence[Any] = ()) -> None:
        """instances: not yet frozen; nor are their frames."""
        self._instances = instances

    def __len__(self) -> int:
        return len(self._instances)

    def take(self, index: int, source: Source) -> Instance:
        """Give an instance, which becomes what its type promises: whole and frozen."""
        instance = self._instances[index]
        if isinstance(instance, Instance):
            return located(instance, source)
        for frame in instance.frames:
            frame.source = source
            frame.__class__ = Frame
        instance.source = source
        instance.__class__ = Instance
        taken: Instance = instance
        return taken

    def told(self, index: int) -> Any:
        """Give what was told of an instance, which may lie nowhere yet."""
        return self._instances[index]


@cache
def _unfrozen(type_: type) -> type:
    """Make a twin of a frozen type that is not, and may turn into it: Python allows that for the same slots.

    A frozen dataclass sets each of its fields through `object.__setattr__`: 2.9 µs for a frame, its twin takes 0.4 µs.
    """
    return make_dataclass(type_.__name__, [each.name for each in fields(type_)], slots=True)


class _Kind(NamedTuple):
    """What the values of a field are."""

    shape: Literal["scalar", "bytes", "scalars", "value", "values"]
    of: type | None = None  # of a dataclass; told by the place in its table, or by how many are owned


@cache
def _kinds(type_: type) -> dict[str, _Kind]:
    """Tell what the fields of a type are, in their order and without the source."""
    hints = get_type_hints(type_)
    return {each.name: _kind(hints[each.name]) for each in fields(type_) if hints[each.name] is not Source}


def _kind(hint: Any) -> _Kind:
    """Raises TypeError for what cannot be told, ValueError for values of several kinds, which nothing tells apart."""
    if hint is bytes:
        return _Kind("bytes")
    if is_dataclass(hint):
        return _Kind("value", hint if isinstance(hint, type) else None)
    if hint in _SCALARS or get_origin(hint) is Literal:
        return _Kind("scalar")
    if get_origin(hint) not in (tuple, Union, types.UnionType):
        raise TypeError(f"{hint} cannot be told in JSON")
    is_tuple = get_origin(hint) is tuple
    parts = {part for part in get_args(hint) if part not in (Ellipsis, types.NoneType)}
    if parts <= _SCALARS:
        return _Kind("scalars" if is_tuple else "scalar")
    (part,) = parts
    kind = _kind(part)
    return _Kind("values", kind.of) if is_tuple else kind


# --- values → tables ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _List:
    """The values of one type, and where each is told."""

    values: list[Any] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)  # by the value's spelling, which tells 0.0 from -0.0
    met: dict[int, tuple[Any, int]] = field(default_factory=dict)  # by identity

    def place(self, value: Any) -> int:
        """Return where a value is told, telling it now if it never was."""
        if (known := self.met.get(id(value))) is not None:
            return known[1]
        place = self.places.setdefault(repr(value), len(self.values))
        if place == len(self.values):
            self.values.append(value)
        self.met[id(value)] = value, place  # held, so that no other can have its identity
        return place


_Listed = dict[type, _List]


def _table_of(type_: type, listed: _Listed) -> Table:
    values = listed[type_].values
    columns = [
        _encode([getattr(value, name) for value in values], kind, listed) for name, kind in _kinds(type_).items()
    ]
    return [len(values), *map(_shortened, columns)]


def _encode(column: list[Any], kind: _Kind, listed: _Listed) -> list[Any]:
    if kind.shape == "bytes":
        return [b64encode(value).decode() for value in column]
    if kind.of is None:
        return column  # JSON makes lists of tuples itself
    if kind.of in _OWNED:
        owned = [values if kind.shape == "values" else [values] * (values is not None) for values in column]
        listed[kind.of].values.extend(chain.from_iterable(owned))
        return list(map(len, owned))
    place = listed[kind.of].place
    if kind.shape == "value":
        return [None if value is None else place(value) for value in column]
    return [list(map(place, values)) for values in column]


def _shortened(column: list[Any]) -> list[Any]:
    """Let one value stand for all where they are the same to the last bit."""
    first = column[:1]
    alike = len(set(map(id, column))) == 1 or (
        column == first * len(column) and len(set(map(repr, column))) == 1  # spelling tells 0.0 from -0.0
    )
    return first if alike else column


# --- tables → values ---------------------------------------------------------------------------------------------


def _full(
    type_: type, count: int, columns: Sequence[list[Any]], read: dict[type, list[Any]]
) -> Iterator[Iterable[Any]]:
    """Yield the columns of a type as long as its table; nothing for a source."""
    if type_ in _LOCATED:
        yield repeat(None, count)
    for column, kind in zip(columns, _kinds(type_).values(), strict=True):
        if kind.of in _OWNED:
            values = _dealt(column * count if len(column) == 1 else column, kind, read[kind.of])
        else:
            values = _decode(column, kind, read)
        if len(values) != count and len(values) != 1:
            raise ValueError(f"{len(values)} values for {count} rows")
        yield repeat(values[0], count) if len(values) == 1 else values


def _dealt(counts: list[int], kind: _Kind, owned: list[Any]) -> list[Any]:
    """Give each row as many values as it owns."""
    if sum(counts) != len(owned):
        raise ValueError(f"{len(owned)} values of {sum(counts)}")
    rest = iter(owned)
    if kind.shape == "values":
        return [tuple(islice(rest, count)) for count in counts]
    return [next(rest, None) if count else None for count in counts]


def _decode(column: list[Any], kind: _Kind, read: dict[type, list[Any]]) -> list[Any]:
    if kind.shape == "scalar":
        return column
    if kind.shape == "scalars":
        return [None if values is None else tuple(values) for values in column]
    if kind.of is None:
        return [b64decode(value) for value in column]
    known = read[kind.of]
    if kind.shape == "value":
        return [None if place is None else known[place] for place in column]
    return [tuple([known[place] for place in places]) for places in column]
