"""Looking into a trained aligner: Fig. 7 (dictionary by pose), Fig. 6 (t-SNE of S) and Fig. 10 (loss) as data.

Shapes: N faces, D width of S, K strongest elements kept of each face.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from faithfulfaces.aligner import PoseSharedIdentityAligner, pixels
from faithfulfaces.analysis.dictionary import (
    TOP,
    Dependence,
    GroupActivations,
    activations,
    dependence,
    pose_groups,
    set_dependence,
    shares,
)
from faithfulfaces.analysis.tsne import silhouette, squared_distances, tsne
from faithfulfaces.data import Crop, Crops, stack
from faithfulfaces.pipeline import without_euler
from ffbench.errors import UserError

BATCH = 64
SHOWN = 5
"""Elements of each pose group in the picture of the dictionary; the data hold ten."""
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class Faces(NamedTuple):
    """Faces as the aligner sees them."""

    identities: list[str]
    """N names; faces of one person carry the same."""
    euler_N3: Floats
    s_ND: Floats
    """S of unit length: L_PIA compares by cosine."""
    top_NK: Integers
    """Strongest dictionary elements, the strongest first."""
    places: list[tuple[int, int]]
    """Clip and crop of each face."""

    @property
    def people(self) -> Integers:
        """[N] number of each face's person, in the order of names."""
        return np.unique(np.array(self.identities), return_inverse=True)[1]


def encode(aligner: PoseSharedIdentityAligner, crops: Sequence[Crop]) -> tuple[Floats, Integers]:
    """S [N,D] of unit length and the strongest elements [N,K] of crops; K is `TOP`, or C where that is less."""
    s, top = [], []
    with torch.no_grad():
        for start in range(0, len(crops), BATCH):
            rgb, euler = stack(crops[start : start + BATCH])
            aligned = aligner(pixels(rgb), euler)
            s.append(torch.nn.functional.normalize(aligned.s_BD, dim=-1).numpy())
            top.append(aligned.w_BC.topk(min(TOP, aligned.w_BC.shape[1])).indices.numpy())
    return np.concatenate(s), np.concatenate(top)


def read_faces(aligner: PoseSharedIdentityAligner, clips: Crops, limit: int, seed: int = 0) -> Faces:
    """Every crop of every clip; with more than `limit` of them, those of clips drawn without repetition.

    Args:
        aligner: reads crops of its own size.
        clips: store of clips.
        limit: of faces.
        seed: of the draw.
    """
    chosen: list[tuple[int, int]] = []
    for clip in np.random.default_rng((seed, 6)).permutation(len(clips.identities)).tolist():
        if chosen and len(chosen) + clips.num_crops[clip] > limit:
            break
        chosen += [(clip, index) for index in range(clips.num_crops[clip])]
    chosen.sort()
    parts, angles = [], []
    # decoded in portions: a data set's crops together do not fit into memory
    for start in range(0, len(chosen), BATCH):
        crops = [clips.crop(*place) for place in chosen[start : start + BATCH]]
        angles += [crop.euler for crop in crops]
        parts.append(encode(aligner, crops))
    s_ND, top_NK = (np.concatenate([part[i] for part in parts]) for i in range(2))
    names = [clips.identities[clip] for clip, _ in chosen]
    return Faces(names, np.array(angles, np.float32), s_ND, top_NK, chosen)


@dataclass(frozen=True)
class DictionaryReport:
    """Fig. 7 as data."""

    elements: int
    """C."""
    faces: int
    ungrouped: int
    """Faces of no pose group: between the thresholds, or turned about two axes."""
    groups: tuple[GroupActivations, ...]
    winner_and_pose: Dependence
    top_and_pose: Dependence
    """The same of the `TOP` strongest, bits summed over elements."""
    columns: tuple[int, ...]
    """Elements of the picture: the `SHOWN` most particular ones of each group that has faces, group by group."""
    table: dict[str, list[float]]
    """Group -> share of its faces that activate each of `columns`."""


def look_at_dictionary(faces: Faces, elements: int, permutations: int = 999, seed: int = 0) -> DictionaryReport:
    """Which elements the five pose groups activate, and whether the strongest element knows the pose."""
    groups_N = pose_groups(faces.euler_N3)
    shares_GC = shares(faces.top_NK, groups_N, elements)
    groups = activations(shares_GC, groups_N, faces.people)
    columns = [one.element for group in groups for one in (group.particular or group.elements)[:SHOWN]]
    return DictionaryReport(
        elements,
        len(groups_N),
        int((groups_N < 0).sum()),
        tuple(groups),
        dependence(faces.top_NK[:, 0], groups_N, faces.people, permutations, seed),
        set_dependence(faces.top_NK, groups_N, faces.people, permutations, seed),
        tuple(columns),
        {group.group: shares_GC[i, columns].tolist() for i, group in enumerate(groups) if group.faces},
    )


