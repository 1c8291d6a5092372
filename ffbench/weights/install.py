"""Bring weights into the weights folder: fetch or unpack, compare with the pins, then move into place."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from ffbench.download import download, refuse_offline, sha256_of, waiting_lock
from ffbench.errors import UserError
from ffbench.progress import note
from ffbench.weights.archive import read_manifest, untar, unzip
from ffbench.weights.pins import Entry, File, allow, expected, place, registry, trust, weights_dir

HUB = "https://huggingface.co/"


def from_network(entry: Entry) -> None:
    """Fetch those files of an entry that are missing or differ from their pin.

    Raises:
        UserError: as `download` and `unzip` do, once every address has failed.
    """
    incoming = weights_dir() / ".incoming" / entry.name
    with waiting_lock(incoming.with_name(f"{entry.name}.lock"), entry.name):
        wanted = [file for file in entry.files if not _good(entry, file)]
        if not wanted:
            note(f"{entry.name} is here")
            return
        refuse_offline(entry.name)
        if entry.archive:
            try:
                zipped, url = _fetch(entry, entry.archive, incoming)
            except UserError as error:
                if not all(addresses(entry, file) for file in wanted):
                    raise
                note(f"{error.what}; taking the files one by one")
            else:
                found = unzip(zipped, {file.name: file.bytes for file in wanted}, incoming / "files", entry.name)
                for file in wanted:
                    _install(entry, file, found[file.name], url)
                wanted = []
        for file in wanted:
            _install(entry, file, *_fetch(entry, file, incoming))
        shutil.rmtree(incoming)
        note(f"{entry.name} is here")


def from_archive(source: Path, entries: Collection[Entry], commercial_ok: bool) -> None:
    """Install from a tar that `pack` made whatever it holds of the entries; all of it is verified before any is moved.

    Raises:
        UserError: damaged or foreign archive, wrong hash, or nothing of the entries in it.
    """
    known = {f"{entry.name}/{file.name}": (entry, file) for entry in registry().values() for file in entry.files}
    names = {entry.name for entry in entries}
    incoming = weights_dir() / ".incoming"
    incoming.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="archive-", dir=incoming))
    try:
        paths = untar(source, {"manifest.json": 0} | {name: file.bytes for name, (_, file) in known.items()}, scratch)
        stated = read_manifest(source, paths)
        found = {name: path for name, path in paths.items() if name in known and known[name][0].name in names}
        if not found:
            raise UserError(f"{source} holds none of: {', '.join(sorted(names))}", "name others, or another archive")
        allow([known[name][0] for name in found], commercial_ok)
        for name, path in found.items():
            _compare(path, expected(*known[name]) or stated[name], f"{name} in {source}")
        for name, path in found.items():
            with waiting_lock(incoming / f"{known[name][0].name}.lock", name):
                _install(*known[name], path, str(source))
            note(f"{name} is here")
    finally:
        shutil.rmtree(scratch)


def addresses(entry: Entry, item: File) -> list[str]:
    """Where a file or archive is fetched from: the user's mirror alone, or else the published addresses."""
    mirror = os.environ.get(_mirror(entry))
    if mirror:
        return [f"{mirror.rstrip('/')}/{item.name}"]
    hub = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/") + "/"
    return [hub + url.removeprefix(HUB) if url.startswith(HUB) else url for url in item.urls]


def _fetch(entry: Entry, item: File, incoming: Path) -> tuple[Path, str]:
    """Try one address after another; the file, and the address it came from."""
    pin = item.sha256 if item is entry.archive else expected(entry, item)
    target = incoming / item.name
    *others, last = addresses(entry, item)
    for url in others:
        try:
            download(url, target, sha256=pin or None, bytes=item.bytes or None, label=item.name)
            return target, url
        except UserError as error:
            note(f"{error.what}; trying the next address")
    try:
        download(last, target, sha256=pin or None, bytes=item.bytes or None, label=item.name)
    except UserError as error:
        raise UserError(error.what, f"{error.fix}; own mirror: {_mirror(entry)}") from error
    return target, last


def _mirror(entry: Entry) -> str:
    return "FFBENCH_MIRROR_" + re.sub(r"\W", "_", entry.name).upper()


def _install(entry: Entry, file: File, path: Path, origin: str) -> None:
    pin = expected(entry, file)
    if pin:
        _compare(path, pin, f"{entry.name}/{file.name} from {origin}")
    else:
        trust(entry, file, path, origin)  # before the move: a kill in between leaves a pin, never an unpinned file
    place(entry, file).parent.mkdir(parents=True, exist_ok=True)
    path.replace(place(entry, file))


def _good(entry: Entry, file: File) -> bool:
    path, pin = place(entry, file), expected(entry, file)
    return path.is_file() and bool(pin) and sha256_of(path) == pin


def _compare(path: Path, pin: str, what: str) -> None:
    got = sha256_of(path)
    if got != pin:
        path.unlink()
        raise UserError(f"{what} has sha256 {got}, expected {pin}", "get it again or elsewhere; it was not installed")
