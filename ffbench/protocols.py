"""Named, frozen recipes of measurement. A number is comparable only inside one protocol id."""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ffbench.errors import UserError
from ffbench.records import digest

Slot = Literal["detector", "arc", "cur", "facenet", "pose", "inception", "fid_inception", "clip"]
SLOTS: tuple[str, ...] = ("detector", "arc", "cur", "facenet", "pose", "inception", "fid_inception", "clip")

KINDS: Mapping[str, tuple[str, ...]] = {
    "detector": ("scrfd", "mtcnn"),
    "arc": ("arcface-onnx", "mini-arc"),
    "cur": ("curricular-ir101", "curricular-ir18", "arcface-onnx", "mini-cur"),
    "facenet": ("facenet", "arcface-onnx"),
    "pose": ("sixdrepnet", "3ddfa", "fsanet", "five-point", "mini-pose"),
    "inception": ("inception-torchvision",),
    "fid_inception": ("inception-fid", "mini-features"),
    "clip": ("open-clip", "mini-clip"),
}
"""Which kinds of network each slot takes; `ffbench.extract` builds them."""


@dataclass(frozen=True)
class Network:
    """One measuring network: its kind, and where its weights are.

    `weights` is a name of the registry (`ffbench weights ls`), an absolute path, or empty where the weights come inside
    a package. `options` are keyword arguments of the kind (`threshold`, `model`, `aux` for a second file).
    """

    kind: str
    weights: str = ""
    options: tuple[tuple[str, str | int | float], ...] = ()


@dataclass(frozen=True)
class Protocol:
    """How a video becomes numbers. Every field is part of the id's meaning: change one, raise the version."""

    name: str
    version: int
    summary: str
    networks: Mapping[str, Network]
    metrics: tuple[str, ...]
    face_sampler: str = "linspace16"
    text_sampler: str = "linspace16"
    ladder: tuple[str, ...] = ("320", "640", "pad25", "128")
    """Detection attempts in order; the first that finds a face is recorded per frame."""
    clip_colour: Literal["rgb", "bgr"] = "rgb"
    clamp: bool = False
    """Clamp each cosine at zero before the mean."""
    drop_zeros: bool = False
    """Drop frames whose clamped cosine is zero from the mean (OpenS2V-Eval)."""
    faceless_as_zero: bool = False
    """Give a video without any face the value 0.0, as ConsisID's script does."""
    variant: str = ""
    """Digest of replaced networks; part of the id."""
    notes: tuple[str, ...] = ()
    """Footnotes a table of this protocol must carry."""

    @property
    def id(self) -> str:
        """Such as `standard@1`, or `standard@1~3fa2c1d0` with other networks than its own."""
        return f"{self.name}@{self.version}" + (f"~{self.variant}" if self.variant else "")

    @property
    def track_recipe(self) -> str:
        """Digest of everything that a FaceTrack depends on; aggregation fields are left out, so tracks are shared."""
        nets = {
            # a file's place is no part of a number: its bytes are in `variant`
            slot: [
                net.kind,
                "" if Path(net.weights).is_absolute() else net.weights,
                [o for o in net.options if o[0] != "aux"],
            ]
            for slot, net in self.networks.items()
        }
        return digest([nets, self.face_sampler, self.text_sampler, self.ladder, self.clip_colour, self.variant])


_SCRFD = Network("scrfd", "buffalo_l/det_10g.onnx", (("threshold", 0.5),))
_ARC = Network("arcface-onnx", "buffalo_l/w600k_r50.onnx")
_CUR = Network("curricular-ir101", "curricularface-ir101")
_CLIP = Network("open-clip", "clip-vit-b-32", (("model", "ViT-B-32-quickgelu"),))
_REAL = {
    "detector": _SCRFD,
    "arc": _ARC,
    "cur": _CUR,
    "facenet": Network("facenet", "facenet-vggface2"),
    "pose": Network("sixdrepnet", "6drepnet"),
    "fid_inception": Network("inception-fid", "fid-inception"),
    "clip": _CLIP,
}
_MODERN = (
    "facesim_cur",
    "facesim_arc",
    "facesim_facenet",
    "facesim_cur_missing_as_zero",
    "facesim_arc_missing_as_zero",
    "face_rate",
    "fid",
    "kid",
    "clip_score",
    "clip_score_long",
    "pose_range",
    "pose_range_robust",
    "facesim_arc_yaw45",
    "facesim_cur_yaw45",
    "identity_drift",
    "copy_paste",
    "same_identity_rate",
)

