"""Files that are never half written, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.modes import like

_WRITING = ".writing_"
OF_SAFETENSORS = r"\.tmp[A-Za-z0-9]{6}"
"""Names that safetensors gives to the files that it is writing."""
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
_HALF_WRITTEN = re.compile(rf"{re.escape(_WRITING)}.*|{OF_SAFETENSORS}")


def openable(path: str | Path) -> str:
    """A path as SimpleITK takes it, which ends the whole process where a name is not UTF-8.

    Raises:
        BadInput: the path has such a name.
    """
    try:
        Path(path).as_posix().encode("utf-8")
    except UnicodeEncodeError as error:
        utf8 = "" if sys.getfilesystemencoding() == "utf-8" else "use a locale with UTF-8 (export LC_ALL=C.UTF-8), or "
        raise BadInput(
            f"{path} has a name that is not UTF-8, which nnU-Net's readers cannot open; {utf8}rename the file or folder"
        ) from error
    return str(path)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def replacing(path: str | Path, flushed: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; renamed to ``path`` if the block ends without an error, else removed.

    The temporary name keeps the file's ending, since image writers choose the format by it. A file that is replaced
    does not become readable for more people; a link is replaced, and what it points to stays. A library may put a file
    of its own in the temporary one's place, as safetensors does with one that its user alone may read; it gets the
    temporary one's mode.

    Args:
        path: the file.
        flushed: wait until its bytes are on the disk. Without it, a power failure may leave a damaged file of this
            name, which whoever reads it has to expect.
    """
    path = Path(path)
    temporary = _new_file_for(path)
    try:
        made = temporary.stat()
        yield temporary
        if temporary.stat().st_ino != made.st_ino:
            temporary.chmod(stat.S_IMODE(made.st_mode))
        if flushed:
            _flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Replacements:
    """Several files that are written beside their places, flushed, and renamed in steps that the caller decides on.

    They can be sent to another process, which then decides.
    """

    def __init__(self, token: str = "") -> None:
        """Takes the token that the temporary names have, by which ``discard_all`` finds them; a new one by default."""
        self._token = token or new_token()
        self._files: list[tuple[Path, Path]] = []

    def new(self, path: Path) -> Path:
        """A temporary path for a file, as ``replacing`` yields it."""
        temporary = _new_file_for(path, self._token)
        self._files.append((temporary, path))
        return temporary

    def flush(self) -> None:
        """Waits until the bytes of all files are on the disk."""
        for temporary, _ in self._files:
            _flush(temporary)

    def place(self) -> None:
        """Renames all files."""
        for temporary, path in self._files:
            os.replace(temporary, path)

    def discard(self) -> None:
        """Deletes the files that are not in place."""
        for temporary, _ in self._files:
            temporary.unlink(missing_ok=True)


def new_token() -> str:
    """A name for the temporary files of one piece of work."""
    return secrets.token_hex(4)


def discard_all(folder: Path, token: str) -> None:
    """Deletes the temporary files in a folder that have a token in their names."""
    for temporary in folder.glob(f"{_WRITING}{token}_*"):
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _new_file_for(path: Path, token: str = "") -> Path:
    """A temporary file that is to replace ``path``, no more readable than that is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _new_file(path, token)
    try:
        if path.is_file() and not path.is_symlink():
            temporary.chmod(temporary.stat().st_mode & (path.stat().st_mode | 0o600))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _new_file(path: Path, token: str = "") -> Path:
    """An empty file beside ``path``, with the mode that the umask gives a new file."""
    while True:
        temporary = path.with_name(f"{_WRITING}{token or new_token()}_{path.name}")
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        except FileExistsError:
            token = ""
            continue
        return temporary


def clear_half_written(folder: Path, age: float = 0.0) -> None:
    """Deletes temporary files that a killed process has left in a folder and its subfolders.

    They are those of ``replacing``, and those into which safetensors writes weights before they replace such a file.

    Args:
        folder: folder to search.
        age: minimum time in seconds since a file was last written.
    """
    for temporary in folder.rglob(".*"):
        if not _HALF_WRITTEN.fullmatch(temporary.name):
            continue
        with suppress(FileNotFoundError):
            if time.time() - temporary.stat().st_mtime >= age:
                temporary.unlink()


def sync(path: Path) -> None:
    """Waits until a file's bytes, or the names in a folder, are on disk; some file systems cannot do it for folders."""
    if path.is_file() or (path.is_dir() and os.name == "posix"):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if not path.is_dir() or error.errno not in _NOT_SUPPORTED:
                raise
        finally:
            os.close(handle)


def sync_below(folder: Path) -> None:
    """Waits until a folder and everything in it are on disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def delete_path(path: Path) -> None:
    """Deletes a file, a link, or a folder with everything in it."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def json_bytes(content: Any) -> bytes:
    """JSON in the form that this package always uses, so that equal content has equal bytes."""
    try:
        return (json.dumps(content, indent=1, ensure_ascii=False, default=_plain) + "\n").encode()
    except UnicodeEncodeError:  # a file whose name is not in UTF-8; escapes keep it
        return (json.dumps(content, indent=1, default=_plain) + "\n").encode()


def write_json(path: str | Path, content: Any) -> None:
    """Writes a JSON file completely or not at all."""
    write_bytes(path, json_bytes(content))


def read_json(path: str | Path) -> Any:
    """Content of a JSON file in UTF-8, with a byte order mark or without.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or not in UTF-8.
    """
    content = Path(path).read_bytes()
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise ValueError(f"it is not UTF-8: byte 0x{byte:02x} at position {error.start}; save it as UTF-8") from error


def read_own_json(path: str | Path, remedy: str) -> Any:
    """Content of a JSON file that this package wrote.

    Args:
        path: of the file.
        remedy: what to do other than restoring the file, as the end of a sentence that begins "restore it".

    Raises:
        BadInput: the file is damaged.
    """
    try:
        return read_json(path)
    except ValueError as error:
        raise BadInput(f"{path} is damaged ({error}); restore it{remedy}") from error


def check_format(path: str | Path, content: Mapping[str, Any], newest: int, remedy: str) -> None:
    """Refuses a file of this package whose format this version cannot read.

    Args:
        path: path of the file.
        content: its JSON object; without ``format`` it has format 1, which version 0.1.0 wrote without a number.
        newest: newest format; this version writes it and reads all formats up to it.
        remedy: what to do other than upgrading, as the end of a sentence that begins "upgrade nnunet_difflung".

    Raises:
        BadInput: the number is not one of 1 to ``newest``.
    """
    number = content.get("format", 1)
    if type(number) is not int or not 1 <= number <= newest:
        readable = "format 1" if newest == 1 else f"formats 1 to {newest}"
        raise BadInput(
            f"{path} has format {number!r}, and this version of nnunet_difflung reads {readable}; "
            f"upgrade nnunet_difflung{remedy}"
        )


def copy_file(source: str | Path, target: str | Path) -> None:
    """Copies a file completely or not at all; nobody may read the copy who may not read the file."""
    with replacing(target) as temporary:
        like(temporary, Path(source))
        shutil.copyfile(source, temporary)


def _plain(value: Any) -> Any:
    """Converts numpy scalars, arrays and paths to JSON values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
