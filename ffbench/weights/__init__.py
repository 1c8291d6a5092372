"""Pinned weights: where they come from, whether they are here, whether they are what they should be.

    <weights dir>/<entry>/<file>
    <weights dir>/weights.lock.json     hashes trusted on first use, where the registry has none
    <weights dir>/.incoming/            unfinished downloads

Every file is hashed before its first use in a process and compared with its pin. Within a process a file whose size,
time and inode stay is not hashed again: whoever can rewrite a file and set its clock back can rewrite the lock as well.

Environment:
    FFBENCH_WEIGHTS             the folder
    FFBENCH_MIRROR_<ENTRY>      address of a folder that holds the entry's files, used instead of the published ones
    HF_ENDPOINT                 used instead of https://huggingface.co
    FFBENCH_OFFLINE, HF_HUB_OFFLINE
    FFBENCH_COMMERCIAL_OK       refuse weights that are for research only
    FFBENCH_WEIGHTS_REGISTRY    another registry file, such as one of internal mirrors
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ffbench.download import sha256_of
from ffbench.errors import UserError
from ffbench.weights import install
from ffbench.weights.archive import write_tar
from ffbench.weights.pins import Entry, File, allow, expected, place, registry, trust, weights_dir

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Entry",
    "EntryRow",
    "File",
    "FileRow",
    "Resolved",
    "list_rows",
    "load_state_dict",
    "pack",
    "pull",
    "registry",
    "resolve",
    "verify",
    "weights_dir",
]


class Resolved(NamedTuple):
    """A file of weights that is here and is what it should be."""

    path: Path
    sha256: str


class EntryRow(NamedTuple):
    """One line of `ffbench weights ls`."""

    name: str
    present: bool
    bytes: int
    sha256: str
    licence: str
    research_only: bool
    purpose: str
    files: tuple[str, ...]


class FileRow(NamedTuple):
    """One line of `ffbench weights verify`."""

    name: str
    status: str
    """`ok`, `missing`, `damaged`, or `recorded` where nobody published a hash and this one is trusted from now on."""
    expected: str
    got: str


def resolve(name: str, *, commercial_ok: bool = False) -> Resolved:
    """Path and sha256 of weights, verified.

    Args:
        name: `entry/file`, an entry of one file, or the absolute path of the user's own file.
        commercial_ok: refuse weights that are for research only.

    Raises:
        UserError: unknown name, not on this machine, no pin, damaged, or refused by its licence.
    """
    if Path(name).is_absolute():
        if not Path(name).is_file():
            raise UserError(f"there is no file {name}", "give the path of a file of weights")
        return Resolved(Path(name), _hash(Path(name)))
    entry, file = _find(name)
    allow([entry], commercial_ok)
    path = place(entry, file)
    if not path.is_file():
        raise UserError(f"weights {name} are not on this machine", f"ffbench weights pull {entry.name}   {entry.facts}")
    pin, got = expected(entry, file), _hash(path)
    if not pin:
        raise UserError(
            f"{path} was put there by hand, and nobody published its sha256",
            f"ffbench weights verify {entry.name}   (records {got[:12]}… and trusts it from then on)",
        )
    if got != pin:
        raise UserError(f"{path} is damaged: its sha256 is {got}, expected {pin}", f"ffbench weights pull {entry.name}")
    return Resolved(path, got)


def pull(names: Sequence[str] | None = None, *, commercial_ok: bool = False, source: Path | None = None) -> None:
    """Bring weights here: those that are missing or damaged are fetched, verified, then installed.

    Args:
        names: entries, or `entry/file` for the entry; all if None.
        commercial_ok: refuse weights that are for research only.
        source: take them from this archive of `pack` instead of the network.

    Raises:
        UserError: unknown name, refused by its licence, and whatever a download or an archive can end in.
    """
    entries = _entries(names)
    if source is not None:
        install.from_archive(source, entries, commercial_ok)
        return
    allow(entries, commercial_ok)
    for entry in entries:
        install.from_network(entry)


def verify(names: Sequence[str] | None = None) -> list[FileRow]:
    """Hash what is here, one row a file; records the hash of files without a pin, and says so on stderr."""
    rows = []
    for entry in _entries(names):
        for file in entry.files:
            path, pin, status, got = place(entry, file), expected(entry, file), "missing", ""
            if path.is_file():
                got = sha256_of(path) if pin else trust(entry, file, path, "put here by hand")
                status = "recorded" if not pin else "ok" if got == pin else "damaged"
            rows.append(FileRow(f"{entry.name}/{file.name}", status, pin, got))
    return rows


def pack(names: Sequence[str] | None, out: Path) -> None:
    """Write weights that are here into one tar for `pull(source=...)`; equal weights give equal bytes.

    Args:
        names: entries; None for all that are here.
        out: the tar file to write.

    Raises:
        UserError: an entry that was named is not here, or damaged; nothing is here at all.
    """
    entries = _entries(names)
    if names is None:
        entries = [entry for entry in entries if _present(entry)]
    if not entries:
        raise UserError(f"no weights are in {weights_dir()}", "ffbench weights pull NAME")
    members, facts = [], {}
    for entry in entries:
        for file in entry.files:
            name = f"{entry.name}/{file.name}"
            found = resolve(name)
            members.append((name, found.path))
            facts[name] = {"sha256": found.sha256, "bytes": found.path.stat().st_size}
    manifest = json.dumps({"format": 1, "files": facts}, indent=1, sort_keys=True) + "\n"
    write_tar(out, members, manifest.encode())


def list_rows() -> list[EntryRow]:
    """Every entry of the registry, and whether all its files are here (not hashed; see `verify`)."""
    return [
        EntryRow(
            entry.name,
            _present(entry),
            entry.bytes,
            entry.archive.sha256 if entry.archive else expected(entry, entry.files[0]),
            entry.licence,
            entry.research_only,
            entry.purpose,
            tuple(file.name for file in entry.files),
        )
        for entry in registry().values()
    ]


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, without ever running code that a file brings.

    Reads safetensors, and pickles of nothing but tensors (`weights_only`), bare or under `state_dict`.

    Raises:
        UserError: the file is missing, damaged, a TorchScript archive, or needs code to be read.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with warnings.catch_warnings(action="ignore"):  # what torch warns of here ends in an error or is no matter
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}", "give the path of a file of weights") from error
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path} holds no plain state dict ({type(error).__name__}: {first})",
            "give a .safetensors file, or a state dict saved without code in it",
        ) from error
    for key in ("state_dict", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{path} holds other things than tensors by name", "give a plain state dict")
    return {str(key): value for key, value in state.items()}


def _hash(path: Path) -> str:
    stat = path.stat()
    return _hash_once(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(maxsize=256)
def _hash_once(path: Path, *_: int) -> str:
    return sha256_of(path)


def _present(entry: Entry) -> bool:
    return all(place(entry, file).is_file() for file in entry.files)


def _find(name: str) -> tuple[Entry, File]:
    first, _, rest = name.partition("/")
    entry = _entries([first])[0]
    for file in entry.files:
        if rest == file.name or (not rest and len(entry.files) == 1):
            return entry, file
    choices = ", ".join(f"{first}/{file.name}" for file in entry.files)
    raise UserError(f"{name!r} names no file of weights", f"choose one of: {choices}")


def _entries(names: Sequence[str] | None) -> list[Entry]:
    known = registry()
    wanted = list(known) if names is None else list(dict.fromkeys(name.partition("/")[0] for name in names))
    for name in wanted:
        if name not in known:
            raise UserError(f"there are no weights {name!r}", f"choose from: {', '.join(known)}")
    return [known[name] for name in wanted]
