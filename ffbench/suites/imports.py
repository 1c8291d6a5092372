"""Videos that were made elsewhere, such as in a vendor's web app, matched to the cases of a suite."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ffbench.errors import UserError
from ffbench.suites.cases import Suite
from ffbench.suites.manifests import read_table

COLUMNS = ("video", "case", "identity", "prompt_id")


def imported(suite: Suite, folder: Path, table: Path) -> Suite:
    """The cases of a suite for which a table names a video, with the videos.

    Args:
        suite: whose cases they are.
        folder: where the videos lie.
        table: CSV or JSONL with `video` (a path below the folder) and either `case` or `identity` and `prompt_id`.

    Raises:
        UserError: no such folder, a row of no case, a case twice, or a video that is not in the folder; names the line.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder", "give the folder of the videos with --from")
    known = {case.case_id: case for case in suite.cases}
    pairs = {(case.identity_id, case.prompt_id): case.case_id for case in suite.cases}
    given: dict[str, Path] = {}
    for row in read_table(table, COLUMNS, ("video",)):
        place = f"{table}:{row.line}"
        pair = (row.values.get("identity", ""), row.values.get("prompt_id", ""))
        case_id = row.values.get("case") or pairs.get(pair, "")
        if case_id not in known:
            named = row.values.get("case") or f"identity {pair[0]!r} with prompt_id {pair[1]!r}"
            raise UserError(
                f"{place}: {named} is no case of {suite.name}@{suite.version}",
                f"give a case such as {suite.cases[0].case_id}, or its identity and prompt_id in two columns",
            )
        if case_id in given:
            raise UserError(f"{place}: the case {case_id} has a second video", "keep one row a case")
        video = (folder / row.values["video"]).resolve()
        if not video.is_relative_to(folder.resolve()) or not video.is_file():
            raise UserError(f"{place}: {row.values['video']} is no file below {folder}", "give paths below --from")
        given[case_id] = video
    cases = tuple(case for case in suite.cases if case.case_id in given)
    return dataclasses.replace(suite, cases=cases, given=given)
