"""Vidu over HTTP: reference-to-video with one photograph."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from baselines.http.client import (
    Api,
    BusyError,
    KeyRefusedError,
    MissingError,
    Network,
    Secrets,
    UnsureError,
    key_of,
    task_id,
)
from baselines.http.images import encode
from baselines.http.jobs import Answer, Jobs, Pace
from baselines.http.journal import Entry
from ffbench.contract import Output, RefusedError, Request, Runtime
from ffbench.errors import UserError
from ffbench.records import Scalar

HOSTS = {"global": "https://api.vidu.com", "china": "https://api.vidu.cn"}
MOST_PROMPT = 2000
REFUSALS = {"TaskPromptPolicyViolation", "AuditSubmitIllegal", "CreationPolicyViolation", "AuditFailed"}
THROTTLING = {"QuotaExceeded", "TooManyRequests", "SystemThrottling", "OperationInProcess"}
ACCOUNT = {"Forbidden", "CreditInsufficient"}
ABSENT = {"TaskNotFound", "CreationNotFound", "NotFound"}
_MOST_PAGES = 50
_LISTED = timedelta(days=6)
"""Vidu lists the tasks of seven days."""


class Vidu:
    """One task a request; up to the card's `batch` tasks run at once."""

    def __init__(
        self, settings: Mapping[str, Scalar], host: str = "", network: Network | None = None, pace: Pace | None = None
    ) -> None:
        self._set = settings
        self._network = network or Network()
        self._pace = pace or Pace()
        if settings["region"] not in HOSTS:
            raise UserError(f"there is no region {settings['region']!r}", f"--set region=one of: {', '.join(HOSTS)}")
        self._host = host or HOSTS[str(settings["region"])]
        self._jobs: Jobs | None = None

    def load(self, runtime: Runtime) -> None:
        """Read the key from the environment and the journal from the run folder."""
        key = key_of("VIDU_API_KEY")
        if not key:
            raise UserError("vidu needs a key and none is set", "set VIDU_API_KEY in the environment")
        self.secrets = Secrets((key,))
        self._api = Api(self._host, lambda: f"Token {key}", judge, self.secrets, self._network)
        self._jobs = Jobs(self, Path(runtime.state), "vidu", self._network, self._pace)

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One video file a request, from the first reference."""
        assert self._jobs is not None
        return self._jobs.outputs(requests)

    def submit(self, request: Request, mark: str) -> str:
        """Order a video; the task id."""
        prompt = request.case.prompt
        if len(prompt) > MOST_PROMPT:
            raise RuntimeError(f"the prompt has {len(prompt)} characters, vidu takes {MOST_PROMPT}")
        data, kind, _ = encode(Path(request.case.references[0].path), 128, 4.0, 5 << 20)
        chosen = ("model", "duration", "aspect_ratio", "resolution", "movement_amplitude")
        body: dict[str, Any] = {name: self._set[name] for name in chosen}
        body |= {"images": [f"data:{kind};base64,{base64.b64encode(data).decode()}"], "prompt": prompt}
        # 0 asks for a random seed
        body |= {"seed": request.seed or 2**31 - 1, "bgm": False, "payload": mark}
        if "q3" in str(self._set["model"]):
            body["audio"] = False
        try:
            return task_id(self._api.call("POST", "/ent/v2/reference2video", body).get("task_id"))
        except MissingError as error:
            raise UserError(f"vidu has no such address or model: {error}", "see platform.vidu.com/docs") from None

    def find(self, request: Request, order: Entry, known: set[str]) -> str | None:
        """The task whose payload is the order's mark, among those with the same prompt that no other order has."""
        if datetime.now(UTC) - datetime.fromisoformat(order.utc) > _LISTED:
            raise RuntimeError("the order is older than Vidu's list of tasks; look into the account's usage page")
        page: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            answer = self._api.call("GET", "/ent/v2/tasks", None, **{"pager.pagesz": "100", **page})
            for held in answer.get("tasks") or []:
                task = task_id(held.get("id"))
                if task in known or held.get("prompt", request.case.prompt) != request.case.prompt:
                    continue
                if self._api.call("GET", f"/ent/v2/tasks/{task}/creations").get("payload") == order.mark:
                    return task
            if not answer.get("next_page_token"):
                return None
            page = {"pager.page_token": str(answer["next_page_token"])}
        raise RuntimeError(f"more than {_MOST_PAGES} pages of tasks")

    def ask(self, task: str) -> Answer:
        """How a task stands."""
        answer = self._api.call("GET", f"/ent/v2/tasks/{task}/creations")
        state, code = answer.get("state"), str(answer.get("err_code") or "no reason given")
        if state == "failed":
            raise (RefusedError if code in REFUSALS else RuntimeError)(f"vidu: task {task} failed: {code}")
        if state != "success":
            return Answer()
        made = answer.get("creations") or []
        if not made or not made[0].get("url"):
            raise RuntimeError(f"vidu: task {task} succeeded without a video")
        facts: dict[str, Scalar] = {"model": self._set["model"]}
        units = answer.get("credits")
        return Answer(str(made[0]["url"]), {**facts, "units": float(units)} if units else facts)


def judge(status: int, answer: Mapping[str, Any]) -> None:
    """Raise what an answer that is no success means; a failed task is a successful answer about it."""
    if status < 300 and ("state" in answer or not answer.get("err_code")):
        return
    inner = answer.get("error")
    places = [answer, inner if isinstance(inner, Mapping) else {}]
    codes = {str(place.get(name)) for place in places for name in ("err_code", "reason", "code")}
    what = f"vidu answers {status}, {', '.join(sorted(codes - {'None'}))}: {str(answer.get('message'))[:300]}"
    if codes & REFUSALS:
        raise RefusedError(what)
    if codes & ACCOUNT:
        raise UserError(what, "see the account at platform.vidu.com: credits and permissions")
    if codes & THROTTLING or status == 429:
        raise BusyError(what)
    if status == 401 or "Unauthorized" in codes:
        raise KeyRefusedError(what)
    if codes & ABSENT or status == 404:
        raise MissingError(what)
    if status >= 500:
        raise UnsureError(what)
    raise RuntimeError(what)
