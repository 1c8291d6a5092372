"""Is a video file as long as it says, by the lengths that its own container carries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT, _CLUSTER, _BLOCK_GROUP = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0xA0
_BLOCKS = {0xA3, 0xA1}
_IMAGE, _EXTENSION, _TRAILER = 0x2C, 0x21, 0x3B


class _GapError(Exception):
    """Where the structure of the file stops making sense."""


def damage(path: Path) -> str | None:
    """Why a Matroska, WebM, GIF or fragmented MP4 file is not whole, or None where its structure has no gap.

    FFmpeg reads past a gap in these without a word, so the frames behind it would be missing in silence. Other
    containers pass: MP4 and AVI declare a frame count, which the reader compares. What carries no length cannot be
    seen to end early: MPEG-TS, a live WebM or a fragmented MP4 cut exactly between two of its pieces.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        file.seek(0)
        try:
            if head[:4] == _EBML.to_bytes(4, "big"):
                _walk_matroska(file, size)
            elif head[:3] == b"GIF":
                _walk_gif(file)
            elif head[4:8] in (b"ftyp", b"styp"):
                _walk_mp4(file, size)
        except _GapError as error:
            return f"{error} (at byte {file.tell()} of {size})"
    return None


def repeats(path: Path) -> int:
    """How many empty picture chunks, each a repeat of the frame before, an AVI holds up to its first gap.

    An AVI of variable rate declares these as frames; FFmpeg skips them. 0 for any other container.
    """
    found = 0
    with path.open("rb") as file:
        while len(head := file.read(12)) >= 8:
            kind, length = head[:4], int.from_bytes(head[4:8], "little")
            if kind in (b"RIFF", b"LIST") and head[8:] in (b"AVI ", b"AVIX", b"movi", b"rec "):
                continue
            found += length == 0 and kind[2:] in (b"dc", b"db")
            file.seek(length + length % 2 + 8 - len(head), 1)
        return found


def track_seconds(path: Path, track: int) -> float:
    """How long an MP4 says that a track is shown, its edits counted; 0 where it does not say."""
    with path.open("rb") as file:
        movie = [box for box in _boxes(file, 0, path.stat().st_size) if box[0] == b"moov"]
        inside = [box for _, start, end in movie for box in _boxes(file, start, end)]
        heads = [box for kind, start, end in inside if kind == b"trak" for box in _boxes(file, start, end)]
        scale, seconds = 0, 0.0
        for kind, start, end in inside + heads:
            file.seek(start)
            content = file.read(min(end - start, 40))
            wide = content[:1] == b"\1"  # version 1 has times of 64 bits
            if kind == b"mvhd":
                scale = int.from_bytes(content[20:24] if wide else content[12:16], "big")
            elif kind == b"tkhd" and int.from_bytes(content[20:24] if wide else content[12:16], "big") == track:
                seconds = int.from_bytes(content[28:36] if wide else content[20:24], "big") / scale if scale else 0.0
        return seconds


def _walk_matroska(file: BinaryIO, size: int) -> None:
    """RFC 9559: elements of a segment, clusters and block groups must tile the file without a gap."""
    end = size
    while file.tell() < end:
        element = _vint(file, keep_marker=True)
        length = _vint(file)
        start = file.tell()
        if element == _SEGMENT and length is not None:
            end = start + length
        if element in (_SEGMENT, _CLUSTER, _BLOCK_GROUP):
            continue
        if length is None or start + length > end:
            raise _GapError("the file is cut off or damaged")
        if element in _BLOCKS and not _vint(file):
            raise _GapError("the file is damaged")
        file.seek(start + length)


def _vint(file: BinaryIO, *, keep_marker: bool = False) -> int | None:
    """One variable-length integer of RFC 8794; None for the reserved "unknown"."""
    first = _read(file, 1)[0]
    width = 9 - first.bit_length()
    if width > 8:
        raise _GapError("the file is damaged")
    value = int.from_bytes(bytes([first]) + _read(file, width - 1), "big")
    if keep_marker:
        return value
    value -= 1 << (7 * width)
    return None if value == (1 << (7 * width)) - 1 else value


def _walk_gif(file: BinaryIO) -> None:
    """GIF89a: blocks must follow one another up to the trailer."""
    file.seek(10)
    _skip_colours(file, _read(file, 3)[0])
    while (kind := _read(file, 1)[0]) != _TRAILER:
        if kind == _IMAGE:
            _skip_colours(file, _read(file, 9)[8])
            _read(file, 1)  # LZW code size
        elif kind == _EXTENSION:
            _read(file, 1)  # its label
        else:
            raise _GapError("the file is damaged")
        while length := _read(file, 1)[0]:
            _read(file, length)


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        _read(file, 3 << ((flags & 7) + 1))


def _walk_mp4(file: BinaryIO, size: int) -> None:
    """ISO 14496-12: from the first movie fragment on, boxes must tile the file; before it the sample tables count."""
    fragmented = awaited = False
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(16)
        kind = head[4:8]
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:
            length = size - position  # "up to the end of the file", which a zeroed header says too
        fragmented |= kind == b"moof"
        awaited = kind == b"moof" or (awaited and kind != b"mdat")
        # a run without samples, or of no track, is what zeroed bytes leave
        empty = kind in (b"tfhd", b"trun") and head[12:] == bytes(4)
        if length < 8 or position + length > size or not kind.isalnum() or empty:
            if fragmented:
                raise _GapError("the file is cut off or damaged")
            return
        position += 8 if kind in (b"moof", b"traf") else length
    if awaited:  # a fragment's tables without its data
        raise _GapError("the file is cut off")


def _boxes(file: BinaryIO, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of content of the boxes from `position` on, up to the first that makes no sense."""
    while position < end:
        file.seek(position)
        head = file.read(16)
        kind, length, start = head[4:8], int.from_bytes(head[:4], "big"), position + 8
        if length == 1:
            length, start = int.from_bytes(head[8:16], "big"), position + 16
        elif length == 0:
            length = end - position  # "up to the end of the file", which a zeroed header says too
        position += length
        if position < start or position > end or not kind.isalnum():
            return
        yield kind, start, position


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise _GapError("the file is cut off")
    return data
