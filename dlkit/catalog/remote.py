"""A file on the internet that the catalog knows by its content."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """Where a file is fetched from and what it must contain.

    `name` is the file's name on disk. `digest` is "md5:" or "sha256:" and hexadecimal digits; after "sha256:" the
    first eight or more digits are enough. It is empty where the publisher names none: then
    the reader of the file checks its content. `size_mb` is in megabytes of 1,000,000 bytes.
    """

    url: str
    name: str
    digest: str
    size_mb: float
