"""Archives (zip, tar, tar.gz) read as folders: members are streamed to a private folder for the time of a run.

A member stands at `ARCHIVE/member/name`, as if the archive were a folder. Members that point outside the archive
(absolute names, `..`), links, devices, encrypted and broken members are refused one by one; an archive beyond the
limits is refused whole. Archives within archives are read alike, and count towards the limits of the outermost.

The folder is one of the store's rather than of TMPDIR: there is as much room as images need, where TMPDIR may be
memory, and processes on other machines see it.
"""

from __future__ import annotations

import errno
import gzip
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from medssl_monai.errors import InputError
from medssl_monai.ingest.sources.inflate import BLOCK_BYTES, GZIP_MAGIC, RATIO, RATIO_FROM_BYTES
from medssl_monai.ingest.sources.paths import SourceFile, SourceFiles, is_archive
from medssl_monai.store.disk import disk_refused, writing
from medssl_monai.store.verdicts import Reason, RejectedError

ZIP_METHODS = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 96: "JPEG", 98: "PPMd", 99: "AES"}
"""Ways to compress that Python does not know (APPNOTE.TXT 4.4.5)."""

NAME_ERRORS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ)
"""What a file system says of a name; anything else is the disk's."""


class RefusedFile(NamedTuple):
    """A file that is not read; with a reason and a sentence."""

    path: Path
    reason: Reason
    detail: str


@dataclass(frozen=True)
class ArchiveLimits:
    """What one archive may hold, those within it included; beyond any of these it is refused whole.

    Attributes:
        members: entries.
        unpacked_bytes: of all members.
        ratio: unpacked bytes for each byte of the archive, once `ratio_from_bytes` are exceeded.
        depth: archives within one another, the outermost included.
    """

    members: int = 500_000
    unpacked_bytes: int = 256 * 2**30
    ratio: float = RATIO
    ratio_from_bytes: int = RATIO_FROM_BYTES
    depth: int = 4


