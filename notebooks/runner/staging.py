"""Inputs fetched to the job's own folder before its cell begins."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse


def fetched(urls: list[str], folder: Path) -> dict[str, str]:
    """The local path of each of ``urls``. What is already there is not fetched again: a job may be started twice.
    Raises whatever the storage says, naming the URL."""
    import fsspec

    found = {}
    for number, url in enumerate(urls):
        path = folder / str(number) / (Path(urlparse(url).path).name or "data")
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}")
            try:
                filesystem, remote = fsspec.core.url_to_fs(url)
                filesystem.get_file(remote, str(draft))
            except Exception as error:  # every storage has exceptions of its own
                raise OSError(f"{url} could not be fetched: {type(error).__name__}: {error}") from error
            draft.replace(path)
        found[url] = str(path)
    return found
