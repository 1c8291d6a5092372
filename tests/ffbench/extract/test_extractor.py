from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import insightface
import numpy as np
import open_clip
import pytest
import torch
import torchvision
from insightface.utils import face_align
from numpy.typing import NDArray

from ffbench.errors import UserError
from ffbench.extract.align import align
from ffbench.extract.crops import Face, crop, usable
from ffbench.extract.curricular import CurricularBackbone
from ffbench.extract.detect import Detections, Mtcnn, largest
from ffbench.extract.extractor import Extractor
from ffbench.extract.inception import TorchvisionInception
from ffbench.extract.networks import build, open_networks
from ffbench.extract.track import FaceTrack
from ffbench.protocols import Network, Protocol
from ffbench.video import Clip, Frames
from tests.ffbench import small_networks

Image = NDArray[np.uint8]
TOLERANCE = 2e-6
"""Between batches: sums of a matrix product are taken in another order."""
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    """MTCNN with its real weights; small or random networks of the real classes behind it; no FaceNet weights."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    small_networks.write_recogniser(folder / "arc.onnx", 0)
    torch.save(CurricularBackbone("ir18").half().state_dict(), folder / "cur.bin")
    (folder / "ffbench-extractor.json").write_text(json.dumps(CLIP))
    open_clip.add_model_config(folder)
    torch.save(open_clip.CLIP(**open_clip.get_model_config("ffbench-extractor")).state_dict(), folder / "clip.pt")
    return Protocol(
        "tiny",
        1,
        "Small networks.",
        {
            "detector": Network("mtcnn"),
            "arc": Network("arcface-onnx", str(folder / "arc.onnx")),
            "cur": Network("curricular-ir18", str(folder / "cur.bin")),
            "facenet": Network("facenet", "facenet-vggface2"),
            "pose": Network("five-point"),
            "clip": Network("open-clip", str(folder / "clip.pt"), (("model", "ffbench-extractor"),)),
        },
        (),
        face_sampler="linspace16",
        text_sampler="stride16",
        ladder=("full", "pad25"),
    )


@pytest.fixture(scope="module")
def extractor(protocol: Protocol, no_weights: None) -> Extractor:
    return Extractor(protocol)


@pytest.fixture(scope="module")
def crowd() -> Image:
    """Six people."""
    photo = cv2.imread(str(Path(insightface.__file__).parent / "data" / "images" / "t1.jpg"))
    return np.ascontiguousarray(cv2.resize(photo, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)[..., ::-1])


@pytest.fixture(scope="module")
def person(crowd: Image) -> Image:
    """One of them, from a little above the hair to the shoulders."""
    found = Mtcnn().detect(crowd, "full")
    x1, y1, x2, y2 = (int(v) for v in found.boxes[largest(found)])
    return np.ascontiguousarray(crowd[y1 - 20 : y2 + 30, x1 - 40 : x2 + 40])


def sway(image: Image, count: int) -> Image:
    """Frames of a camera that moves a pixel a frame."""
    return np.stack([np.roll(image, shift, axis=1) for shift in range(count)])


def clip(pixels: Image, number: list[int] | None = None) -> Clip:
    numbers = np.array(number or list(range(len(pixels))))
    face = Frames(pixels[numbers] if number else pixels, numbers, numbers / 25.0)
    text = Frames(pixels[:2], np.arange(len(pixels[:2])), np.arange(len(pixels[:2])) / 25.0)
    return Clip(
        frames={"linspace16": face, "stride16": text},
        size=(pixels.shape[2], pixels.shape[1]),
        fps=25.0,
        num_frames=len(pixels),
        duration=len(pixels) / 25,
    )


def arrays(track: FaceTrack) -> dict[str, NDArray[Any]]:
    named = {f.name: getattr(track, f.name) for f in dataclasses.fields(track)}
    return {n: v for n, v in (named | named["embeddings"] | named["features"]).items() if isinstance(v, np.ndarray)}


def assert_close(a: FaceTrack, b: FaceTrack, atol: float) -> None:
    left, right = arrays(a), arrays(b)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_allclose(left[name], right[name], atol=atol, err_msg=name)
    assert (a.step, a.size) == (b.step, b.size)


def test_a_video_becomes_rows(extractor: Extractor, crowd: Image) -> None:
    pixels = sway(crowd, 3)
    pixels[1] = 0
    (track,) = extractor.track([clip(pixels)])
    assert track.found.tolist() == [True, False, True]
    assert track.num_faces.tolist() == [6, 0, 6]
    assert track.step == ("full", "", "full")
    assert track.number.tolist() == [0, 1, 2]
    np.testing.assert_allclose(track.time, [0, 0.04, 0.08])
    assert track.size == (crowd.shape[1], crowd.shape[0])
    assert {name: rows.shape for name, rows in track.embeddings.items()} == {"arc": (3, 16), "cur": (3, 512)}
    rows = [track.box, track.points, track.angles, track.det_score, *track.embeddings.values()]
    for values in rows:
        assert values.dtype == np.float32
        assert np.isnan(values[1]).all()
        assert np.isfinite(values[[0, 2]]).all()
    assert track.clip_number.tolist() == [0, 1]
    assert track.clip.shape == (2, 16)
    found = Mtcnn().detect(pixels[2], "full")
    np.testing.assert_array_equal(track.box[2], found.boxes[largest(found)])
    np.testing.assert_array_equal(track.points[2], found.points[largest(found)])
    assert set(track.networks) == {"detector", "arc", "cur", "pose", "clip"}
    assert set(track.missing) == {"facenet"}
    assert {"open", "detect", "crop", "arc", "cur", "pose", "clip"} <= set(extractor.timings)
    assert all(seconds > 0 for seconds in extractor.timings.values())


def test_a_video_without_any_face(extractor: Extractor) -> None:
    (track,) = extractor.track([clip(np.full((2, 60, 80, 3), 90, np.uint8))])
    assert not track.found.any()
    assert track.embeddings["cur"].shape == (2, 512)
    assert np.isnan(track.embeddings["arc"]).all()
    assert np.isnan(track.angles).all()
    assert np.isfinite(track.clip).all()
    assert extractor.track([]) == []


def test_videos_together_are_videos_alone(extractor: Extractor, person: Image) -> None:
    frames = [*sway(person, 6), person[:, ::-1], np.zeros((64, 64, 3), np.uint8)]
    clips = [clip(frame[None]) for frame in frames]
    together = extractor.track(clips)
    for one, track in zip(clips, together, strict=True):
        assert_close(extractor.track([one])[0], track, TOLERANCE)
    assert np.abs(together[0].embeddings["arc"] - together[6].embeddings["arc"]).max() > 0.01


def test_repeated_frames_are_measured_once(
    extractor: Extractor, person: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, calls = sway(person, 3), []
    detect = extractor._networks.detector.detect
    monkeypatch.setattr(
        extractor._networks.detector, "detect", lambda image, rung: calls.append(rung) or detect(image, rung)
    )
    (repeated,) = extractor.track([clip(pixels, [0, 0, 1, 2, 2, 2])])
    assert calls == ["full"] * 3
    (once,) = extractor.track([clip(pixels)])
    assert repeated.number.tolist() == [0, 0, 1, 2, 2, 2]
    np.testing.assert_array_equal(repeated.embeddings["cur"], once.embeddings["cur"][[0, 0, 1, 2, 2, 2]])
    np.testing.assert_array_equal(repeated.box, once.box[[0, 0, 1, 2, 2, 2]])


def test_a_reference_is_a_track_of_one_row(extractor: Extractor, person: Image, tmp_path: Path) -> None:
    track = extractor.reference(person)
    assert track.found.tolist() == [True]
    assert track.size == (person.shape[1], person.shape[0])
    assert track.clip.shape == (0, 0)
    (video,) = extractor.track([clip(person[None].repeat(2, 0))])
    np.testing.assert_allclose(video.embeddings["arc"][0], track.embeddings["arc"][0], atol=TOLERANCE)
    track.save(tmp_path / "a.npz")
    assert_close(FaceTrack.load(tmp_path / "a.npz"), track, 0)


def test_the_key_holds_the_networks_that_ran(extractor: Extractor, protocol: Protocol) -> None:
    less = dataclasses.replace(protocol, networks={k: v for k, v in protocol.networks.items() if k != "arc"})
    without_arc = Extractor(less)
    assert extractor.track_key("a") != extractor.track_key("b")
    assert extractor.track_key("a") == Extractor(protocol).track_key("a")
    # the same recipe, but a network that did not run
    without_arc.protocol = protocol
    assert without_arc.track_key("a") != extractor.track_key("a")


def test_missing_weights(extractor: Extractor, protocol: Protocol) -> None:
    assert "ffbench weights pull facenet-vggface2" in extractor.missing["facenet"]
    blind = dataclasses.replace(protocol, networks={"detector": Network("scrfd", "buffalo_l/det_10g.onnx")})
    with pytest.raises(UserError, match="weights pull buffalo_l"):
        open_networks(blind, "cpu")


def test_texts(extractor: Extractor, protocol: Protocol) -> None:
    assert extractor.texts(["a man", "a woman"]).embeddings.shape == (2, 16)
    assert extractor.long_texts("One. Two. Three.").shape == (3, 16)
    silent = Extractor(dataclasses.replace(protocol, networks={"detector": Network("mtcnn")}))
    for ask in (lambda: silent.texts(["a"]), lambda: silent.long_texts("a")):
        with pytest.raises(RuntimeError, match="without a text network"):
            ask()


def test_without_text_and_pose_networks(protocol: Protocol, person: Image) -> None:
    bare = Extractor(dataclasses.replace(protocol, networks={"detector": Network("mtcnn")}))
    (track,) = bare.track([clip(person[None].repeat(2, 0))])
    assert track.clip_number.tolist() == [0, 1]
    assert track.clip.shape == (0, 0)
    assert np.isnan(track.angles).all()
    assert track.found.all()


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Network("mtcnn", options=(("treshold", 0.5),)), "does not take treshold = 0.5"),
        (Network("mtcnn", options=(("threshold", "high"),)), "does not take threshold = 'high'"),
        (Network("mtcnn", options=(("aux", "/a/b.npz"),)), "takes no second file"),
        (Network("3ddfa", str(Path(__file__))), "needs a second file"),
        (Network("scrfd", "/no/such/det.onnx"), "there is no file /no/such/det.onnx"),
        (Network("unheard-of"), "no kind of network 'unheard-of'"),
    ],
)
def test_networks_that_cannot_be(network: Network, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build("detector", network, "cpu")


@pytest.mark.parametrize(
    "kind",
    [
        *("scrfd", "arcface-onnx", "curricular-ir101", "curricular-ir18", "facenet", "sixdrepnet", "3ddfa", "fsanet"),
        *("inception-torchvision", "inception-fid", "open-clip"),
    ],
)
def test_a_file_that_is_not_that_network(kind: str, tmp_path: Path) -> None:
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.bin")
    options = (("aux", str(tmp_path / "other.bin")),) if kind in ("3ddfa", "fsanet") else ()
    with pytest.raises(UserError, match=r"other\.bin"):
        build("any", Network(kind, str(tmp_path / "other.bin"), options), "cpu")


def test_features_of_crops(protocol: Protocol, person: Image, tmp_path: Path) -> None:
    """A frame without a face has no features, the others those of their aligned crop."""
    torch.manual_seed(0)
    net = torchvision.models.inception_v3(weights=None, init_weights=False, aux_logits=True)
    torch.save(net.state_dict(), tmp_path / "inception.pth")
    nets = {
        "detector": protocol.networks["detector"],
        "inception": Network("inception-torchvision", str(tmp_path / "inception.pth")),
    }
    extractor = Extractor(dataclasses.replace(protocol, networks=nets))
    pixels = np.stack([person, np.zeros_like(person)])
    (track,) = extractor.track([clip(pixels)])
    assert track.features["inception"].shape == (2, 2048)
    assert np.isnan(track.features["inception"][1]).all()
    direct = TorchvisionInception(tmp_path / "inception.pth", "0" * 64)
    expected = direct(align(person, track.points[0], 224)[None])
    np.testing.assert_array_equal(track.features["inception"][0], expected[0])


def test_the_box_crop_is_facenet_pytorchs(crowd: Image) -> None:
    from facenet_pytorch.models.utils.detect_face import extract_face

    height, width = crowd.shape[:2]
    for box in ([100.7, 50.2, 190.9, 170.4], [-20.5, -10, 80, 90], [width - 60, height - 70, width + 9, height + 30.0]):
        expected = extract_face(crowd, np.array(box), 160, 0).permute(1, 2, 0).numpy()
        got = crop(crowd, Face(np.array(box, np.float32), np.zeros((5, 2), np.float32), 1, 1, "full"), "box160")
        np.testing.assert_array_equal(got, expected)


POINTS = np.array([[30, 40], [62, 38], [47, 60], [34, 78], [60, 77]], np.float32)


@pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")
@pytest.mark.parametrize("step", ["320", "pad25"])
def test_aligned_crops_are_consisids(crowd: Image, step: str) -> None:
    """On the padded rung its ArcFace crop shows grey outside the frame and its 224 px crop shows black."""
    points = POINTS - (25, 25)  # partly outside
    face = Face(np.array([0, 0, 60, 60], np.float32), points, 1, 1, step)
    image = crowd[:100, :140]
    expected = face_align.norm_crop(image, points, 224)
    assert np.abs(crop(image, face, "align224").astype(int) - expected).max() <= 1
    left, top = (int(side * 0.25) for side in (image.shape[1], image.shape[0]))
    padded = cv2.copyMakeBorder(image, top, top, left, left, cv2.BORDER_CONSTANT, value=(128, 128, 128))
    if step == "pad25":
        expected = face_align.norm_crop(padded, points + np.array([left, top], np.float32), 112)
        assert (expected == 128).all(axis=2).mean() > 0.1
    else:
        expected = face_align.norm_crop(image, points, 112)
        assert (expected == 0).all(axis=2).mean() > 0.1
    assert np.abs(crop(image, face, "align112").astype(int) - expected).max() <= 1


def test_only_faces_that_can_be_cropped_count() -> None:
    boxes = np.array(
        [[0, 0, 9, 9], [-9, 0, 0.5, 9], [0, 99.5, 9, 120], [np.nan, 0, 9, 9], [50, 50, 60, 60]], np.float32
    )
    points = np.stack([POINTS] * 5)
    points[4] = 55
    kept = usable(Detections(boxes, points, np.arange(5, dtype=np.float32)), (100, 100))
    assert kept.scores.tolist() == [0]
    assert usable(Detections(boxes[:0], points[:0], np.zeros(0, np.float32)), (9, 9)).scores.shape == (0,)


def test_a_face_outside_the_frame_is_none(extractor: Extractor, person: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The padded rung can place a box in the grey alone."""
    beside = Detections(np.array([[-50, 0, -5, 40]], np.float32), POINTS[None], np.ones(1, np.float32))
    monkeypatch.setattr(extractor._networks.detector, "detect", lambda image, rung: beside)
    track = extractor.reference(person)
    assert not track.found.any()
    assert track.num_faces.tolist() == [0]


@pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")
@pytest.mark.parametrize("pack", ["small_y1", "small_apache"])
def test_embeddings_are_face_analysis(assets: Path, crowd: Image, pack: str) -> None:
    """ConsisID's path: `FaceAnalysis` at 320, the largest box, its own embedding."""
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(
        name=pack,
        root=str(assets / "models" / "insightface"),
        allowed_modules=["detection", "recognition"],
        providers=["CPUExecutionProvider"],
    )
    app.prepare(ctx_id=-1, det_size=(320, 320), det_thresh=0.5)
    folder = assets / "models" / "insightface" / "models" / pack
    (recogniser,) = folder.glob("rec_*.onnx")
    real = Protocol(
        "real",
        1,
        "",
        {
            "detector": Network("scrfd", str(folder / "det_scrfd_2.5g.onnx"), (("threshold", 0.5),)),
            "arc": Network("arcface-onnx", str(recogniser)),
        },
        (),
        ladder=("320", "pad25"),
    )
    extractor, compared = Extractor(real), 0
    for photo in sorted((assets / "images" / "consisid").glob("*.png"))[:6]:
        image = np.ascontiguousarray(cv2.imread(str(photo))[..., ::-1])
        faces = app.get(image[..., ::-1])
        if not faces:
            continue
        best = sorted(faces, key=lambda f: (f["bbox"][2] - f["bbox"][0]) * (f["bbox"][3] - f["bbox"][1]))[-1]
        got = extractor.reference(image)
        np.testing.assert_allclose(got.box[0], best["bbox"], atol=0.01)
        expected = best["embedding"] / np.linalg.norm(best["embedding"])
        np.testing.assert_allclose(got.embeddings["arc"][0], expected, atol=1e-5)
        compared += 1
    assert compared >= 3
