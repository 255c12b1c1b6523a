"""What the person who runs the server decides: read from the environment (`DLKIT_…`) or a `.env` file.

Below `app.py` and `__main__` this is the only module that reads the environment.
"""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dlkit.errors import ConfigError


class Settings(BaseSettings):
    """Server settings; each field is one environment variable with the prefix `DLKIT_`."""

    model_config = SettingsConfigDict(env_prefix="DLKIT_", env_file=".env", extra="ignore", frozen=True)

    home: Path = Field(Path("~/.dlkit"), description="Folder of all state: store, data sets, runs, weights.")
    database_url: str = Field("", description="postgresql://… of a PostgreSQL for the store; empty = a file in `home`.")
    checkpoint_seconds: PositiveFloat = Field(60, description="Longest time between two checkpoints of a training run.")
    warm_worker: bool = Field(False, description="Keep a process with torch loaded, so that runs start sooner.")
    worker_threads: int = Field(
        0, ge=0, description="CPU threads of a worker; 0 = all cores, of three or more all but one."
    )
    cpu_slots: PositiveInt = Field(1, description="Runs that may use the CPU at the same time.")
    network_slots: PositiveInt = Field(2, description="Downloads and imports that may go on at the same time.")
    measure_speed: bool = Field(True, description="Try once which number format is quickest here, and remember it.")
    cache_mb: PositiveInt = Field(2048, description="Memory for what a run keeps of pictures, in MB.")
    cache_disk_mb: int = Field(
        20_000, ge=0, description="Disk space in `home`, beyond that memory, for what a run keeps of pictures, in MB."
    )
    model_cache_mb: PositiveInt = Field(512, description="Memory for the runs' models that classify, in MB.")
    max_image_mb: PositiveFloat = Field(10, description="Largest picture that is accepted, in MB.")
    max_image_megapixels: PositiveFloat = Field(50, description="Largest picture that is accepted, in megapixels.")
    import_files: PositiveInt = Field(50_000, description="Files that one import may have.")
    import_mb: PositiveInt = Field(20_000, description="Disk space for all imported data sets together, in MB.")
    download_timeout_seconds: PositiveFloat = Field(20, description="Silence after which a download counts as broken.")
    warm_up: bool = Field(True, description="Load torch and the ImageNet model when the server starts.")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        ("localhost", "127.0.0.1", "[::1]"),
        description="Host names under which the server answers, with commas between.",
    )
    max_sessions_per_address: PositiveInt = Field(24, description="Open browser sessions per network address.")
    max_upload_mb_per_session: PositiveInt = Field(128, description="Uploaded bytes that one session may hold, in MB.")

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def data_folder(self) -> Path:
        """`home`, with `~` expanded and made absolute."""
        return self.home.expanduser().absolute()

    def folder(self, *parts: str) -> Path:
        """Return a folder below the data folder, made if it is not there."""
        folder = self.data_folder.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def child_environment(**changes: str) -> dict[str, str]:
    """Return the environment for a process that this one starts: the same settings, from wherever they were read."""
    own = {f"DLKIT_{name.upper()}": _text(getattr(settings(), name)) for name in settings().model_fields_set}
    return {**os.environ, **own, "DLKIT_HOME": str(settings().data_folder), **changes}


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def adopt_environment(variables: Mapping[str, str]) -> None:
    """Take over the variables of a request, in a process that was forked for it."""
    os.environ.update(variables)


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return the settings of this process, read once; ConfigError with a sentence for each that does not hold."""
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigError(_sentences(error)) from None


def _sentences(error: ValidationError) -> list[str]:
    return [
        f"DLKIT_{str(problem['loc'][0]).upper()} does not hold: {problem['msg']}; got {str(problem['input'])[:40]!r}."
        for problem in error.errors()
    ]
