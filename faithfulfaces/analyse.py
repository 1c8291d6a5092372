"""`faithfulfaces analyse`: an aligner and shards in, Figures 6, 7 and 10 out, as pictures, JSON and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.aligner import PoseSharedIdentityAligner
from faithfulfaces.analysis import (
    Faces,
    IdentityMap,
    choose_faces,
    identity_features,
    look_at_dictionary,
    loss_curve,
    map_identities,
    read_faces,
)
from faithfulfaces.data import Crop, Crops
from faithfulfaces.dictionary import GROUPS, pose_groups
from faithfulfaces.log import read_log
from faithfulfaces.looks import Analysis, Options, write
from faithfulfaces.runs import open_aligner
from faithfulfaces.shards import ShardClips
from ffbench.errors import UserError

EXAMPLES = 3
"""Faces of each pose group in the picture of the dictionary."""
STRANGERS = "test_*.npz"
"""Footage of `faithfulfaces mini build` that shows people whom nothing was trained on."""


def analyse(folder: Path, shards: Path, out: Path, options: Options) -> Analysis:
    """Look into the aligner of a run or checkpoint with faces, and write what is seen to a folder.

    Shards of people that it was not trained on show what it learned; of others, what it remembers.

    Args:
        folder: of the run or checkpoint.
        shards: folder of shards, or the footage of a mini world, whose `test` people are taken.
        out: made where it is not there.
        options: how much is looked at.

    Raises:
        UserError: a folder that holds no aligner or no shards.
    """
    trained = open_aligner(folder)
    size = trained.aligner.config.image_size
    blocks = sorted(shards.glob(STRANGERS))
    clips = _footage(blocks, size) if blocks else ShardClips(shards, size)
    faces = read_faces(trained.aligner, clips, options.faces, options.seed)
    missing: dict[str, str] = {}
    dictionary = look_at_dictionary(faces, trained.aligner.config.elements, options.permutations, options.seed)
    if not dictionary.table:
        missing["dictionary"] = f"none of {dictionary.faces} faces belongs to a pose group"
    identities = _identities(trained.aligner, clips, faces, options, missing)
    loss = None
    if trained.log is None:
        missing["loss"] = f"there is no log.jsonl in {folder}"
    else:
        loss = loss_curve(read_log(trained.log))
    made = Analysis(str(trained.source), options, dictionary, tuple(identities), loss, missing)
    write(made, _examples(clips, faces, options.seed), out)
    return made


class _People:
    """Crops by person, each person one clip."""

    def __init__(self, crops: Mapping[str, Sequence[Crop]]) -> None:
        self.identities = list(crops)
        self._crops = list(crops.values())
        self.num_crops = [len(one) for one in self._crops]

    def crop(self, clip: int, index: int) -> Crop:
        """One crop."""
        return self._crops[clip][index]


def _footage(blocks: Sequence[Path], size: int) -> Crops:
    """Every shown frame of the people of some blocks of footage."""
    # the renderer and its people are not needed for shards
    from faithfulfaces.mini.figures import face_crops
    from faithfulfaces.mini.footage import Footage

    people: dict[str, list[Crop]] = {}
    for path in blocks:
        try:
            footage = Footage.load(path)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} cannot be read: {error}", "faithfulfaces mini build renders it anew") from error
        for crop, row in zip(*face_crops(footage, size), strict=True):
            people.setdefault(f"{footage.seeds[row]}", []).append(crop)
    return _People(people)


def _identities(
    aligner: PoseSharedIdentityAligner, clips: Crops, faces: Faces, options: Options, missing: dict[str, str]
) -> list[IdentityMap]:
    try:
        rows = choose_faces(faces, options.people, options.poses, options.seed)
    except UserError as error:
        missing["identities"] = f"{error.what}: {error.fix}"
        return []
    crops = [clips.crop(*faces.places[row]) for row in rows]
    return map_identities(faces, rows, identity_features(aligner, crops))


def _examples(clips: Crops, faces: Faces, seed: int) -> dict[str, list[NDArray[np.uint8]]]:
    groups_N = pose_groups(faces.euler_N3)
    order = np.random.default_rng((seed, 8)).permutation(len(groups_N))
    rows_of = {name: order[groups_N[order] == i].tolist() for i, name in enumerate(GROUPS)}
    count = min([EXAMPLES, *(len(rows) for rows in rows_of.values() if rows)])
    return {
        name: [clips.crop(*faces.places[row]).rgb for row in rows[:count]] for name, rows in rows_of.items() if rows
    }
