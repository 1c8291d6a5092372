"""Kling over HTTP: the Omni model in the older and the newer form of the interface, and the older multi-image form."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from baselines.http.client import Api, MissingError, Network, Secrets, UnsureError, key_of, task_id
from baselines.http.images import encode
from baselines.http.jobs import Answer, Jobs, Pace
from baselines.http.journal import Entry
from baselines.kling.dialect import judge, sign
from ffbench.contract import Output, RefusedError, Request, Runtime
from ffbench.errors import UserError
from ffbench.records import Scalar

HOSTS = {"singapore": "https://api-singapore.klingai.com", "beijing": "https://api-beijing.klingai.com"}
PATHS = {"omni": "/v1/videos/omni-video", "multi-image": "/v1/videos/multi-image2video", "omni-path": "/omni-video"}
MOST_PROMPT = 2500
_POLICY = re.compile(r"(?i)risk.?control|polic|sensitive|safety|moderat|violat|prohibit")


class Kling:
    """One task a request; up to the card's `batch` tasks run at once."""

    def __init__(
        self, settings: Mapping[str, Scalar], host: str = "", network: Network | None = None, pace: Pace | None = None
    ) -> None:
        self._set = settings
        self._network = network or Network()
        self._pace = pace or Pace()
        regions, profiles = ", ".join(HOSTS), ", ".join(PATHS)
        if settings["region"] not in HOSTS:
            raise UserError(f"there is no region {settings['region']!r}", f"--set region=one of: {regions}")
        if settings["profile"] not in PATHS:
            raise UserError(f"there is no profile {settings['profile']!r}", f"--set profile=one of: {profiles}")
        self._host = host or HOSTS[str(settings["region"])]
        self._newer = settings["profile"] == "omni-path"
        self._path = PATHS[str(settings["profile"])]
        self._jobs: Jobs | None = None

    def load(self, runtime: Runtime) -> None:
        """Read the keys from the environment and the journal from the run folder."""
        self._key, self._access, self._secret = (
            key_of(name) for name in ("KLING_API_KEY", "KLING_ACCESS_KEY", "KLING_SECRET_KEY")
        )
        if not self._key and (self._newer or not (self._access and self._secret)):
            pair = "" if self._newer else ", or KLING_ACCESS_KEY and KLING_SECRET_KEY,"
            raise UserError("kling needs a key and none is set", f"set KLING_API_KEY{pair} in the environment")
        self.secrets = Secrets((self._key, self._access, self._secret))
        self._api = Api(self._host, self._authorize, judge, self.secrets, self._network)
        self._jobs = Jobs(self, Path(runtime.state), "kling", self._network, self._pace)

    def generate(self, requests: Sequence[Request]) -> Iterator[Output]:
        """One video file a request, from the first reference."""
        assert self._jobs is not None
        return self._jobs.outputs(requests)

    def submit(self, request: Request, mark: str) -> str:
        """Order a video; the task id."""
        prompt = str(self._set["prompt_template"]).replace("{subject}", request.case.subject)
        prompt = prompt.replace("{prompt}", request.case.prompt)
        if len(prompt) > MOST_PROMPT:
            raise RuntimeError(f"the prompt has {len(prompt)} characters, kling takes {MOST_PROMPT}")
        data, _, _ = encode(Path(request.case.references[0].path), 300, 2.5, 7 << 20)  # 10 MB as base64
        path = f"{self._path}/{self._set['model']}" if self._newer else self._path
        try:
            answer = self._api.call("POST", path, self._body(prompt, base64.b64encode(data).decode(), mark))
        except MissingError as error:
            raise UserError(
                f"kling has no model {self._set['model']!r} or no address {path} (any more): {error}",
                "its maker retires models: try --method kling@o1, kling@omni-path or another --set model=",
            ) from None
        except RuntimeError as error:
            if "external" in str(error):  # the mark is taken: an earlier try did arrive
                raise UnsureError(str(error)) from None
            raise
        held = answer.get("data") or {}
        return task_id(held.get("task_id") or held.get("id"))

    def find(self, request: Request, order: Entry, known: set[str]) -> str | None:
        """The task that carries the order's mark as its external id."""
        try:
            if self._newer:
                held = self._api.call("GET", "/tasks", external_task_ids=order.mark).get("data") or []
                return task_id(held[0].get("id")) if held else None
            return task_id((self._api.call("GET", f"{self._path}/{order.mark}").get("data") or {}).get("task_id"))
        except MissingError:
            return None

    def ask(self, task: str) -> Answer:
        """How a task stands."""
        if self._newer:
            answer = self._api.call("GET", "/tasks", task_ids=task)
            held = answer.get("data") or answer.get("result") or []
            found = [one for one in (held if isinstance(held, list) else held.get("result") or []) if one]
            if not found:
                raise MissingError(f"no task {task}")
            state, why = found[0].get("status"), found[0].get("message")
            videos = [one for one in found[0].get("outputs") or [] if one.get("type") == "video"]
            units = sum(float(one.get("amount") or 0) for one in found[0].get("billing") or [])
        else:
            held = self._api.call("GET", f"{self._path}/{task}").get("data") or {}
            state, why = held.get("task_status"), held.get("task_status_msg")
            videos = (held.get("task_result") or {}).get("videos") or []
            units = float(held.get("final_unit_deduction") or 0)
        if state == "failed":
            raise (RefusedError if _POLICY.search(str(why)) else RuntimeError)(f"kling: task {task} failed: {why}")
        if state not in ("succeed", "succeeded"):
            return Answer()
        if not videos or not videos[0].get("url"):
            raise RuntimeError(f"kling: task {task} succeeded without a video")
        facts: dict[str, Scalar] = {"model": self._set["model"], "seed": "not supported"}
        return Answer(str(videos[0]["url"]), {**facts, "units": units} if units else facts)

    def _body(self, prompt: str, image: str, mark: str) -> dict[str, Any]:
        size, seconds = self._set["aspect_ratio"], self._set["duration"]
        if self._newer:
            contents = [{"type": "prompt", "text": prompt}, {"type": "refer_image", "url": image, "id": "image_1"}]
            resolution = {"std": "720p", "pro": "1080p"}.get(str(self._set["mode"]), self._set["mode"])
            chosen = {"resolution": resolution, "aspect_ratio": size, "duration": seconds, "audio": "off"}
            return {"contents": contents, "settings": chosen, "options": {"external_task_id": mark}}
        body = {"model_name": self._set["model"], "prompt": prompt, "mode": self._set["mode"]}
        body |= {"duration": str(seconds), "aspect_ratio": size, "external_task_id": mark}
        if self._set["profile"] == "multi-image":
            return {**body, "image_list": [{"image": image}], "negative_prompt": self._set["negative_prompt"]}
        return {**body, "image_list": [{"image_url": image}], "sound": "off"}

    def _authorize(self) -> str:
        if self._key:
            return f"Bearer {self._key}"
        now = int(time.time())
        token = sign({"iss": self._access, "exp": now + 1800, "nbf": now - 5}, self._secret)
        self.secrets.add(token)
        return f"Bearer {token}"
