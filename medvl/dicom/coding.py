"""Turns instances into lists of plain values and back, for other processes and for the cache of headers.

What they are made of is read from their types, so that a new field needs no change here. The source is left out: one
file may be named in many ways. Facts that instances have in common are told once.
"""

from __future__ import annotations

import types
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from operator import attrgetter
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from medvl.dicom.instance import Instance, SeriesFacts, StudyFacts
from medvl.records import Frame, LookupTable, PixelLayout, Plane, Source, Traits, Window

Row = list[Any]  # of what JSON can hold
_TOLD_IN_PLACE = frozenset({Instance, Frame, Plane})  # since each is seldom like another
_COMMON = {type_.__name__: type_ for type_ in (StudyFacts, SeriesFacts, PixelLayout, LookupTable, Traits, Window)}
_SCALARS = frozenset({str, int, float, bool, types.NoneType})


@dataclass(slots=True)
class Common:
    """The facts that instances have in common, each once; what a fact refers to comes before it."""

    rows: list[Row] = field(default_factory=list)  # the name of the type, then its fields
    values: list[Any] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)  # by the row's spelling, which tells 0.0 from -0.0
    met: dict[int, tuple[Any, int]] = field(default_factory=dict)  # the same values and their places, by identity

    def place(self, value: Any) -> int:
        """Return where a fact is told, telling it now if it never was."""
        if (known := self.met.get(id(value))) is not None:
            return known[1]
        row = [type(value).__name__, *_encoder(value.__class__)(value, self)]
        place = self.places.setdefault(repr(row), len(self.rows))
        if place == len(self.rows):
            self.rows.append(row)
            self.values.append(value)
        self.met[id(value)] = value, place  # held, so that no other can have its identity
        return place


def read_common(rows: Iterable[Row]) -> Common:
    """Read facts back from their rows. Broken ones raise TypeError, ValueError or LookupError."""
    common = Common()
    for row in rows:
        value = _decoder(_COMMON[row[0]])(row[1:], _Place(common.values, None))
        common.places[repr(row)] = len(common.rows)
        common.rows.append(row)
        common.values.append(value)
    return common


def encode_instance(instance: Instance, common: Common) -> Row:
    """Turn an instance into a row, telling `common` what others may have, too."""
    row: Row = _encoder(Instance)(instance, common)
    return row


def decode_instance(row: Row, source: Source, common: Common) -> Instance:
    """Turn a row back. source: where the instance lies. Broken rows raise TypeError, ValueError or LookupError."""
    instance: Instance = _decoder(Instance)(row, _Place(common.values, source))
    return instance


@dataclass(frozen=True, slots=True)
class _Place:
    """What a row alone does not tell."""

    values: list[Any]
    source: Source | None


_Encode = Callable[[Any, Common], Any]
_Decode = Callable[[Any, _Place], Any]


@cache
def _encoder(type_: type) -> _Encode:
    """Make what turns a dataclass into the list of its fields."""
    converters = _by_index(type_, _encode_as)
    get = attrgetter(*(each.name for each in fields(type_)))

    def encode(value: Any, common: Common) -> Row:
        row = list(get(value))
        for index, convert in converters:
            if row[index] is not None:
                row[index] = convert(row[index], common)
        return row

    return encode


def _encode_as(hint: Any) -> _Encode | None:
    """Choose how values of a type are encoded. None: as they are; JSON makes lists of tuples itself."""
    if hint is Source:
        return lambda _value, _common: None
    if hint is bytes:
        return lambda value, _common: b64encode(value).decode()
    if is_dataclass(hint):
        return _encoder(hint) if hint in _TOLD_IN_PLACE else lambda value, common: common.place(value)
    part = _part_of(hint)
    if part is None or (convert := _encode_as(part)) is None:
        return None
    return convert if _is_optional(hint) else lambda values, common: [convert(value, common) for value in values]


@cache
def _decoder(type_: type) -> _Decode:
    """Make what turns such a list back into the dataclass."""
    converters = _by_index(type_, _decode_as)
    source_at = next((at for at, hint in enumerate(get_type_hints(type_).values()) if hint is Source), None)

    def decode(row: Sequence[Any], place: _Place) -> Any:
        values = list(row)
        for index, convert in converters:
            if values[index] is not None:
                values[index] = convert(values[index], place)
        if source_at is not None:
            values[source_at] = place.source
        return type_(*values)

    return decode


def _decode_as(hint: Any) -> _Decode | None:
    """Choose how values of a type are decoded. None: as they are."""
    if hint is bytes:
        return lambda text, _place: b64decode(text)
    if is_dataclass(hint) and hint is not Source:
        return _decoder(hint) if hint in _TOLD_IN_PLACE else lambda index, place: place.values[index]
    part = _part_of(hint)
    if part is None:
        return None
    convert = _decode_as(part)
    if _is_optional(hint):
        return convert
    if convert is None:
        return lambda values, _place: tuple(values)
    return lambda values, place: tuple([convert(value, place) for value in values])


def _by_index(type_: type, choose: Callable[[Any], Any]) -> list[tuple[int, Any]]:
    hints = get_type_hints(type_)
    chosen = [(index, choose(hints[each.name])) for index, each in enumerate(fields(type_))]
    return [(index, convert) for index, convert in chosen if convert is not None]


def _part_of(hint: Any) -> Any:
    """Return what a tuple or an optional value is made of; None for scalars. Raises TypeError for anything else."""
    if hint is Source or hint in _SCALARS or get_origin(hint) is Literal:
        return None
    if get_origin(hint) not in (tuple, Union, types.UnionType):
        raise TypeError(f"{hint} cannot be told in JSON")
    parts = {part for part in get_args(hint) if part not in (Ellipsis, types.NoneType)}
    if parts <= _SCALARS:
        return str if get_origin(hint) is tuple else None  # any scalar: all are told as they are
    (part,) = parts  # a ValueError here: of several kinds, which nothing tells apart
    return part


def _is_optional(hint: Any) -> bool:
    return get_origin(hint) is not tuple
