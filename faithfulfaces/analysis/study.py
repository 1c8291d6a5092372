"""An aligner and faces in, Figures 6, 7 and 10 out, as pictures, JSON and CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.aligner import PoseSharedIdentityAligner
from faithfulfaces.analysis.dictionary import GROUPS, pose_groups
from faithfulfaces.analysis.measure import (
    Faces,
    IdentityMap,
    choose_faces,
    identity_features,
    look_at_dictionary,
    loss_curve,
    map_identities,
    read_faces,
)
from faithfulfaces.analysis.report import Analysis, Options, write
from faithfulfaces.data import Crops
from faithfulfaces.runs import Trained
from faithfulfaces.training.log import LOG, read_log
from ffbench.errors import UserError

EXAMPLES = 3
"""Faces of each pose group in the picture of the dictionary."""


def study(trained: Trained, clips: Crops, out: Path, options: Options) -> Analysis:
    """Look into an aligner with faces, and write what is seen to a folder.

    Faces of people that it was not trained on show what it learned; of others, what it remembers.

    Args:
        trained: of a run or checkpoint.
        clips: crops of the aligner's size.
        out: made where it is not there.
        options: how much is looked at.
    """
    faces = read_faces(trained.aligner, clips, options.faces, options.seed)
    missing: dict[str, str] = {}
    dictionary = look_at_dictionary(faces, trained.aligner.config.elements, options.permutations, options.seed)
    if not dictionary.table:
        missing["dictionary"] = f"none of {dictionary.faces} faces belongs to a pose group"
    identities = _identities(trained.aligner, clips, faces, options, missing)
    loss = None
    if trained.log is None:
        missing["loss"] = f"there is no {LOG} of {trained.source}"
    else:
        loss = loss_curve(read_log(trained.log))
    made = Analysis(str(trained.source), options, dictionary, tuple(identities), loss, missing)
    write(made, _examples(clips, faces, options.seed), out)
    return made


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
