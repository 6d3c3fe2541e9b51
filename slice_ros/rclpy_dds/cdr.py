"""XCDR1, the byte format of ROS 2 messages: one small codec per type, put together from one pair of functions per field.

Specification: OMG DDS-XTypes 1.3, section 7.4.1 (plain CDR, encoding version 1). A primitive is aligned to its own size, counted from the
first byte after the four-byte encapsulation header.
"""

from __future__ import annotations

import array
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype

Put = Callable[[bytearray, Any], None]
"""Appends one value to the body."""
Get = Callable[[bytes, int], tuple[Any, int]]
"""Reads one value of the body at a position; returns it and the position after it."""
Description = tuple[Any, Any]
"""A field's type as rosbags describes it: (Nodetype, detail)."""

LITTLE, BIG = b"\x00\x01\x00\x00", b"\x00\x00\x00\x00"
NATIVE = LITTLE if sys.byteorder == "little" else BIG
HEADER_SIZE = 4

FORMATS = {
    "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I",
    "int64": "q", "uint64": "Q", "float32": "f", "float64": "d", "bool": "?", "byte": "c",
}  # fmt: skip
"""Primitive name to the character that ``struct`` and ``array`` use for it."""
_PADDING = tuple(bytes(n) for n in range(8))


class DecodeError(ValueError):
    """Bytes that are not a message of the expected type."""


def is_numeric(primitive: str) -> bool:
    """True where rosidl keeps sequences as ``array.array`` and arrays as ``numpy.ndarray``; other elements are kept in lists."""
    return primitive in FORMATS and primitive not in ("bool", "byte")


class Codec:
    """Bytes of a message and back.

    Args:
        cls: the message class; instances have one attribute per field.
        fields: name and description of each field.
        codec_of: finds the codec of a nested type by its name.
    """

    def __init__(self, cls: type[Any], fields: Sequence[tuple[str, Description]], codec_of: Callable[[str], Codec]) -> None:
        self.cls = cls
        self._fields = fields
        self._codec_of = codec_of
        self._puts = [(name, _put(description, codec_of)) for name, description in fields]
        self._gets: dict[bytes, list[tuple[str, Get]]] = {}

    def encode(self, message: Any, prefix: bytes = b"") -> bytes:
        """The message with its encapsulation header, padded to four bytes.

        Args:
            message: an instance of the codec's class.
            prefix: bytes of the body before the message (a service's request header).

        Raises:
            TypeError: a field holds a value that its type cannot; the sentence names the field and the value.
        """
        body = bytearray(prefix)
        self.put(body, message)
        return b"".join((NATIVE, body, _PADDING[-len(body) % 4]))

    def decode(self, data: bytes, offset: int = 0) -> Any:
        """The message in ``data``, which begins with the encapsulation header; ``offset`` bytes of the body are skipped.

        Raises:
            DecodeError: the bytes end early, have another encapsulation or hold an impossible value.
        """
        header = data[:2] + b"\x00\x00"
        if header not in (LITTLE, BIG):
            raise DecodeError(f"encapsulation {data[:HEADER_SIZE].hex()} is not plain CDR (0000 or 0001)")
        try:
            return self.get(data[HEADER_SIZE:], offset, header)[0]
        except (struct.error, ValueError, IndexError) as error:
            raise DecodeError(f"{len(data)} bytes are no {self.cls.__name__}: {error}") from error

    def put(self, body: bytearray, message: Any) -> None:
        if not isinstance(message, self.cls):
            raise TypeError(f"{message!r} is a {type(message).__name__}; it must be a {self.cls.__name__}")
        for name, put in self._puts:
            try:
                put(body, getattr(message, name))
            except (struct.error, TypeError, ValueError, OverflowError, AttributeError) as error:
                raise TypeError(f"{self.cls.__name__}.{name}: {error}") from error

    def get(self, body: bytes, position: int, order: bytes) -> tuple[Any, int]:
        gets = self._gets.get(order)
        if gets is None:
            gets = self._gets[order] = [(name, _get(description, self._codec_of, order)) for name, description in self._fields]
        message: Any = object.__new__(self.cls)
        for name, get in gets:
            value, position = get(body, position)
            setattr(message, name, value)
        return message, position


