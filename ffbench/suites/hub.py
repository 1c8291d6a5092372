"""The suite `paper`: one photograph of each of the 30 people of ConsisID's evaluation, fetched, never redistributed.

The dataset's files are named `<running number>_<field>_<man|woman>_<Name>_<1..5>.png`; its authors leave out the
pictures called `normal_face` (PKU-YuanGroup/ConsisID, issue 37). They lie in a folder, or in `face_images.tar`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from ffbench.download import download, sha256_of
from ffbench.durable import write_atomic
from ffbench.errors import UserError
from ffbench.records import Reference, digest
from ffbench.suites.cases import Identity, cache_folder
from ffbench.suites.manifests import read_table

DATASET = "BestWishYsh/ConsisID-preview-Data"
PEOPLE = 30
SEED = 2025
"""Of the draw of one photograph a person; the paper does not say which it drew."""
FETCH = "ffbench suites fetch paper"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_NAME = re.compile(r"(?P<number>\d+)_(?P<person>[A-Za-z]+_(?:wo)?man_.+)_\d+")
_PAGE = 1000
_LARGEST = 64 << 20


class Remote(NamedTuple):
    """One photograph at the hub, or inside its archive."""

    path: str
    sha256: str
    """Empty where the hub does not say."""
    person: str
    number: int


def paper_identities() -> tuple[list[Identity], Mapping[str, Any]]:
    """The people and the manifest of the fetch; fetched first where that has not been done.

    Raises:
        UserError: cannot be fetched, or a file is not what the manifest says.
    """
    folder = paper_folder()
    path = folder / "manifest.json"
    if not path.is_file():
        fetch_paper()
    try:
        manifest = json.loads(path.read_text("utf-8"))
        people = [(row["identity_id"], folder / row["file"], row["sha256"]) for row in manifest["people"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error})", f"delete it, then: {FETCH}") from error
    for _, photograph, sha256 in people:
        if not photograph.is_file() or sha256_of(photograph) != sha256:
            raise UserError(f"{photograph} is gone or has changed since it was fetched", f"run again: {FETCH}")
    return [Identity(name, (Reference(str(file), sha256),)) for name, file, sha256 in people], manifest


def paper_folder() -> Path:
    """Where the photographs lie; may be copied to a machine without network."""
    return cache_folder() / "paper"


def fetch_paper() -> Path:
    """Fetch one photograph a person and write the manifest; returns its path. Also mends a damaged fetch.

    Raises:
        UserError: no network, another listing than expected, or damaged files.
    """
    folder = paper_folder()
    listing, commit = _listing(folder)
    archive = _archive(folder, listing, commit)
    found = [image for path, sha256 in (archive or listing).items() if (image := _image(path, sha256))]
    people = _people(found, folder / "people.csv")
    rows = []
    for position, person in enumerate(sorted(people, key=lambda name: (people[name][0].number, name)), 1):
        chosen = draw(people[person])
        name = f"id{position:02d}"
        target = folder / f"{name}{PurePosixPath(chosen.path).suffix.lower()}"
        if archive is None:
            url = f"{_endpoint()}/datasets/{DATASET}/resolve/{commit}/{quote(chosen.path)}"
            download(url, target, sha256=chosen.sha256 or None, label=f"photograph {position} of {len(people)}")
        else:
            write_atomic(target, _member(folder / "face_images.tar", chosen.path))
        facts = {"from": chosen.path, "of": len(people[person])}
        rows.append({"identity_id": name, "file": target.name, "sha256": sha256_of(target), **facts})
    manifest = {
        "dataset": DATASET,
        "endpoint": urlsplit(_endpoint()).hostname,
        "commit": commit,
        "licence": "CC-BY-4.0 as its card says; photographs of real people, for evaluation only",
        "seed": SEED,
        "digest": digest([[row["identity_id"], row["sha256"]] for row in rows], 8),
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "people": rows,
    }
    path = folder / "manifest.json"
    write_atomic(path, (json.dumps(manifest, indent=1) + "\n").encode())
    return path


def draw(images: Sequence[Remote]) -> Remote:
    """The photograph of one person: a hash of seed and person picks from the files in order of name and number."""
    ordered = sorted(images, key=lambda image: (image.number, image.path))
    pick = int(hashlib.sha256(f"{SEED}:{ordered[0].person}".encode()).hexdigest()[:8], 16)
    return ordered[pick % len(ordered)]


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _listing(folder: Path) -> tuple[dict[str, str], str]:
    """Path -> sha256 (or "") of the files under `eval`, and the archive at the root; and the commit they belong to."""
    root = f"{_endpoint()}/api/datasets/{DATASET}"
    try:
        info = _json(f"{root}/revision/main", folder / "revision.json")
        commit = str(info["sha"])
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise KeyError("sha")
        entries = _json(f"{root}/tree/{commit}/eval?recursive=true", folder / "listing.json")
        if len(entries) >= _PAGE:
            raise UserError(
                f"{DATASET} lists {len(entries)} files under eval, more than one page", "report this to ffbench"
            )
        if not any(_image(str(entry["path"]), "") for entry in entries):
            entries += _json(f"{root}/tree/{commit}", folder / "listing.json")
        files = [entry for entry in entries if entry["type"] == "file"]
        return {str(entry["path"]): str((entry.get("lfs") or {}).get("oid", "")) for entry in files}, commit
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{urlsplit(_endpoint()).hostname} lists {DATASET} in an unknown form ({error!r})",
            "check HF_ENDPOINT; or bring photographs of your own with --suite FOLDER",
        ) from error


def _json(url: str, target: Path) -> Any:
    try:
        download(url, target, label=f"listing of {DATASET}")
        return json.loads(target.read_text("utf-8"))
    except UserError as error:
        raise UserError(
            f"the photographs of suite paper are not on this machine, and cannot be listed: {error.what}",
            f"with network: {FETCH}; without: run it elsewhere and copy its folder to {paper_folder()}; "
            "HF_ENDPOINT names a mirror",
        ) from error
    except ValueError as error:
        raise UserError(f"{url} does not answer with JSON", "check HF_ENDPOINT") from error


def _image(path: str, sha256: str) -> Remote | None:
    """The photograph that a path names, or None; an unknown name has no person."""
    file = PurePosixPath(path)
    if file.suffix.lower() not in _SUFFIXES or "face_images" not in file.parts[:-1] or "normal_face" in path:
        return None
    match = _NAME.fullmatch(file.stem)
    return Remote(path, sha256, match["person"] if match else "", int(match["number"]) if match else 0)


def _archive(folder: Path, listing: Mapping[str, str], commit: str) -> dict[str, str] | None:
    """Members of the archive, fetched, where the photographs are not listed one by one."""
    packed = [path for path in listing if PurePosixPath(path).name == "face_images.tar"]
    if not packed or any(_image(path, "") for path in listing):
        return None
    target = folder / "face_images.tar"
    url = f"{_endpoint()}/datasets/{DATASET}/resolve/{commit}/{quote(packed[0])}"
    download(url, target, sha256=listing[packed[0]] or None, label="face_images.tar")
    try:
        with tarfile.open(target) as tar:
            return {member.name: "" for member in tar if member.isfile() and member.size <= _LARGEST}
    except tarfile.TarError as error:
        raise UserError(f"{target} is damaged: {error}", f"delete it, then: {FETCH}") from error


def _member(archive: Path, name: str) -> bytes:
    """One member's bytes; its name is never used as a path on this machine."""
    with tarfile.open(archive) as tar:
        stream = tar.extractfile(name)
        if stream is None:
            raise UserError(f"{archive} has no file {name}", f"delete it, then: {FETCH}")
        return stream.read(_LARGEST)


def _people(found: Sequence[Remote], table: Path) -> dict[str, list[Remote]]:
    """Photographs by person, by file name or by the table that a user corrected.

    Raises:
        UserError: not 30 people; the table is written for the user to correct.
    """
    if table.is_file():
        rows = read_table(table, ("path", "person"), ("path",))
        named = {row.values["path"]: row.values.get("person", "") for row in rows}
        found = [image._replace(person=named.get(image.path, "")) for image in found]
    people: dict[str, list[Remote]] = {}
    for image in found:
        if image.person:
            people.setdefault(image.person, []).append(image)
    if len(people) == PEOPLE:
        return people
    if not table.is_file():
        text = io.StringIO()
        csv.writer(text).writerows([("path", "person"), *((image.path, image.person) for image in found)])
        write_atomic(table, text.getvalue().encode())
    raise UserError(
        f"{DATASET} holds {len(people)} people in {len(found)} photographs by their file names, the paper has {PEOPLE}",
        f"correct the column person in {table} (empty leaves a photograph out), then: {FETCH}",
    )
