"""New prompts from a real HTTP server that speaks the chat interface, well and badly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ffbench import chat as client
from ffbench.errors import UserError
from ffbench.prompting import ATTEMPTS, MadePrompt, Scene, new_prompts, read_answer, read_scenes
from ffbench.suites import load_suite
from ffbench.suites.cases import embedded_data
from tests.ffbench.paths import PROMPTS, photo
from tests.loopback import answering

KEY = "sk-very-secret-0123456789"
SENTENCE = "A person in a green coat turns the head slowly and looks around with care. "
Reply = tuple[int, str, dict[str, str]]


def chat_json(content: str) -> str:
    return json.dumps({"model": "served-1", "choices": [{"message": {"role": "assistant", "content": content}}]})


def good(background: str, extra: str = "") -> str:
    return json.dumps({"background": background, "prompt": (SENTENCE * 7 + extra).strip()})


class ChatServer:
    """Answers with `reply(number of the request, its body)`, and remembers what it was asked."""

    def __init__(self) -> None:
        self.reply: Callable[[int, dict[str, Any]], Reply] = lambda number, _: (
            200,
            chat_json(good(f"place {number}", f"N {number}")),
            {},
        )
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.url = ""


@contextmanager
def chatting() -> Iterator[ChatServer]:
    server = ChatServer()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                server.asked.append(body)
                server.keys.append(self.headers.get("Authorization"))
                number = len(server.asked)
            if self.path != "/v1/chat/completions":
                status, text, headers = 404, "no such path", {}
            else:
                status, text, headers = server.reply(number, body)
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client gave up on a slow answer

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
        with answering(http):
            yield server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setattr(client, "BACKOFF_S", 0.005)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with chatting() as running:
        yield running


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    path = tmp_path / "scenes.txt"
    path.write_text("Boxing: a person boxes\n\nspeech: a person speaks: loudly\n")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_two_stages_make_a_file_that_a_suite_reads(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "prompts.jsonl"
    made = new_prompts(scenes, server.url, "gpt-x", out, variants=2, seed=5)
    assert [(one.scene, one.number, one.status) for one in made] == [
        (scene, number, "ok") for scene in ("boxing", "speech") for number in range(3)
    ]
    asked = [request["messages"][-1]["content"] for request in server.asked]
    assert "a person boxes" in asked[0]
    assert "a background of your choice" in asked[0]
    assert made[0].prompt in asked[1]
    assert "unlike these: place 1" in asked[1]
    assert "unlike these: place 1, place 2" in asked[2]
    assert "a person speaks: loudly" in asked[3]
    assert "80 to 130 words" in server.asked[0]["messages"][0]["content"]
    assert {request["model"] for request in server.asked} == {"gpt-x"}
    assert len({request["seed"] for request in server.asked}) == 6
    facts = made[0].provenance
    assert (facts["model"], facts["served"], facts["endpoint"]) == ("gpt-x", "served-1", "127.0.0.1")
    assert (facts["instructions"], facts["seed"], facts["answers"]) == (
        embedded_data("instructions.toml")["version"],
        5,
        1,
    )
    assert facts["utc"].endswith("+00:00")
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert KEY not in out.read_text()
    assert [MadePrompt(**{**line, "tags": tuple(line["tags"])}) for line in lines(out)] == made

    photo(out.parent / "someone.png")
    suite = load_suite(out.parent)
    assert {case.prompt for case in suite.cases} == {one.prompt for one in made}
    assert {case.prompt_id for case in suite.cases} == {one.prompt_id for one in made}


def test_the_same_seed_asks_the_same(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    new_prompts(scenes, server.url, "m", tmp_path / "a.jsonl", variants=0)
    first = [request["seed"] for request in server.asked]
    server.asked.clear()
    new_prompts(scenes, server.url, "m", tmp_path / "b.jsonl", variants=0)
    assert [request["seed"] for request in server.asked] == first


def test_named_backgrounds_are_used(server: ChatServer, tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text('{"scene": "x", "text": "t", "backgrounds": ["open field", "a cave"], "tags": ["occlusion"]}')
    made = new_prompts(path, server.url, "m", tmp_path / "o.jsonl")
    assert len(made) == 2
    assert made[0].tags == ("occlusion",)
    assert "Place it in open field" in server.asked[0]["messages"][-1]["content"]
    assert "background: a cave" in server.asked[1]["messages"][-1]["content"]


def test_no_key_is_no_header(server: ChatServer, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    new_prompts(scenes, server.url, "m", tmp_path / "o.jsonl", variants=0)
    assert set(server.keys) == {None}


@pytest.mark.parametrize("fault", [(429, {}), (429, {"Retry-After": "0"}), (500, {}), (503, {})])
def test_a_busy_server_is_asked_again(
    server: ChatServer, scenes: Path, tmp_path: Path, fault: tuple[int, dict[str, str]]
) -> None:
    well = server.reply
    server.reply = lambda number, body: (fault[0], "busy", fault[1]) if number < 3 else well(number, body)
    made = new_prompts(scenes, server.url, "m", tmp_path / "o.jsonl", variants=0)
    assert [one.status for one in made] == ["ok", "ok"]
    assert len(server.asked) == 4
    assert server.asked[0] == server.asked[2]


def test_a_server_that_stays_busy_ends_the_command(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    well = server.reply
    server.reply = lambda number, body: well(number, body) if number == 1 else (503, f"down, your key {KEY}", {})
    with pytest.raises(UserError, match="gave no answer in 6 tries") as caught:
        new_prompts(scenes, server.url, "m", tmp_path / "o.jsonl", variants=0)
    assert KEY not in str(caught.value)
    assert "***" in caught.value.what
    assert len(server.asked) == 1 + client.ATTEMPTS
    # what was made is kept, and the same command goes on from there
    server.reply = well
    before = len(server.asked)
    made = new_prompts(scenes, server.url, "m", tmp_path / "o.jsonl", variants=0)
    assert [one.status for one in made] == ["ok", "ok"]
    assert len(server.asked) == before + 1


def test_a_long_wait_is_not_waited_for(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    server.reply = lambda *_: (429, "", {"Retry-After": "3600"})
    with pytest.raises(UserError, match="asks to wait 3600 s"):
        new_prompts(scenes, server.url, "m", tmp_path / "o.jsonl")


@pytest.mark.parametrize("drip", [False, True])
def test_a_slow_server_is_given_up(
    server: ChatServer, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drip: bool
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(client, "ATTEMPTS", 2)

    def reply(number: int, _: dict[str, Any]) -> Reply:
        if not drip:
            time.sleep(0.6)
        return 200, chat_json(good("place")), {}

    server.reply = reply
    url = server.url
    if drip:
        url = _dripping(monkeypatch)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"gave no answer in 2 tries.*ReadTimeout"):
        new_prompts(scenes, url, "m", tmp_path / "o.jsonl", variants=0)
    assert time.monotonic() - start < 3


def _dripping(monkeypatch: pytest.MonkeyPatch) -> str:
    """A server that sends a byte now and then, so that no single wait is long."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                for _ in range(100):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        break
                    time.sleep(0.02)
        listener.close()

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_ends_at_once_and_is_not_shown(
    server: ChatServer, scenes: Path, tmp_path: Path, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    server.reply = lambda *_: (status, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}), {})
    with pytest.raises(UserError, match="refused the key") as caught:
        new_prompts(scenes, server.url, "m", tmp_path / "o.jsonl")
    shown = capfd.readouterr()
    assert KEY not in str(caught.value) + repr(caught.value) + shown.out + shown.err
    assert "OPENAI_API_KEY" in caught.value.fix
    assert len(server.asked) == 1


