"""The server's settings: read from the environment, and told in sentences where they do not hold."""

from pathlib import Path

import pytest

from dlkit.errors import ConfigError
from dlkit.settings import child_environment, settings


def test_setting_comes_from_the_environment(home, monkeypatch):
    monkeypatch.setenv("DLKIT_CPU_SLOTS", "3")
    assert settings().cpu_slots == 3


@pytest.mark.parametrize(
    ("name", "value"), [("DLKIT_CPU_SLOTS", "0"), ("DLKIT_CACHE_MB", "much"), ("DLKIT_WARM_UP", "perhaps")]
)
def test_setting_that_does_not_hold_is_a_sentence_with_its_name(home, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        settings()


def test_hosts_are_listed_with_commas(home, monkeypatch):
    monkeypatch.setenv("DLKIT_ALLOWED_HOSTS", "studio.example, localhost")
    assert settings().allowed_hosts == ("studio.example", "localhost")


def test_child_process_gets_the_same_data_folder_wherever_it_is_started(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLKIT_HOME", "somewhere")
    settings.cache_clear()
    assert child_environment()["DLKIT_HOME"] == str(Path(tmp_path) / "somewhere")
    assert child_environment(OMP_NUM_THREADS="1")["OMP_NUM_THREADS"] == "1"


def test_home_folder_may_begin_with_a_tilde(home, monkeypatch):
    monkeypatch.setenv("DLKIT_HOME", "~/pictures")
    settings.cache_clear()
    assert settings().data_folder == Path.home() / "pictures"


def test_child_process_gets_what_stands_in_the_servers_env_file(home, monkeypatch, tmp_path):
    """The child is started in another folder, where that file is not found."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("DLKIT_DATABASE_URL=postgresql://db/x\nDLKIT_CPU_SLOTS=3\nDLKIT_ALLOWED_HOSTS=a,b\n")
    settings.cache_clear()
    found = child_environment()
    expected = {"DLKIT_DATABASE_URL": "postgresql://db/x", "DLKIT_CPU_SLOTS": "3", "DLKIT_ALLOWED_HOSTS": "a,b"}
    assert expected.items() <= found.items()
    settings.cache_clear()