@contextmanager
def unpacked(
    files: Iterable[Path], folder: Path, limits: ArchiveLimits | None = None
) -> Iterator[tuple[SourceFiles, list[RefusedFile]]]:
    """All files, members of archives instead of the archives; and what was refused of them.

    Args:
        files: as found.
        folder: where members are kept meanwhile; made where there are archives, and removed at the end.
        limits: see `ArchiveLimits`.

    Raises:
        InputError: the disk refuses to take the members.
    """
    taken = SourceFiles()
    refused: list[RefusedFile] = []
    try:
        for number, path in enumerate(files):
            if not is_archive(path):
                taken.add(SourceFile(path, path))
                continue
            with writing(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            run = _Unpacking(limits or ArchiveLimits(), _size(path), folder / str(number))
            try:
                run.unpack(SourceFile(path, path), 1)
            except RejectedError as rejection:
                shutil.rmtree(run.folder, ignore_errors=True)
                refused.append(RefusedFile(path, rejection.reason, rejection.detail))
                continue
            for file in sorted(run.taken):
                taken.add(file)
            refused += run.refused
        del files  # `taken` names them all again
        yield taken, refused
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _ChecksumError(Exception):
    """The stream that holds a whole archive fails its checksum; no error of the disk's, as BadGzipFile would be."""


class _Member(NamedTuple):
    """One entry of an archive: a folder, a file with its content, or what is neither followed nor read, and why.

    Or what stands behind the last entry, `rest`, which is read for the checksum at its end.
    """

    name: str
    refusal: str = ""
    damage: str = ""
    is_folder: bool = False
    stream: IO[bytes] | None = None
    rest: gzip.GzipFile | None = None


@dataclass
class _Unpacking:
    """One outermost archive on its way to a folder."""

    limits: ArchiveLimits
    packed_bytes: int
    folder: Path
    members: int = 0
    unpacked_bytes: int = 0
    taken: list[SourceFile] = field(default_factory=list)
    refused: list[RefusedFile] = field(default_factory=list)

    def unpack(self, archive: SourceFile, depth: int) -> None:
        """Unpacks an archive and those within it; a broken one keeps what could be read of it.

        Raises:
            RejectedError: the outermost archive is beyond the limits.
            InputError: the disk refuses to take the members.
        """
        if depth > self.limits.depth:
            raise _beyond(f"archives lie {depth} deep within one another, the limit is {self.limits.depth}")
        home = self.folder / f"{len(self.taken) + len(self.refused)}-{depth}"
        nested: list[SourceFile] = []
        before, taken, refused = self.members, len(self.taken), len(self.refused)
        try:
            for member in _members(archive.content):
                if member.rest is not None:
                    self._drain(member.rest)
                    continue
                self._count_member()
                if member.is_folder:
                    continue
                self._take(member, archive, home, nested)
        except InputError:
            raise
        except (gzip.BadGzipFile, _ChecksumError):  # any of its members may hold other bytes than were packed
            for file in (*self.taken[taken:], *nested):
                file.content.unlink(missing_ok=True)
            del self.taken[taken:], self.refused[refused:], nested[:]
            self._refuse(archive.path, Reason.UNREADABLE, "is an archive that fails the checksum of its compression")
        except Exception as error:  # zipfile, tarfile, zlib and lzma each have errors of their own
            what = "is an archive that cannot be read to its end" if self.members > before else "cannot be opened"
            met = f"{self.members - before} of its members were met"
            why = "correct its permissions" if isinstance(error, PermissionError) else "truncated or damaged"
            self._refuse(archive.path, Reason.UNREADABLE, f"{what} ({type(error).__name__}; {met}): {why}")
        if len(self.taken) + len(self.refused) + len(nested) == taken + refused:
            self._refuse(archive.path, Reason.NOT_AN_IMAGE_FILE, "is an archive without files: empty, or never filled")
        for inner in nested:
            self.unpack(inner, depth + 1)
            inner.content.unlink(missing_ok=True)

    def _take(self, member: _Member, archive: SourceFile, home: Path, nested: list[SourceFile]) -> None:
        why = member.refusal or _hostile(member.name)
        if why:
            # A hostile name is not repeated: the place is told by its number.
            place = archive.path / f"refused member {self.members}"
            self._refuse(place, Reason.HOSTILE_MEMBER, why)
            return
        name = PurePosixPath(member.name.replace("\\", "/"))
        path, content = archive.path / name, home / name
        if member.stream is None:
            self._refuse(path, Reason.UNREADABLE, member.damage)
            return
        try:
            content.parent.mkdir(parents=True, exist_ok=True)
            target = content.open("xb")
        except FileExistsError:
            self._refuse(path, Reason.DUPLICATE, "has the name of another member of its archive")
            return
        except OSError as error:
            if error.errno not in NAME_ERRORS:
                raise disk_refused(self.folder, error) from error
            what = f"cannot be unpacked ({type(error).__name__}): its name is too long, or that of a folder"
            self._refuse(path, Reason.UNREADABLE, what)
            return
        with writing(self.folder), target:
            damage = self._copy(member.stream, target)
        if damage:
            content.unlink()
            self._refuse(path, Reason.UNREADABLE, damage)
            return
        (nested if is_archive(content) else self.taken).append(SourceFile(path, content))

    def _drain(self, rest: gzip.GzipFile) -> None:
        while block := rest.read(BLOCK_BYTES):
            self._count_bytes(block)

    def _copy(self, stream: IO[bytes], target: IO[bytes]) -> str:
        """Copies a member; tells what is wrong with it. Only an error of reading is that: others are the disk's."""
        while True:
            try:
                block = stream.read(BLOCK_BYTES)
            except gzip.BadGzipFile as error:
                raise _ChecksumError from error
            except Exception as error:  # zlib, lzma, bz2, zipfile and tarfile have errors of their own
                return _damaged(error)
            if not block:
                return ""
            self._count_bytes(block)
            target.write(block)

    def _count_bytes(self, block: bytes) -> None:
        self.unpacked_bytes += len(block)
        if self.unpacked_bytes > self.limits.unpacked_bytes:
            raise _beyond(f"it unpacks to more than {self.limits.unpacked_bytes} bytes, which is the limit")
        allowed = max(self.limits.ratio * self.packed_bytes, self.limits.ratio_from_bytes)
        if self.unpacked_bytes > allowed:
            raise _beyond(f"it unpacks to more than {self.limits.ratio:g} times its size, as bombs do")

    def _count_member(self) -> None:
        self.members += 1
        if self.members > self.limits.members:
            raise _beyond(f"it has more than {self.limits.members} members, which is the limit")

    def _refuse(self, path: Path, reason: Reason, detail: str) -> None:
        self.refused.append(RefusedFile(path, reason, detail))


def _beyond(why: str) -> RejectedError:
    return RejectedError(Reason.ARCHIVE_LIMIT, f"is an archive beyond the limits: {why}; unpack it by hand")


def _hostile(name: str) -> str:
    """Why a name may not be followed; empty where it may."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or "\0" in name:
        return "has no usable name"
    if parts[0] == "/" or parts[0].endswith(":"):
        return "has an absolute name"
    return "has a name that leads out of the archive" if ".." in parts else ""


def _damaged(error: Exception) -> str:
    return f"cannot be unpacked ({type(error).__name__}): truncated or damaged"


def _members(path: Path) -> Iterator[_Member]:
    """The members in the archive's order; each stream is good until the next is asked for."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                yield from _zip_member(archive, entry)
    else:
        with path.open("rb") as file:
            is_gzip = file.read(2) == GZIP_MAGIC
        if not is_gzip:
            yield from _tar_members(name=path)
            return
        with gzip.open(path) as packed:  # which checks the checksum, where all is read
            yield from _tar_members(fileobj=packed)
            yield _Member("", rest=packed)


def _tar_members(**source: Any) -> Iterator[_Member]:
    # "r|*" reads the file once from front to end, without looking back.
    with tarfile.open(mode="r|*", tarinfo=_Header, **source) as tar:
        for item in tar:
            refusal = "" if item.isfile() or item.isdir() else "is a link or a device, which is not followed"
            stream = tar.extractfile(item) if item.isfile() else None
            yield _Member(item.name, refusal, is_folder=item.isdir(), stream=stream)


class _Header(tarfile.TarInfo):
    """A header of a tar; a broken one is an error, where `tarfile` would take it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError("broken header") from error


def _zip_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[_Member]:
    kind = (entry.external_attr >> 16) & 0o170000
    is_folder = entry.filename.endswith("/")  # `is_dir` fails where there is no name
    if is_folder or kind not in (0, 0o100000):
        refusal = "" if is_folder else "is a link or a device, which is not followed"
        yield _Member(entry.filename, refusal, is_folder=is_folder)
        return
    if entry.flag_bits & 1:
        yield _Member(entry.filename, "is encrypted; unpack it by hand")
        return
    try:
        stream = archive.open(entry)
    except NotImplementedError:
        method = ZIP_METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        yield _Member(entry.filename, damage=f"is compressed by {method}, which is not supported; unpack it by hand")
    except Exception as error:  # a broken header says nothing about the members that follow
        yield _Member(entry.filename, damage=_damaged(error))
    else:
        with stream:
            yield _Member(entry.filename, stream=stream)