def test_a_wrong_path_or_model_ends_at_once(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="status 404: no such path") as caught:
        new_prompts(scenes, server.url.removesuffix("/v1"), "m", tmp_path / "o.jsonl")
    assert "--model" in caught.value.fix


def test_a_redirect_does_not_get_the_key(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    with chatting() as other:
        server.reply = lambda *_: (307, "", {"Location": f"{other.url}/chat/completions"})
        with pytest.raises(UserError, match="status 307"):
            new_prompts(scenes, server.url, "m", tmp_path / "o.jsonl")
        assert other.asked == []


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("I cannot help with that.", "holds no JSON object"),
        ('{"prompt": "x"}', "lacks a text under background"),
        (good("place").replace("A person", "A young woman"), "tells who the person is: woman, young"),
        (json.dumps({"background": "b", "prompt": "too short"}), "it has 2 words"),
        (json.dumps({"background": "b", "prompt": SENTENCE * 30}), "words, not 80 to 130"),
        (good("place").replace("green", "{green}"), "it holds '{'"),
        (json.dumps({"background": "b " * 20, "prompt": SENTENCE * 7}), "the background has more than"),
    ],
)
def test_bad_answers_are_told_and_then_recorded(
    server: ChatServer, scenes: Path, tmp_path: Path, content: str, what: str
) -> None:
    server.reply = lambda *_: (200, chat_json(content), {})
    out = tmp_path / "o.jsonl"
    made = new_prompts(scenes, server.url, "m", out, variants=1)
    assert [one.status for one in made] == ["failed"] * 4
    assert what in made[0].error
    assert (made[0].prompt, made[0].prompt_id) == ("", "")
    assert made[1].error == "no base prompt"
    assert len(server.asked) == 2 * ATTEMPTS
    assert what in server.asked[1]["messages"][-1]["content"]
    assert len(lines(out)) == 4
    # a good server later mends what failed
    server.reply = ChatServer().reply
    assert [one.status for one in new_prompts(scenes, server.url, "m", out, variants=1)] == ["ok"] * 4
    assert [line["status"] for line in lines(out)] == ["failed"] * 4 + ["ok"] * 4