PROTOCOLS: Mapping[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            "standard",
            1,
            "Corrected default for real suites: RGB, raw cosines, missing is missing, set-level FID.",
            _REAL,
            _MODERN,
            face_sampler="time16",
            text_sampler="time16",
        ),
        Protocol(
            "consisid",
            1,
            "ConsisID's published evaluation, quirks included: what the paper's tables were measured with.",
            {
                "detector": _SCRFD,
                "arc": _ARC,
                "cur": _CUR,
                "inception": Network("inception-torchvision", "inception-torchvision"),
                "clip": _CLIP,
            },
            ("facesim_cur", "facesim_arc", "face_feature_distance", "clip_score", "face_rate"),
            text_sampler="stride16",
            ladder=("320", "pad25"),
            clip_colour="bgr",
            clamp=True,
            faceless_as_zero=True,
            notes=(
                "FID here is ConsisID's: the squared distance of two ImageNet feature vectors, mean over frames; it is "
                "no Fréchet distance.",
                "CLIPScore is measured on BGR frames; a video without any face counts as FaceSim 0 and FID 0.",
            ),
        ),
        Protocol(
            "opens2v",
            1,
            "OpenS2V-Eval's FaceSim-Cur: 32 frames, cosines clamped at zero, zeros dropped.",
            {"detector": _SCRFD, "cur": _CUR},
            ("facesim_cur", "face_rate"),
            face_sampler="linspace32",
            ladder=("320", "pad25"),
            clamp=True,
            drop_zeros=True,
            faceless_as_zero=True,
            notes=("Cosines of zero or less are dropped from the mean; a video without any face counts as 0.",),
        ),
        Protocol(
            "basic",
            1,
            "What needs no download: MTCNN and a geometric head pose; the other columns fill as weights are pulled.",
            {**_REAL, "detector": Network("mtcnn"), "pose": Network("five-point")},
            _MODERN,
            face_sampler="time16",
            text_sampler="time16",
            ladder=("full", "pad25"),
            notes=("Head pose is estimated from five facial points: coarse, see docs/metrics.md.",),
        ),
        Protocol(
            "mini",
            1,
            "The embedded default: MTCNN and small networks trained on rendered heads.",
            {
                "detector": Network("mtcnn"),
                "arc": Network("mini-arc"),
                "cur": Network("mini-cur"),
                "pose": Network("mini-pose"),
                "fid_inception": Network("mini-features"),
                "clip": Network("mini-clip"),
            },
            tuple(name for name in _MODERN if name != "facesim_facenet"),
            face_sampler="time16",
            text_sampler="time16",
            ladder=("full", "pad25"),
            notes=("Networks of the mini world: comparable inside mini only (docs/mini.md).",),
        ),
    )
}


def default_protocol(suite: str) -> str:
    """Name of the protocol for runs of a suite of this name: `mini` for rendered people, else `basic`."""
    return "mini" if suite.partition("@")[0].startswith("mini") else "basic"


def get_protocol(name: str) -> Protocol:
    """The protocol called `name`.

    Raises:
        UserError: if there is none.
    """
    if name not in PROTOCOLS:
        raise UserError(f"there is no protocol {name!r}", f"choose one of: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def with_networks(protocol: Protocol, file: Path) -> Protocol:
    """A variant of `protocol` whose networks are replaced by those of a TOML file, under an id of its own.

    Each table is a slot: `[arc]`, `kind = "arcface-onnx"`, `file = "rec.onnx"` (relative to the TOML file), and any
    further options of the kind. The id holds a digest of the kinds, the options and the bytes of every file.

    Raises:
        UserError: for an unknown slot or kind, or a missing file.
    """
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{file}: {error}", "give a TOML file with one table a slot, see docs/metrics.md") from error
    networks = dict(protocol.networks)
    parts: list[object] = []
    for slot, table in sorted(tables.items()):
        if slot not in SLOTS or not isinstance(table, dict):
            raise UserError(f"{file}: there is no slot {slot!r}", f"the slots are: {', '.join(SLOTS)}")
        kind = str(table.pop("kind", ""))
        if kind not in KINDS[slot]:
            raise UserError(f"{file}: slot {slot} has no kind {kind!r}", f"it takes: {', '.join(KINDS[slot])}")
        files = {}
        for key in ("file", "aux"):
            if key in table:
                path = (file.parent / str(table.pop(key))).resolve()
                if not path.is_file():
                    raise UserError(f"{file}: slot {slot}: {path} is no file", "give a path relative to the TOML file")
                files[key] = path
        options = tuple(sorted(table.items()))
        parts.append([slot, kind, options, sorted((k, _sha256(p)) for k, p in files.items())])
        if "aux" in files:
            options = (*options, ("aux", str(files["aux"])))
        networks[slot] = Network(kind, str(files.get("file", "")), options)
    if not parts:
        raise UserError(f"{file} names no network", "add a table such as [detector]")
    return dataclasses.replace(protocol, networks=networks, variant=digest(parts, 8))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
