"""What a paid method costs: estimated from its card before the start, counted while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ffbench.cards import Card, Price
from ffbench.errors import UserError
from ffbench.records import Generation, Scalar


def price_of(card: Card, settings: Mapping[str, Scalar], given: float | None = None) -> Price | None:
    """The card's first price whose conditions hold for `settings`, with `given` US dollars instead where stated.

    None for a method that nobody has to be paid for.
    """
    if card.kind != "commercial":
        return None
    found = next((one for one in card.price if all(settings.get(k) == v for k, v in one.when.items())), None)
    price = found or Price("", "the card names no price for these settings")
    return price if given is None else replace(price, usd=given, date="", source="as given")


class Meter:
    """Counts what the videos of one command cost, in US dollars, and holds a limit.

    Every record counts at the full price, also a failed one, unless the vendor said how many units it took: the sum is
    an upper bound. `videos` is how many are to be made.

    Raises:
        UserError: where the estimate is above `most`, or `most` is given and no price is known.
    """

    def __init__(self, card: Card, price: Price | None, videos: int, most: float | None) -> None:
        self._card = card
        self._price = price
        self._videos = videos
        self._most = most
        self._counted = 0
        self.spent = 0.0
        if most is None or price is None or not videos:
            return
        if not isinstance(price.usd, float):
            raise UserError(
                f"--max-cost cannot be kept: the price of a {card.name} video is unknown ({price.source})",
                "look it up at the vendor and give --price USD with it",
            )
        if price.usd * videos > most + 1e-9:
            fewer = int((most + 1e-9) / price.usd)
            raise UserError(
                f"{self.estimate()}, which is above --max-cost {most:g}",
                "raise --max-cost" + (f", or make fewer videos: --limit {fewer}" if fewer else ""),
            )

    def estimate(self) -> str:
        """One line for people before the start; empty for a method without a price."""
        if self._price is None or not self._videos:
            return ""
        usd, name = self._price.usd, self._card.name
        if not isinstance(usd, float):
            return (
                f"{name}: {self._videos} paid videos, price unknown ({self._price.source}); "
                "--price USD counts, --max-cost USD limits"
            )
        said = " ".join(part for part in (self._price.date, self._price.source) if part)
        return f"{name}: {self._videos} videos x ${usd:g} = ${usd * self._videos:.2f} at most (price: {said})"

    def total(self) -> str:
        """One line for people afterwards; empty where no price is known or nothing was made."""
        if self._price is None or not self._counted or not isinstance(self._price.usd, float):
            return ""
        return f"{self._card.name}: {self._counted} videos for ${self.spent:.2f} at most"

    def count(self, record: Generation) -> None:
        """Add a record.

        Raises:
            UserError: where the next orders of the method would pass the limit.
        """
        if self._price is None:
            return
        self._counted += 1
        usd, unit = self._price.usd, self._price.unit_usd
        units = record.provenance.get("notes", {}).get("units")
        if isinstance(units, int | float) and isinstance(unit, float):
            self.spent += units * unit
        elif isinstance(usd, float):
            self.spent += usd
        left = self._videos - self._counted
        if self._most is None or not isinstance(usd, float) or not left or self._counted % self._card.batch:
            return  # the rest of a batch is ordered already
        if self.spent + usd * min(left, self._card.batch) > self._most + 1e-9:
            raise UserError(
                f"{self._card.name} has cost ${self.spent:.2f}, the next videos would pass --max-cost {self._most:g}",
                "the same command with a higher --max-cost goes on",
            )
