from __future__ import annotations

from pathlib import Path

import pytest

from ffbench.errors import UserError
from ffbench.suites.pairing import VIDEOS, suite_of_videos
from tests.ffbench.paths import photo


def clip(path: Path) -> Path:
    """A file under a video's name; pairing never looks inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode())
    return path


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    for number, name in enumerate(("Anna", "bob", "p1", "李明")):
        photo(tmp_path / "faces" / f"{name}.png", number)
    return tmp_path / "faces"


def pairs(videos: Path, references: Path | None, prompts: Path | None = None) -> dict[str, str]:
    """Video's file name -> stem of the photograph it is paired with."""
    suite = suite_of_videos(videos, references, prompts)
    assert set(suite.given) == {case.case_id for case in suite.cases}
    return {suite.given[case.case_id].name: Path(case.references[0].path).stem for case in suite.cases}


def test_names_decide_by_folder_stem_or_beginning(tmp_path: Path, faces: Path) -> None:
    videos = tmp_path / "videos"
    for name in (
        "Anna.mp4",
        "anna_2.mov",
        "ANNA - 3.webm",
        "p1.x.mkv",
        "bob/whatever.avi",
        "bob/deep/er.gif",
        "李明_1.mp4",
    ):
        clip(videos / name)
    clip(videos / "notes.txt")
    clip(videos / ".part.mp4")
    assert pairs(videos, faces) == {
        "Anna.mp4": "Anna",
        "anna_2.mov": "Anna",
        "ANNA - 3.webm": "Anna",
        "p1.x.mkv": "p1",
        "whatever.avi": "bob",
        "er.gif": "bob",
        "李明_1.mp4": "李明",
    }


def test_p10_is_not_p1(tmp_path: Path, faces: Path) -> None:
    clip(tmp_path / "videos" / "p10_a.mp4")
    with pytest.raises(UserError, match=r"'p10_a' \(nearest: p1\)"):
        suite_of_videos(tmp_path / "videos", faces)


@pytest.mark.parametrize("suffix", VIDEOS)
def test_one_video_and_one_photograph(tmp_path: Path, faces: Path, suffix: str) -> None:
    path = clip(tmp_path / f"take 1{suffix.upper()}")
    suite = suite_of_videos(path, faces / "bob.png")
    assert [(case.case_id, case.identity_id) for case in suite.cases] == [("take-1", "bob")]
    assert suite.given == {"take-1": path.resolve()}


def test_one_photograph_serves_every_video(tmp_path: Path, faces: Path) -> None:
    for name in ("x.mp4", "anna.mp4"):
        clip(tmp_path / "videos" / name)
    assert set(pairs(tmp_path / "videos", faces / "bob.png").values()) == {"bob"}


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (["zoe_1.mp4", "zoe_2.mp4", "anna.mp4"], "2 of 3 videos have no person: 'zoe_1', 'zoe_2'"),
        (["hanna_1.mp4"], "(nearest: anna)"),
        (["bob/anna.mp4"], "the video 'bob/anna' could be of 'Anna' or 'bob'"),
        (["anna/x.mp4", "anna-x.mp4"], "the videos 'anna/x' and 'anna-x' both have the id 'anna-x'"),
        (["anna.mp4", "anna.gif"], "holds anna.mp4 and anna.gif, which have one name"),
        ([], "holds no videos"),
    ],
)
def test_unmatched_and_ambiguous_videos_are_refused(tmp_path: Path, faces: Path, files: list[str], what: str) -> None:
    (tmp_path / "videos").mkdir()
    for name in files:
        clip(tmp_path / "videos" / name)
    with pytest.raises(UserError) as caught:
        suite_of_videos(tmp_path / "videos", faces)
    assert what in caught.value.what
    assert len(str(caught.value).splitlines()) == 2


def test_many_unmatched_videos_are_counted(tmp_path: Path, faces: Path) -> None:
    for number in range(9):
        clip(tmp_path / "videos" / f"zzz{number}.mp4")
    with pytest.raises(UserError, match=r"9 of 9 videos have no person.* and 4 more"):
        suite_of_videos(tmp_path / "videos", faces)


