"""The money that stands in a journal: what the gateway has charged, and what was bought without a price."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Mapping

    from videorouter.journal.journal import Journal

_PAGE = 1000
FREE = "free"
"""The note of a journal with the models whose price is 0, as JSON."""
_FREE = f"""
NOT EXISTS (SELECT 1 FROM meta, json_each(meta.value) AS free WHERE meta.key = '{FREE}' AND free.value = items.model)
"""  # noqa: S608  a constant of our own, here and below
UNPRICED = f"""
(((state = 'done' AND cost IS NULL) OR (state IN ('sending', 'accepted') AND reserved = 0)
  OR (state IN ('in_doubt', 'lost') AND unknown = 0) OR (state = 'failed' AND cost IS NULL AND unknown = 0)
  OR (state = 'not_sent' AND number IS NOT NULL AND unknown = 0 AND json_valid(failure)
      AND json_extract(failure, '$.in_doubt'))) AND {_FREE})
"""
"""The condition of a row whose last sending was bought, or may have been, for a price that nobody knows."""
_OTHERS = f"""
FROM sendings JOIN items ON items.id = sendings.item
  WHERE sendings.state IN ('in_doubt', 'lost', 'failed') AND sendings.cost IS NULL AND sendings.unknown = 0 AND {_FREE}
"""
COUNT_OTHERS = f"SELECT count(*) {_OTHERS}"
"""How many earlier sendings of items are like that."""
_OF_ITEMS = (
    f"SELECT id, NULL, model, request FROM items WHERE id > ? AND ? = 0 AND {UNPRICED} ORDER BY id LIMIT {_PAGE}"  # noqa: S608
)
_OF_SENDINGS = f"""
SELECT sendings.item, sendings.number, items.model, items.request {_OTHERS} AND (sendings.item, sendings.number) > (?, ?)
  ORDER BY sendings.item, sendings.number LIMIT {_PAGE}
"""
_PRICE_ITEM = """
UPDATE items SET cost = CASE state WHEN 'done' THEN :price ELSE cost END,
  reserved = CASE WHEN state IN ('sending', 'accepted') THEN :price ELSE reserved END,
  unknown = unknown + CASE WHEN state IN ('in_doubt', 'lost', 'failed', 'not_sent') THEN :price ELSE 0 END WHERE id = :item
"""
_PRICE_SENDING = "UPDATE sendings SET unknown = :price WHERE item = :item AND number = :number"
_ADD_UNKNOWN = "UPDATE items SET unknown = unknown + :price WHERE id = :item"
_REPORTED = "state = 'done' AND json_valid(result) AND json_extract(result, '$.cost') IS NOT NULL"
_BY_MODEL = f"""
SELECT model, NULL, max(json_extract(result, '$.cost')), '' FROM items WHERE id > ? AND {_REPORTED} GROUP BY model
"""  # noqa: S608
_EACH = f"""
SELECT model, request, json_extract(result, '$.cost'), id FROM items WHERE id > ? AND {_REPORTED} ORDER BY id LIMIT {_PAGE}
"""  # noqa: S608


class ReportedCost(msgspec.Struct, frozen=True):
    """What the gateway has charged for a request, in US dollars."""

    model: str | None
    request: str | None
    cost: float
    item: str


class Unpriced(msgspec.Struct, frozen=True):
    """A sending without a price: ``number`` is ``None`` for the last one of its item."""

    item: str
    number: int | None
    model: str | None
    request: str | None


async def read_costs(journal: Journal, *, each: bool) -> AsyncIterator[ReportedCost]:
    """Read what the gateway has said that requests cost: ``each`` of them, or the most of each model."""
    last = ""
    while True:
        rows = await _fetch(journal, _EACH if each else _BY_MODEL, (last,))
        for row in rows:
            yield ReportedCost(*row)
        if not each or not rows:
            return
        last = rows[-1][-1]


async def read_unpriced(journal: Journal) -> AsyncIterator[list[Unpriced]]:
    """Read what was bought, or may have been, without a price, in pages."""
    for statement in (_OF_ITEMS, _OF_SENDINGS):
        last = ("", 0)
        while True:
            rows = await _fetch(journal, statement, last)
            if not rows:
                break
            yield [Unpriced(*row) for row in rows]
            last = (rows[-1][0], rows[-1][1] or 0)


async def record_prices(journal: Journal, prices: Mapping[Unpriced, float]) -> None:
    """Commit the prices of sendings that had none, in US dollars."""
    if not prices:
        return

    def work(database: sqlite3.Connection) -> None:
        for row, price in prices.items():
            values = {"price": price, "item": row.item, "number": row.number}
            for statement in (_PRICE_ITEM,) if row.number is None else (_PRICE_SENDING, _ADD_UNKNOWN):
                database.execute(statement, values)

    await journal.writer.do("price", work)


async def _fetch(journal: Journal, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    return await journal.writer.do("find", lambda database: database.execute(statement, values).fetchall())