@dataclass(frozen=True)
class Point:
    """A face in the plane."""

    identity: str
    pitch: float
    yaw: float
    roll: float
    x: float
    y: float


@dataclass(frozen=True)
class IdentityMap:
    """One panel of Fig. 6."""

    of: str
    silhouette: float
    """Of identities, by cosine distance of what is drawn, before it is brought into the plane."""
    silhouette_in_plane: float
    """The same of the drawn points, by Euclidean distance: flattered or harmed by t-SNE."""
    divergence: float
    """What t-SNE left, nats."""
    points: tuple[Point, ...]


def choose_faces(faces: Faces, people: int = 7, poses: int = 8, seed: int = 0) -> list[int]:
    """Rows of some people's faces, evenly spread over each one's order of yaw; 7 and 8 as in Fig. 6.

    Raises:
        UserError: when fewer than two people have so many faces.
    """
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(faces.identities):
        rows_of.setdefault(name, []).append(row)
    able = sorted(name for name, rows in rows_of.items() if len(rows) >= poses)
    if len(able) < 2:
        raise UserError(
            f"{len(able)} of {len(rows_of)} people have {poses} faces, and the map of identities needs two people",
            "lower --poses, or give shards with more crops a person",
        )
    drawn = np.random.default_rng((seed, 7)).choice(able, min(people, len(able)), replace=False).tolist()
    rows = []
    for name in sorted(drawn):
        turned = sorted(rows_of[name], key=lambda row: float(faces.euler_N3[row, 1]))
        rows += [turned[round(i)] for i in np.linspace(0, len(turned) - 1, poses)]
    return rows


def map_identities(faces: Faces, rows: Sequence[int], features: Mapping[str, Floats]) -> list[IdentityMap]:
    """t-SNE and silhouette of the chosen faces, one map for each kind of features.

    Args:
        faces: whose rows were chosen.
        rows: n of `choose_faces`.
        features: what is drawn -> [n, any] features of those rows.
    """
    names = [faces.identities[row] for row in rows]
    labels = np.unique(names, return_inverse=True)[1]
    maps = []
    for of, x in features.items():
        unit = x.astype(np.float64) / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        plane = tsne(unit)
        points = tuple(
            Point(name, *(float(v) for v in (*faces.euler_N3[row], *xy)))
            for name, row, xy in zip(names, rows, plane.points_N2, strict=True)
        )
        in_plane = silhouette(np.sqrt(squared_distances(plane.points_N2)), labels)
        maps.append(IdentityMap(of, silhouette(1 - unit @ unit.T, labels), in_plane, plane.divergence, points))
    return maps


def identity_features(aligner: PoseSharedIdentityAligner, crops: Sequence[Crop]) -> dict[str, Floats]:
    """What Fig. 6 draws of the chosen faces: S, S with the Euler embedding switched off, and the bare pixels.

    The paper's other two panels are models trained without Euler embedding and without aligner; these are controls of
    one model: what it started from, and how much it leans on the angles.
    """
    bare = np.stack([crop.rgb.reshape(-1).astype(np.float32) for crop in crops])
    features = {"pixels of the crop": bare - bare.mean(0)}
    if aligner.config.euler:
        features["S without Euler embedding"] = encode(without_euler(aligner), crops)[0]
    return features | {"S": encode(aligner, crops)[0]}


@dataclass(frozen=True)
class LossCurve:
    """Fig. 10 as data."""

    steps: tuple[int, ...]
    loss_pia: tuple[float, ...]
    """L_PIA, nats; NaN where the log holds none."""
    loss_fm: tuple[float, ...]
    """L_FM; empty where no video was trained on."""
    settled_pia: float
    """Mean of L_PIA over the last tenth of the log's lines."""


def loss_curve(log: Sequence[Mapping[str, Any]]) -> LossCurve:
    """The losses of a training log.

    Args:
        log: lines of `faithfulfaces.training.log.read_log`.

    Raises:
        UserError: when it holds no L_PIA.
    """

    def column(name: str) -> tuple[float, ...]:
        return tuple(math.nan if line.get(name) is None else float(line[name]) for line in log)

    pia, flow = column("loss_pia"), column("loss_fm")
    if not np.isfinite(pia).any():
        raise UserError("the log holds no loss_pia", "give the folder of a run that logged a step")
    last = np.array(pia[-max(1, len(pia) // 10) :])
    settled = float(last[np.isfinite(last)].mean()) if np.isfinite(last).any() else math.nan
    return LossCurve(tuple(int(line["step"]) for line in log), pia, flow if np.isfinite(flow).any() else (), settled)
