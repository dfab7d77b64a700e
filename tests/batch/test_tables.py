"""A table of whatever library is taken by its rows, and nothing of it is sent that is no documented field."""

from __future__ import annotations

import inspect

import pytest

from videorouter import AsyncVideoRouter, ConfigurationError
from videorouter.batch.entries import FIELDS
from videorouter.batch.source import EntrySource
from videorouter.batch.tables import read_table

COLUMNS = {
    "prompt": ["otter", "heron", None],
    "seed": [7, None, 9],
    "shelf": ["a", None, "c"],
    "image_urls": [["https://a.test/1.png"], None, None],
}
ROWS = [
    {"prompt": "otter", "seed": 7, "image_urls": ["https://a.test/1.png"], "meta": {"shelf": "a"}},
    {"prompt": "heron"},
    {"seed": 9, "meta": {"shelf": "c"}},
]


def by_pandas(columns):
    return pytest.importorskip("pandas").DataFrame(columns)


def by_pandas_with_its_own_types(columns):
    return pytest.importorskip("pandas").DataFrame(columns).convert_dtypes()


def by_polars(columns):
    return pytest.importorskip("polars").DataFrame(columns)


def by_arrow(columns):
    return pytest.importorskip("pyarrow").table(columns)


def by_an_arrow_batch(columns):
    return pytest.importorskip("pyarrow").RecordBatch.from_pydict(columns)


TABLES = [by_pandas, by_pandas_with_its_own_types, by_polars, by_arrow, by_an_arrow_batch]


def by_a_pandas_series(values):
    return pytest.importorskip("pandas").Series(values)


def by_a_polars_series(values):
    return pytest.importorskip("polars").Series(values)


def by_an_arrow_array(values):
    return pytest.importorskip("pyarrow").array(values)


def by_arrow_chunks(values):
    return pytest.importorskip("pyarrow").chunked_array([values, values[:0]])


def by_numpy(values):
    return pytest.importorskip("numpy").array(values, dtype=object)


SERIES = [by_a_pandas_series, by_a_polars_series, by_an_arrow_array, by_arrow_chunks, by_numpy]


@pytest.mark.parametrize("make", TABLES)
def test_a_table_is_taken_by_its_rows_as_often_as_it_is_wanted(make):
    rows = read_table(make(COLUMNS))
    assert len(rows) == 3
    assert list(rows) == list(rows) == ROWS
    assert type(next(iter(rows))["seed"]) is int


def test_a_structured_array_is_taken_by_its_rows():
    numpy = pytest.importorskip("numpy")
    table = numpy.array(
        [("otter", 7, 0.5), ("heron", 8, float("nan"))], [("prompt", "U9"), ("seed", "i8"), ("own", "f8")]
    )
    assert list(read_table(table)) == [
        {"prompt": "otter", "seed": 7, "meta": {"own": 0.5}},
        {"prompt": "heron", "seed": 8},
    ]


@pytest.mark.parametrize("make", SERIES)
def test_a_column_is_prompts(make):
    assert list(read_table(make(["otter", "heron", None]))) == ["otter", "heron", {}]


def test_an_array_of_text_is_prompts():
    numpy = pytest.importorskip("numpy")
    rows = list(read_table(numpy.array(["otter", "heron"])))
    assert rows == ["otter", "heron"]
    assert {type(row) for row in rows} == {str}


def test_a_long_table_is_whole():
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"prompt": [f"otter {number}" for number in range(2500)]})
    assert [row["prompt"] for row in read_table(table)] == table.column("prompt").to_pylist()


def test_empty_cells_of_every_kind_are_absent_and_others_are_as_python_has_them():
    pandas, numpy = pytest.importorskip("pandas"), pytest.importorskip("numpy")
    day = pandas.Timestamp("2026-01-02")
    empty = [None, float("nan"), numpy.nan, pandas.NA, pandas.NaT, numpy.datetime64("NaT")]
    table = pandas.DataFrame(
        {"prompt": ["otter"] * 8, "own": [*empty, day, numpy.int64(3)], "meta": ["m"] + [None] * 7}, dtype=object
    )
    rows = list(read_table(table))
    assert rows[0] == {"prompt": "otter", "meta": "m"}
    assert rows[1:6] == [{"prompt": "otter"}] * 5
    assert rows[7] == {"prompt": "otter", "meta": {"own": 3}}
    assert "2026-01-02" in str(rows[6]["meta"]["own"])


@pytest.mark.parametrize("make", TABLES)
@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"text": ["otter"], "seed": [7]}, "no column named prompt. Its columns: text, seed"),
        (
            {"prompt": ["otter"], "resoluton": ["720p"]},
            "'resoluton' is no documented field. Is it meant to be 'resolution'",
        ),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(make, columns, told):
    with pytest.raises(ConfigurationError, match=told):
        EntrySource(make(columns), pytest.fail)


def test_two_columns_of_one_name_are_refused():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame([["otter", 7, 8]], columns=["prompt", "seed", "seed"])
    with pytest.raises(ConfigurationError, match="two columns named 'seed'"):
        read_table(table)


def test_what_has_no_rows_that_are_known_is_refused():
    class Frame:
        columns = ("prompt",)

        def __iter__(self):
            return iter(self.columns)

    class Names:
        def keys(self):
            return ["prompt"]

        def __getitem__(self, name):
            return name

        def __iter__(self):
            return iter(self.keys())

    for source in (Frame(), Names(), {"prompt": "otter"}, bytearray(b"otter"), memoryview(b"otter")):
        with pytest.raises(ConfigurationError, match=r"gives|takes an iterable"):
            EntrySource(source, pytest.fail)


def test_an_array_of_several_dimensions_is_refused():
    numpy = pytest.importorskip("numpy")
    with pytest.raises(ConfigurationError, match="2 dimensions"):
        read_table(numpy.array([["otter", "heron"]]))


def test_the_documented_fields_are_those_of_the_verb():
    entry = {"id", "edit_of", "video", "video_id", "then", "meta"}
    parameters = inspect.signature(AsyncVideoRouter.submit).parameters.keys()
    assert entry | (parameters - {"self", "fields"}) == FIELDS


@pytest.mark.anyio
@pytest.mark.parametrize("make", TABLES)
async def test_own_columns_come_back_and_are_never_sent(sandbox, tmp_path, make):
    table = make({name: COLUMNS[name] for name in ("prompt", "seed", "shelf")})
    async with AsyncVideoRouter("key", base_url=sandbox.base_url, model="m") as router:
        batch = router.generate_many(table, journal=tmp_path / "run.db", ordered=True)
        items = [item async for item in batch]
        assert [(item.state, item.meta) for item in items] == [
            ("done", {"shelf": "a"}),
            ("done", None),
            ("refused", {"shelf": "c"}),
        ]
        async with router.generate_many(table, journal=tmp_path / "run.db") as again:
            assert (again.plan.met, again.plan.new) == (2, 0)
    sent = await sandbox.charge_list()
    assert sorted(charge.prompt for charge in sent) == ["heron", "otter"]
    assert "shelf" not in repr(sent)
