"""Step 1: the faces of a clip's frames (Section 3.4, "Face Detection")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from faithfulfaces.dataset.settings import Subject
from ffbench.extract.crops import usable
from ffbench.extract.detect import Detector, detect_ladder, largest

Floats = NDArray[np.float32]


class Track(NamedTuple):
    """The largest face of each frame looked at; NaN where there is none."""

    number: NDArray[np.int64]
    """[T] frames of the clip."""
    box: Floats
    """[T,4] xyxy px."""
    points: Floats
    """[T,5,2] px."""
    faces: NDArray[np.int64]
    """[T] faces found."""

    @property
    def shown(self) -> NDArray[np.bool_]:
        """[T] frames with a face."""
        return self.faces > 0


def track(frames_THW3: NDArray[np.uint8], detector: Detector, ladder: tuple[str, ...], subject: Subject) -> Track:
    """Look at every `stride`-th frame; stops after the first frame with too many faces, which decides."""
    rows: list[tuple[int, Floats, Floats, int]] = []
    for number in range(0, len(frames_THW3), subject.stride):
        found, _ = detect_ladder(detector, frames_THW3[number], ladder)
        found = usable(found, frames_THW3.shape[1:3])
        count = len(found.scores)
        box, points = np.full(4, np.nan, np.float32), np.full((5, 2), np.nan, np.float32)
        if count:
            index = largest(found)
            box, points = found.boxes[index], found.points[index]
        rows.append((number, box, points, count))
        if count > subject.max_faces:
            break
    return _stack(rows)


def _stack(rows: Iterable[tuple[int, Floats, Floats, int]]) -> Track:
    number, box, points, faces = zip(*rows, strict=True)
    return Track(np.array(number, np.int64), np.stack(box), np.stack(points), np.array(faces, np.int64))


def face_px(track_: Track) -> float:
    """Median root of the boxes' area, px; NaN without a face."""
    box = track_.box[track_.shown]
    return float(np.median(np.sqrt((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])))) if len(box) else float("nan")


def refused(track_: Track, subject: Subject) -> tuple[str, str]:
    """(reason, detail) of step 1, or empty strings."""
    most, seen, shown = int(track_.faces.max()), len(track_.faces), int(track_.shown.sum())
    if most > subject.max_faces:
        at = int(track_.number[np.argmax(track_.faces)])
        return "faces", f"{most} faces in frame {at}, at most {subject.max_faces} may be there"
    if not shown:
        return "no-face", f"no face in {seen} frames"
    if shown / seen < subject.min_presence:
        return "presence", f"a face in {shown} of {seen} frames, {subject.min_presence:.0%} are asked for"
    if face_px(track_) < subject.min_face:
        return "small-face", f"the face is {face_px(track_):.0f} px, {subject.min_face} are asked for"
    return "", ""