@pytest.mark.parametrize(
    "text", ["<html>", "{}", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}', "[1]"]
)
def test_answers_that_are_not_of_the_interface(server: ChatServer, scenes: Path, tmp_path: Path, text: str) -> None:
    server.reply = lambda *_: (200, text, {})
    made = new_prompts(scenes, server.url, "m", tmp_path / "o.jsonl", variants=0)
    assert {one.status for one in made} == {"failed"}
    assert "server's answer" in made[0].error


def test_an_endless_answer_is_cut(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    server.reply = lambda *_: (200, "x" * (3 << 20), {})
    made = new_prompts(scenes, server.url, "m", tmp_path / "o.jsonl", variants=0)
    assert "longer than" in made[0].error


def test_a_bad_answer_then_a_good_one(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    well = server.reply
    server.reply = lambda number, body: (200, chat_json("no"), {}) if number == 1 else well(number, body)
    made = new_prompts(scenes, server.url, "m", tmp_path / "o.jsonl", variants=0)
    assert made[0].status == "ok"
    assert made[0].provenance["answers"] == 2
    assert [message["role"] for message in server.asked[1]["messages"]] == ["system", "user", "assistant", "user"]


def test_a_background_or_text_is_not_used_twice(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    def reply(number: int, _: dict[str, Any]) -> Reply:
        return (
            200,
            chat_json(
                [good("Gym", "N one"), good("gym", "N two"), good("hall", "N one"), good("hall", "N 3")][number - 1]
            ),
            {},
        )

    server.reply = reply
    path = tmp_path / "one.txt"
    path.write_text("boxing: a person boxes")
    made = new_prompts(path, server.url, "m", tmp_path / "o.jsonl", variants=1)
    assert [one.background for one in made] == ["Gym", "hall"]
    assert made[1].provenance["answers"] == 3
    assert "the background was used before" in server.asked[2]["messages"][-1]["content"]
    assert "the text was used before" in server.asked[3]["messages"][-1]["content"]


def test_a_torn_last_line_is_made_again(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    first = new_prompts(scenes, server.url, "m", out, variants=0)
    out.write_text(out.read_text()[:-20])
    again = new_prompts(scenes, server.url, "m", out, variants=0)
    assert again[0].prompt == first[0].prompt
    assert [line["scene"] for line in lines(out)] == ["boxing", "speech"]
    assert len(server.asked) == 3


def test_another_model_needs_another_file(server: ChatServer, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    new_prompts(scenes, server.url, "m", out, variants=0)
    with pytest.raises(UserError, match="made with another model"):
        new_prompts(scenes, server.url, "n", out, variants=0)
    out.write_text('{"x": 1}\n')
    with pytest.raises(UserError, match="no line of"):
        new_prompts(scenes, server.url, "m", out, variants=0)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "api.example.org/v1",
        "ftp://x/v1",
        "https://user:pw@x/v1",
        "https://x/v1?key=1",
        "http://x:99999/",
        "http://[",
    ],
)
def test_unfit_endpoints(scenes: Path, tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(UserError, match="no plain http"):
        new_prompts(scenes, endpoint, "m", tmp_path / "o.jsonl")
    assert not (tmp_path / "o.jsonl").exists()


def test_the_key_does_not_travel_in_the_clear(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(UserError, match=r"would travel to 192.0.2.1 in the clear"):
        new_prompts(scenes, "http://192.0.2.1/v1", "m", tmp_path / "o.jsonl")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\u00e9")
    with pytest.raises(UserError, match="no key has"):
        new_prompts(scenes, "https://192.0.2.1/v1", "m", tmp_path / "o.jsonl")


def test_an_unreachable_server(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF_S", 0.001)
    with pytest.raises(UserError, match=r"gave no answer in 6 tries \(ConnectError"):
        new_prompts(scenes, "http://127.0.0.1:9/v1", "m", tmp_path / "o.jsonl")


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("s.txt", "", "holds no scenes"),
        ("s.txt", "boxing\n", "s.txt:1 has no text"),
        ("s.txt", "a: x\nA : y\n", "s.txt:2 repeats the scene 'a'"),
        ("s.csv", "scene\nx\n", "has no 'text'"),
        ("s.txt", b"\xff\xfe", "cannot be read"),
    ],
)
def test_bad_scenes(tmp_path: Path, name: str, text: str | bytes, what: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError) as caught:
        read_scenes(path)
    assert what in caught.value.what


def test_the_output_must_be_jsonl(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.csv"):
        new_prompts(scenes, "http://127.0.0.1:9/v1", "m", tmp_path / "a.csv")


def test_embedded_scenes_are_readable() -> None:
    assert read_scenes(PROMPTS / "scenes.jsonl")[1] == Scene(
        "dancing",
        "A person dances and shakes the head: quick turns left and right, nods, the head tipped back and rolled in a "
        "circle.",
        ("large-pose",),
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"background": "a b", "prompt": "c\\n d"}',
        'Here it is:\n```json\n{"prompt": "c d", "background": " a  b "}\n```\nEnjoy {this}!',
        '{not json} then {"background": "a b", "prompt": "c d", "more": 1}',
    ],
)
def test_answers_in_any_wrapping(text: str) -> None:
    assert read_answer(text) == ("a b", "c d")
