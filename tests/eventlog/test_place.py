"""A log whose file is taken away, or exchanged for another, while it is open."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from cascadenced.errors import DataFolderGone
from cascadenced.eventlog.place import Place
from tests.eventlog.words import said, texts


@pytest.mark.parametrize("how", ["deleted", "replaced", "folder moved"])
async def test_nothing_is_recorded_into_a_file_that_is_not_there_any_more(file_store, tmp_path, how) -> None:
    fatal = asyncio.get_running_loop().create_future()
    file_store.path = tmp_path / "data" / "log.db"
    file_store.path.parent.mkdir()
    log = await file_store.open(on_fatal=fatal.set_result)
    await log.append([said("a", "one")])
    if how == "deleted":
        file_store.path.unlink()
    elif how == "replaced":
        shutil.copy(file_store.path, tmp_path / "other.db")
        (tmp_path / "other.db").replace(file_store.path)
    else:
        file_store.path.parent.rename(tmp_path / "elsewhere")
    with pytest.raises(DataFolderGone, match=r"log\.db is (gone|another file)"):
        await log.append([said("a", "two")])
    assert isinstance(await asyncio.wait_for(fatal, 5), DataFolderGone)
    assert "log.db" in log.read_only
    with pytest.raises(DataFolderGone):
        await log.append([said("a", "three")])


async def test_a_probe_finds_it_without_an_append(file_store) -> None:
    fatal = asyncio.get_running_loop().create_future()
    log = await file_store.open(on_fatal=fatal.set_result)
    await log.probe()
    assert log.read_only is None
    file_store.path.unlink()
    with pytest.raises(DataFolderGone):
        await log.probe()
    assert isinstance(await asyncio.wait_for(fatal, 5), DataFolderGone)


async def test_closing_removes_nothing_of_the_log_that_lies_there_now(file_store, tmp_path) -> None:
    log = await file_store.open()
    await log.append([said("a", "old")])
    file_store.path.parent.joinpath("away").mkdir()
    for path in list(tmp_path.glob("log.db*")):
        path.rename(tmp_path / "away" / path.name)
    new = await file_store.open()
    await new.append([said("a", "new")])
    with pytest.raises(DataFolderGone):
        await log.probe()
    await log.close()
    assert (tmp_path / "log.db-wal").exists()
    assert texts(await new.read(0, 10)) == ["new"]


def test_a_place_knows_its_own_file_from_a_copy(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    place = Place(path)
    path.write_text("two")
    place.check()
    path.rename(tmp_path / "aside")
    path.write_text("two")
    with pytest.raises(DataFolderGone, match="another file"):
        place.check()
