"""A part of a suite's cases, for array jobs that know nothing of each other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ffbench.errors import UserError
from ffbench.records import Case


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}-of-{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard of `I/N`.

        Raises:
            UserError: for anything else, or an I outside 1..N.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        index, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= index <= count:
            raise UserError(
                f"--shard {text!r} is no part of a whole", "write --shard I/N with I from 1 to N, such as 1/8"
            )
        return cls(index, count)

    def of(self, cases: Iterable[Case]) -> frozenset[str]:
        """The case_ids of this part: a run of cases in the order of prompts.

        The parts differ by one case at most, together they are all cases, and they depend on the cases alone. Prompts
        stay together, since their embeddings are made once for each process.
        """
        names = [case.case_id for case in sorted(cases, key=lambda case: (case.prompt_id, case.case_id))]
        first, end = ((part * len(names)) // self.count for part in (self.index - 1, self.index))
        return frozenset(names[first:end])
