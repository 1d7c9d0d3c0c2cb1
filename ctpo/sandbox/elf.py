"""Reads from an ELF file which loader and which shared libraries it asks for (System V ABI, ch. 4, 5)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ = 0, 1, 5, 10


class Dependencies(NamedTuple):
    loader: str | None
    libraries: tuple[str, ...]


class _Segment(NamedTuple):
    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    size: int
    memory_size: int
    alignment: int


def dependencies(path: Path) -> Dependencies:
    """The program interpreter and the DT_NEEDED names of a 64-bit little-endian ELF file.

    Anything else (a script, a linker script, another word size) has neither.
    """
    with path.open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            return Dependencies(None, ())
        table, size, count = struct.unpack_from("<32xQ14xHH", header)
        segments = [_Segment(*struct.unpack("<IIQQQQQQ", _read(file, table + i * size, 56))) for i in range(count)]
        loader = next(
            (_read(file, s.offset, s.size).rstrip(b"\0").decode() for s in segments if s.kind == _PT_INTERP),
            None,
        )
        return Dependencies(loader, _needed(file, segments))


def _needed(file: BinaryIO, segments: list[_Segment]) -> tuple[str, ...]:
    dynamic = next((s for s in segments if s.kind == _PT_DYNAMIC), None)
    if dynamic is None:
        return ()
    names: list[int] = []
    values: dict[int, int] = {}
    for tag, value in struct.iter_unpack("<QQ", _read(file, dynamic.offset, dynamic.size // 16 * 16)):
        if tag == _DT_NULL:
            break
        if tag == _DT_NEEDED:
            names.append(value)
        values[tag] = value
    if not names:
        return ()
    start = values[_DT_STRTAB]
    home = next(s for s in segments if s.kind == _PT_LOAD and s.address <= start < s.address + s.size)
    strings = _read(file, home.offset + start - home.address, values[_DT_STRSZ])
    return tuple(strings[n : strings.index(b"\0", n)].decode() for n in names)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)