def _put(description: Description, codec_of: Callable[[str], Codec]) -> Put:
    kind, detail = description
    if kind == Nodetype.NAME:
        return codec_of(detail).put
    if kind == Nodetype.BASE:
        name, bound = detail
        return _put_string(bound) if name == "string" else _put_primitive(name)
    (element, length) = detail
    is_array = kind == Nodetype.ARRAY
    numeric = element[0] == Nodetype.BASE and is_numeric(element[1][0])
    put_count, put_element = _put_primitive("uint32"), _put(element, codec_of)
    code = FORMATS[element[1][0]] if numeric else "B"
    dtype = np.dtype(code)

    def put(body: bytearray, values: Any) -> None:
        if isinstance(values, (str, bytes)) and not numeric:
            raise TypeError(f"{values!r} is not a sequence of elements")
        count = len(values)
        if (is_array and count != length) or (not is_array and length and count > length):
            raise ValueError(f"{count} elements; there must be {'' if is_array else 'at most '}{length}")
        if not is_array:
            put_count(body, count)
        if numeric and (
            (isinstance(values, array.array) and values.typecode == code) or (isinstance(values, np.ndarray) and values.dtype == dtype)
        ):
            if count:
                body += _PADDING[-len(body) % dtype.itemsize]
                body += values.tobytes()
        else:
            for value in values:
                put_element(body, value)

    return put


def _put_primitive(name: str) -> Put:
    packer = struct.Struct("=" + FORMATS[name])
    pack, size = packer.pack, packer.size

    def put(body: bytearray, value: Any) -> None:
        if size > 1:
            body += _PADDING[-len(body) % size]
        body += pack(value)

    def put_bool(body: bytearray, value: Any) -> None:
        if value is not True and value is not False:
            raise TypeError(f"{value!r} is not a bool")
        body.append(value)

    return put_bool if name == "bool" else put


def _put_string(bound: int) -> Put:
    pack = struct.Struct("=I").pack

    def put(body: bytearray, value: Any) -> None:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is not a str")
        text = value.encode()
        if bound and len(text) > bound:
            raise ValueError(f"{len(text)} bytes; there must be at most {bound}")
        body += _PADDING[-len(body) % 4]
        body += pack(len(text) + 1)
        body += text
        body.append(0)

    return put


def _get(description: Description, codec_of: Callable[[str], Codec], order: bytes) -> Get:
    kind, detail = description
    if kind == Nodetype.NAME:
        codec = codec_of(detail)
        return lambda body, position: codec.get(body, position, order)
    if kind == Nodetype.BASE:
        return _get_string(order) if detail[0] == "string" else _get_primitive(detail[0], order)
    element, length = detail
    get_count = _get_primitive("uint32", order)
    is_array = kind == Nodetype.ARRAY
    if element[0] == Nodetype.BASE and is_numeric(element[1][0]):
        return _get_numbers(element[1][0], length if is_array else None, get_count, order)
    get_element = _get(element, codec_of, order)

    def get(body: bytes, position: int) -> tuple[Any, int]:
        count = length
        if not is_array:
            count, position = get_count(body, position)
            if count > len(body) - position:  # every element takes a byte or more
                raise DecodeError(f"{count} elements announced, {len(body) - position} bytes left")
        values = []
        for _ in range(count):
            value, position = get_element(body, position)
            values.append(value)
        return values, position

    return get


def _get_numbers(name: str, length: int | None, get_count: Get, order: bytes) -> Get:
    """Numbers in one go: ``numpy.ndarray`` for an array of fixed length, ``array.array`` for a sequence (``length`` is ``None``)."""
    code = FORMATS[name]
    size = struct.calcsize("=" + code)
    swap = order != NATIVE

    def get(body: bytes, position: int) -> tuple[Any, int]:
        count = length
        if count is None:
            count, position = get_count(body, position)
        if count:
            position += -position % size
        end = position + count * size
        if end > len(body):
            raise DecodeError(f"{count} numbers of {size} bytes announced, {len(body) - position} bytes left")
        numbers = array.array(code, body[position:end])
        if swap:
            numbers.byteswap()
        return numbers if length is None else np.array(numbers), end

    return get


def _get_primitive(name: str, order: bytes) -> Get:
    unpacker = struct.Struct(("<" if order == LITTLE else ">") + FORMATS[name])
    unpack, size = unpacker.unpack_from, unpacker.size

    def get(body: bytes, position: int) -> tuple[Any, int]:
        if size > 1:
            position += -position % size
        return unpack(body, position)[0], position + size

    return get


def _get_string(order: bytes) -> Get:
    get_count = _get_primitive("uint32", order)

    def get(body: bytes, position: int) -> tuple[Any, int]:
        count, position = get_count(body, position)
        end = position + count
        if end > len(body):
            raise DecodeError(f"a string of {count} bytes announced, {len(body) - position} bytes left")
        return body[position : end - 1].decode(errors="replace") if count else "", end

    return get