def test_no_photographs_at_all(tmp_path: Path) -> None:
    clip(tmp_path / "videos" / "x.mp4")
    with pytest.raises(UserError, match="there are no photographs") as caught:
        suite_of_videos(tmp_path / "videos", None)
    assert "--references FOLDER" in caught.value.fix


def test_a_photograph_in_a_folder_serves_its_own_videos_alone(tmp_path: Path) -> None:
    photo(tmp_path / "faces" / "anna.png")
    clip(tmp_path / "videos" / "x.mp4")
    with pytest.raises(UserError, match="have no person"):
        suite_of_videos(tmp_path / "videos", tmp_path / "faces")


@pytest.mark.parametrize("name", ["gone", "x.txt"])
def test_what_is_no_source_of_videos(tmp_path: Path, faces: Path, name: str) -> None:
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(UserError, match="is no folder, table or video"):
        suite_of_videos(tmp_path / name, faces)


class TestTable:
    @pytest.fixture(autouse=True)
    def _files(self, tmp_path: Path, faces: Path) -> None:
        for name in ("in/one.mp4", "in/two.mp4", "three.mp4"):
            clip(tmp_path / name)
        self.folder, self.faces = tmp_path, faces

    def table(self, *lines: str) -> Path:
        path = self.folder / "videos.csv"
        path.write_text("\n".join(lines), "utf-8")
        return path

    def test_columns_decide(self) -> None:
        path = self.table(
            "video,reference,identity,prompt,scene,tags",
            'in/one.mp4,faces/Anna.png,Anna B,"a, ""text""",boxing,occlusion',
            "in/two.mp4,faces/bob.png;faces/p1.png,,,,",
        )
        suite = suite_of_videos(path, None)
        one, two = sorted(suite.cases, key=lambda case: case.case_id)
        assert (one.case_id, one.identity_id, one.prompt) == ("in-one", "anna-b", 'a, "text"')
        assert one.tags == ("boxing", "occlusion")
        assert (two.identity_id, two.prompt, two.prompt_id, len(two.references)) == ("bob", "", "", 2)

    def test_identity_looks_among_the_references(self) -> None:
        path = self.table("video,identity", "in/one.mp4,Anna", "three.mp4,bob")
        assert pairs(path, self.faces) == {"one.mp4": "Anna", "three.mp4": "bob"}
        with pytest.raises(UserError, match=r"'Anne' \(nearest: anna\)"):
            suite_of_videos(self.table("video,identity", "in/one.mp4,Anne"), self.faces)

    def test_every_missing_video_is_named_at_once(self) -> None:
        path = self.table("video,reference", "in/one.mp4,faces/bob.png", "x.mp4,faces/bob.png", "y.mp4,faces/bob.png")
        with pytest.raises(UserError, match=r"2 missing videos: x.mp4 \(line 3\), y.mp4 \(line 4\)"):
            suite_of_videos(path, None)

    def test_a_text_in_the_column_of_videos(self) -> None:
        with pytest.raises(UserError, match=r"1 missing videos: word word") as caught:
            suite_of_videos(self.table("video,reference", f"{'word ' * 200},faces/bob.png"), None)
        assert len(caught.value.what) < 400

    def test_a_video_twice_is_refused(self) -> None:
        path = self.table("video,reference", "three.mp4,faces/bob.png", "./three.mp4,faces/bob.png")
        with pytest.raises(UserError, match=r"csv:3: ./three.mp4 and three.mp4 have one name"):
            suite_of_videos(path, None)

    def test_one_name_for_two_photographs_is_refused(self) -> None:
        path = self.table("video,reference,identity", "three.mp4,faces/bob.png,x", "in/one.mp4,faces/Anna.png,x")
        with pytest.raises(UserError, match="'x' has different photographs"):
            suite_of_videos(path, None)

    def test_videos_outside_the_tables_folder(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        far = clip(tmp_path_factory.mktemp("far") / "anna 9.mp4")
        suite = suite_of_videos(self.table("video", str(far)), self.faces)
        assert [(case.case_id, case.identity_id) for case in suite.cases] == [("anna-9", "anna")]


class TestPrompts:
    @pytest.fixture(autouse=True)
    def _files(self, tmp_path: Path, faces: Path) -> None:
        self.videos, self.faces, self.folder = tmp_path / "videos", faces, tmp_path
        for name in ("anna-gym.mp4", "bob/boxing-gym.mp4"):
            clip(self.videos / name)

    def texts(self, prompts: Path | None) -> dict[str, str]:
        return {case.case_id: case.prompt for case in suite_of_videos(self.videos, self.faces, prompts).cases}

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def test_none(self) -> None:
        assert self.texts(None) == {"anna-gym": "", "bob-boxing-gym": ""}

    def test_by_video_in_a_table(self) -> None:
        path = self.file("p.csv", "video,prompt\nanna-gym.mp4,one\nbob/boxing-gym,two\nunused.mp4,three\n")
        assert self.texts(path) == {"anna-gym": "one", "bob-boxing-gym": "two"}
        path = self.file(
            "p.jsonl", '{"video": "anna-gym", "prompt": "one"}\n{"video": "boxing-gym.mp4", "prompt": "2"}'
        )
        assert self.texts(path) == {"anna-gym": "one", "bob-boxing-gym": "2"}

    def test_by_the_ending_that_is_a_prompts_id(self) -> None:
        path = self.file("p.csv", "prompt_id,prompt\ngym,one\nboxing-gym,two\n")
        assert self.texts(path) == {"anna-gym": "one", "bob-boxing-gym": "two"}

    def test_by_lines_with_a_tab(self) -> None:
        assert self.texts(self.file("p.txt", "anna-gym\tone: 🙂\n\nboxing-gym\ttwo\n")) == {
            "anna-gym": "one: 🙂",
            "bob-boxing-gym": "two",
        }

    def test_one_text_for_all(self) -> None:
        assert set(self.texts(self.file("p.txt", "a person\nboxes\n")).values()) == {"a person\nboxes"}

    def test_a_folder_of_texts(self) -> None:
        self.file("t/anna-gym.txt", "one\n")
        path = self.file("t/boxing-gym.txt", "two")
        assert self.texts(path.parent) == {"anna-gym": "one", "bob-boxing-gym": "two"}

    @pytest.mark.parametrize(
        ("name", "text", "what"),
        [
            ("p.csv", "video,prompt\nanna-gym,one\n", "no prompt for 1 of 2 videos: bob/boxing-gym"),
            ("p.csv", "video,prompt\nanna-gym,one\nanna-gym.mp4,two\n", "names a video twice"),
            ("p.csv", "prompt_id,prompt\nring,one\n", "no prompt for 2 of 2 videos"),
            ("p.txt", " \n", "prompt file is empty"),
            ("p.csv", "video\nanna-gym\n", "has no 'prompt'"),
        ],
    )
    def test_bad_prompts(self, name: str, text: str, what: str) -> None:
        with pytest.raises(UserError) as caught:
            self.texts(self.file(name, text))
        assert what in caught.value.what

    def test_a_prompt_file_that_is_not_there(self) -> None:
        with pytest.raises(UserError, match="cannot be read"):
            self.texts(self.folder / "gone.txt")


def test_two_methods_videos_have_one_suite(tmp_path: Path, faces: Path) -> None:
    prompts = tmp_path / "p.csv"
    prompts.write_text("prompt_id,prompt\ngym,one\nring,two\n")
    for method, names in (("a", ("anna-gym", "bob-ring")), ("b", ("anna-gym",))):
        for name in names:
            clip(tmp_path / method / f"{name}.mp4").write_bytes(method.encode())
    a, b = (suite_of_videos(tmp_path / method, faces, prompts) for method in "ab")
    assert (a.name, a.version) == (b.name, b.version)
    shared = {case.case_id: case for case in a.cases}
    assert [shared[case.case_id] for case in b.cases] == list(b.cases)
    photo(faces / "bob.png", 9)
    assert suite_of_videos(tmp_path / "a", faces, prompts).version != a.version
    prompts.write_text("prompt_id,prompt\ngym,one\nring,three\n")
    assert suite_of_videos(tmp_path / "b", faces, prompts).version != b.version


def test_the_real_videos_meet_their_photographs(assets: Path) -> None:
    folder = assets / "videos" / "id_animator"
    with pytest.raises(UserError, match=r"'lecun_4' \(nearest: lecun1\)"):
        suite_of_videos(folder, assets / "images" / "id_animator")
    assert pairs(folder / "hinton_2.gif", assets / "images" / "id_animator") == {"hinton_2.gif": "Hinton"}
