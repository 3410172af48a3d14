"""A data folder that has lost its log or its vault is not begun anew behind anybody's back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cascadenced.config import Config
from cascadenced.errors import ConfigError
from cascadenced.identity import Identity
from cascadenced.instance import open_instance
from cascadenced.plugins.discover import collect
from cascadenced.vault import Vault
from tests.doubles import run


class Greeter:
    name = "greeter"

    async def run(self) -> str:
        return "hello"


async def greeted(config: Config, user: str) -> Any:
    async with open_instance(config, who="a test", catalogue=collect([("greeter", Greeter)])) as instance:
        await run(instance, "greeter", Identity(user, "eng"))
        return instance.log.position


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(data_dir=str(tmp_path / "data"))


def lose(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@pytest.mark.parametrize("how", ["deleted", "emptied"])
async def test_a_folder_that_has_lost_its_log_is_opened_by_nobody_and_gets_no_new_one(config: Config, how: str) -> None:
    await greeted(config, "alice")
    lose(config.log_path)
    if how == "emptied":
        config.log_path.touch(mode=0o600)
    with pytest.raises(ConfigError, match=r"log\.db is gone, though .*vault\.db keeps names .*restore a backup"):
        await greeted(config, "alice")
    assert not config.log_path.exists() or config.log_path.stat().st_size == 0


async def test_without_log_and_vault_it_begins_anew(config: Config) -> None:
    last = await greeted(config, "alice")
    lose(config.log_path)
    lose(config.vault_path)
    assert await greeted(config, "alice") == last


async def test_a_folder_that_has_lost_its_vault_is_opened_by_nobody_and_no_new_one_is_made(config: Config) -> None:
    await greeted(config, "alice")
    lose(config.vault_path)
    with pytest.raises(ConfigError, match=r"vault\.db is gone, though .*log\.db is there: put it back"):
        await greeted(config, "alice")
    assert not config.vault_path.exists()


async def test_with_an_empty_file_in_the_vaults_place_the_log_goes_on(config: Config) -> None:
    last = await greeted(config, "alice")
    lose(config.vault_path)
    config.vault_path.touch(mode=0o600)
    assert await greeted(config, "bob") > last


async def test_a_first_start_that_was_cut_off_between_vault_and_log_is_begun_again(config: Config) -> None:
    vault = await Vault.open(config.vault_path, config.vault_key_path)
    await vault.close()
    assert await greeted(config, "alice") > 0
