"""The model versions of a user on disk: publish, compare, activate, roll back, hand on.

A version is a folder that appears by one rename; which one is active is one small file that is replaced by one rename.
What a kill leaves behind carries a name that no reader looks at, and the next writer removes it under the lock.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ..engine.errors import ModelError, StorageError
from ..engine.files import delete_file, delete_leftovers, file_sha256, os_errors_as, write_bytes, write_text
from ..engine.model import (
    BUILTIN_MODEL,
    REINSTALL,
    WEIGHTS_FILE,
    ModelDescription,
    describe_model,
    write_description,
)
from ..engine.scan_identity import ScanIdentity
from .active_version import ROLL_BACK, read_active, read_active_to_leave, write_active
from .folder_lock import FolderLock
from .model_archive import EXPORT_AGAIN, read_archive, write_archive
from .model_version import (
    MANIFEST_FILE,
    REPAIR,
    ModelVersion,
    builtin_version,
    by_date,
    check_files,
    flush_folder,
    is_builtin,
    is_former_builtin,
    is_plain_name,
    is_version_file,
    manifest_text,
    read_contents,
    read_version,
    same_version,
    sound_version,
)
from .user_folder import default_models_folder

LOCK_FILE = "registry.lock"
REPLACED = "The built-in version '{former}' was replaced by '{name}' in an update."

_ASIDE, _DELETED = ".aside-", ".deleted-"
_WAIT_SECONDS = 5.0
_OTHER_NAME = "Choose another name of letters, digits, '.', '-' and '_'."


class ModelRegistry:
    """Versions in a folder that several processes, also of several hosts, may share; reading needs no lock.

    Args:
        folder: made by the first write; ``None`` is the user's own.

    What makes a version active or adds a foreign one reads its weights first, which loads torch into this process and
    takes seconds. Nobody has to wait for that: the folder is locked afterwards. Every method that writes may raise
    StorageError and FolderInUseError.
    """

    def __init__(self, folder: Path | str | None = None):
        self.folder = default_models_folder() if folder is None else Path(folder)
        self._versions = self.folder / "versions"

    @property
    def runs_folder(self) -> Path:
        return self.folder / "runs"

    # ---- reading

    def versions(self) -> list[ModelVersion]:
        """The built-in version, then the user's by date; damaged ones with their ``problem``."""
        found = sorted(map(read_version, self._folders()), key=by_date)
        return [builtin_version(), *(version for version in found if not version.problem or version.folder.exists())]

    def has_own(self) -> bool:
        """Whether there is a version besides the built-in one, damaged or not; no file of it is read.

        Raises:
            ModelError: the folder cannot be read.
        """
        return bool(self._folders())

    def version(self, name: str) -> ModelVersion:
        """One version, damaged or not.

        Raises:
            ModelError: there is none of this name.
        """
        return builtin_version() if is_builtin(name) else read_version(self._folder_of(name))

    def active(self) -> ModelVersion:
        """The version that new scans are segmented with; the built-in one when none was activated.

        Raises:
            ModelError: the active version is missing or damaged; nothing takes its place silently.
        """
        while True:
            state = read_active(self.folder)
            name = state.name
            try:
                note = REPLACED.format(former=state.former, name=name) if state.former else ""
                return replace(self._usable(name), note=note)
            except ModelError as error:
                if read_active(self.folder).name == name:  # else another was activated in this very moment
                    raise ModelError(f"The active model '{name}' cannot be used. {error.cause}", ROLL_BACK) from error

    def previous(self) -> str:
        """Name of the version that ``roll_back`` would activate, empty when there is none."""
        state = read_active_to_leave(self.folder)
        found = self._go_back(state.name, state.previous)
        return found[0].name if found else ""

    def checked_folder(self, name: str | None = None) -> Path:
        """Folder of a version whose every file is as published, for the engine.

        Args:
            name: ``None`` is the active version.

        Raises:
            ModelError: unknown, damaged, foreign, tampered with or of a newer schema.
        """
        return (self.active() if name is None else self._usable(name)).folder

    def trained_on(self, scan: ScanIdentity) -> list[str]:
        """Names of the versions that saw a scan in training or rehearsal, or that came from one which did."""
        return [model.version for model in self._descriptions() if model.was_trained_on(scan)]

    def cannot_tell(self) -> list[str]:
        """Names of the versions that do not say what they were trained on; no scan is called unseen by them."""
        damaged = [version.name for version in self.versions() if version.description is None]
        return [*(model.version for model in self._descriptions() if not model.seen.known), *damaged]

    # ---- writing

    def publish(self, folder: Path, name: str, files: Mapping[str, bytes | Path]) -> ModelVersion:
        """Copy a model folder with further files into the registry as a candidate; whole or not at all.

        Args:
            folder: model.json and weights.pt (and texts .md); the copy's description carries the new name.
            name: of the new version.
            files: contents or files to copy by name, for instance ledger.json.

        Returns:
            The version; the one that is there already when name, description and weights are the same.

        Raises:
            ModelError: the folder is no whole model, or the name is taken by another one.
        """
        folder = Path(folder)
        description = replace(describe_model(folder), version=name)
        texts = {path.name: path for path in folder.glob("*.md")}
        contents = read_contents({**texts, **files, WEIGHTS_FILE: folder / WEIGHTS_FILE})
        return self._put(name, contents, description)

    def activate(self, name: str) -> ModelVersion:
        """Segment with this version from now on, after its weights were really read.

        Raises:
            ModelError: unknown, damaged, foreign, tampered with or of a newer schema; the active version stays.
        """
        version = self._usable(name)
        _try_weights(version.folder)
        with self._writing() as lock:
            self._check_same(version)
            state = read_active_to_leave(self.folder)
            lock.confirm()
            if state.name != version.name:
                write_active(self.folder, version.name, [*state.previous, *filter(None, [state.name])])
        return version

    def roll_back(self) -> ModelVersion:
        """Activate the version before the active one, passing over what was deleted or is damaged since.

        Raises:
            ModelError: the built-in version is active and nothing came before it.
        """
        state = read_active_to_leave(self.folder)
        previous: Sequence[str] = state.previous
        while found := self._go_back(state.name, previous):
            version, previous = found
            try:
                _try_weights(version.folder)
            except ModelError:
                if version.builtin:
                    raise
                continue
            with self._writing() as lock:
                self._check_same(version)
                if read_active_to_leave(self.folder) != state:
                    cause = "Another version was activated in this very moment."
                    raise ModelError(cause, "Look which one is active, then try again.")
                lock.confirm()
                write_active(self.folder, version.name, previous)
            return version
        raise ModelError("There is no earlier version to go back to.", "Activate a version by its name.")

    def delete(self, name: str) -> None:
        """Remove a version; rolling back then goes to the one before it.

        Raises:
            ModelError: unknown, built-in or active.
        """
        if is_builtin(name):
            raise ModelError(f"The built-in version '{name}' cannot be deleted.", "Delete versions of your own only.")
        self._folder_of(name)
        with self._writing() as lock:
            folder, state = self._folder_of(name), read_active(self.folder)
            if state.name == name:
                cause = f"Model '{name}' is the active version and cannot be deleted."
                raise ModelError(cause, "Roll back or activate another version first.")
            lock.confirm()
            if name in state.previous:
                write_active(self.folder, state.name, [other for other in state.previous if other != name])
            if folder.is_symlink():
                folder.unlink()
                return
            away = Path(tempfile.mkdtemp(prefix=_DELETED, dir=self._versions))
            os.replace(folder, away / name)
            flush_folder(self._versions)
            shutil.rmtree(away, ignore_errors=True)

    def delete_pictures(self, name: str) -> None:
        """Delete the pages and pictures of scans of a version's comparison; its figures stay.

        Raises:
            ModelError: unknown or built-in.
        """
        with self._writing():
            for picture in read_version(self._folder_of(name)).pictures:
                cause = f"'{picture.name}' of model '{name}' cannot be deleted"
                with os_errors_as(StorageError, cause, "Close the program that shows it."):
                    delete_file(picture)

    def export(self, name: str, path: Path | str, without_seen: bool = False) -> None:
        """Write a version into one .zip with its checksums, without pictures of scans.

        Args:
            without_seen: leave out by which the scans that it was trained on are recognized; whoever imports it is
                told that nobody can tell what they were.

        Raises:
            ModelError: unknown, built-in or damaged version. StorageError: the file cannot be written.
        """
        if is_builtin(name):
            cause = f"The built-in version '{name}' comes with every installation and need not be exported."
            raise ModelError(cause, "Export a version of your own.")
        write_archive(self._folder_of(name), Path(path), without_seen)

    def import_file(self, path: Path | str) -> ModelVersion:
        """Add a version that ``export`` wrote, here or elsewhere, as a candidate; its weights are really read.

        Returns:
            The version; the one that is there already when it is the same.

        Raises:
            ModelError: damaged, foreign, tampered with, of a newer schema, or its name is taken by another one.
        """
        try:
            name, contents = read_archive(Path(path))
            _check_names(name, contents)
            with tempfile.TemporaryDirectory() as aside:
                _try_weights(_stage(Path(aside), name, contents))
            return self._put(name, contents)
        except ModelError as error:
            advice = EXPORT_AGAIN if error.next_step in (REPAIR, REINSTALL) else error.next_step
            raise ModelError(error.cause, advice) from error

    # ---- parts

    def _descriptions(self) -> list[ModelDescription]:
        return [version.description for version in self.versions() if version.description is not None]

    def _folders(self) -> list[Path]:
        """Folders of versions; what begins with a dot is none, or not yet, or no more."""
        cause = f"The models folder '{self.folder.name}' cannot be read"
        with os_errors_as(ModelError, cause, "Check its drive and that you may read it."):
            try:
                entries = sorted(self._versions.iterdir())
            except (FileNotFoundError, NotADirectoryError):
                return []
        return [path for path in entries if not path.name.startswith(".") and path.is_dir()]

    def _folder_of(self, name: str) -> Path:
        """Folder of a version of the user's own. Raises ModelError."""
        if is_former_builtin(name):
            raise ModelError(REPLACED.format(former=name, name=BUILTIN_MODEL), f"Use '{BUILTIN_MODEL}'.")
        folders = {folder.name: folder for folder in self._folders()}
        if name not in folders:
            known = ", ".join(f"'{known}'" for known in (BUILTIN_MODEL, *folders))
            raise ModelError(f"There is no model version '{name}'.", f"Choose one of {known}.")
        return folders[name]

    def _usable(self, name: str) -> ModelVersion:
        """A version without a problem. Raises ModelError."""
        if not is_builtin(name):
            return sound_version(self._folder_of(name))
        if (version := builtin_version()).problem:
            raise ModelError(version.problem)
        return version

    def _check_same(self, tried: ModelVersion) -> None:
        """Make sure, under the lock, that a version is still the one that was tried. Raises ModelError."""
        if self._usable(tried.name).description != tried.description:
            cause = f"Version '{tried.name}' was replaced while its weights were tried."
            raise ModelError(cause, "Look at it, then try again.")

    def _go_back(self, active: str, previous: Sequence[str]) -> tuple[ModelVersion, list[str]] | None:
        """The version before the active one that can be used, and what came before that; at last the built-in one."""
        rest = list(previous)
        while rest:
            name = rest.pop()
            with suppress(ModelError):
                if name != active:
                    return self._usable(name), rest
        return None if is_builtin(active) else (builtin_version(), [])

    @contextmanager
    def _writing(self) -> Iterator[FolderLock]:
        cause = f"The models folder '{self.folder.name}' cannot be written"
        with os_errors_as(StorageError, cause, "Free space or choose a folder you may write to."):
            self._versions.mkdir(parents=True, exist_ok=True)
            with FolderLock(self.folder, LOCK_FILE, _WAIT_SECONDS, "models folder") as lock:
                self._sweep()
                yield lock

    def _sweep(self) -> None:
        """Finish or remove what a writer left that was ended in the middle."""
        for path in self._versions.iterdir():
            if path.name.startswith((_ASIDE, _DELETED)):
                shutil.rmtree(path, ignore_errors=True)
        delete_leftovers(self.folder)

    def _put(
        self, name: str, contents: Mapping[str, bytes], description: ModelDescription | None = None
    ) -> ModelVersion:
        """Fill a folder aside, check it there, flush it to the disk, then rename it into place."""
        _check_names(name, contents)
        with self._writing() as lock:
            aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=self._versions))
            try:
                staged = _stage(aside, name, contents, description)
                taken = next((path for path in self._folders() if path.name.lower() == name.lower()), None)
                if taken is not None:
                    return same_version(taken, staged)
                flush_folder(staged)
                lock.confirm()
                os.replace(staged, self._versions / name)
                flush_folder(self._versions)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        return self.version(name)


def _check_names(name: str, files: Iterable[str]) -> None:
    strange = next((file for file in files if not is_version_file(file)), None)
    if strange is not None:
        raise ModelError(f"A file of a model version cannot be called '{strange}'.", _OTHER_NAME)
    reserved = is_builtin(name) or is_former_builtin(name)
    if not is_plain_name(name) or reserved:
        reason = "; that is the built-in one" if reserved else ""
        raise ModelError(f"A model version cannot be called '{name}'{reason}.", _OTHER_NAME)


def _stage(folder: Path, name: str, contents: Mapping[str, bytes], description: ModelDescription | None = None) -> Path:
    """Make and check a version's folder in another one; ``description`` replaces that of the contents."""
    staged = folder / name
    staged.mkdir()
    for file, content in contents.items():
        write_bytes(content, staged / file)
    if description is not None:
        write_description(staged, description)
    checksums = {path.name: file_sha256(path) for path in sorted(staged.iterdir())}
    write_text(manifest_text(name, checksums), staged / MANIFEST_FILE)
    check_files(staged)
    return staged


def _try_weights(folder: Path) -> None:
    """Read the weights into the network that the description names; without torch nothing can be tried.

    Raises:
        ModelError: see ``engine.model.load_networks``.
    """
    try:
        import torch  # noqa: F401
    except (ImportError, OSError):
        return
    from ..engine.model import load_networks

    load_networks(folder)


def resolve_model(text: str | None, registry: ModelRegistry | None = None) -> Path:
    """Folder of the model that a person means.

    Args:
        text: a folder or a version's name; ``None`` is the active version.

    Raises:
        ModelError: there is no such version, or it cannot be used.
    """
    registry = registry or ModelRegistry()
    if text is None:
        return registry.checked_folder()
    if text.lower().endswith(".zip") and Path(text).is_file():
        cause = f"'{Path(text).name}' is an exported version, not one that can be used."
        raise ModelError(cause, f"Import it first: models import {Path(text).name}")
    if Path(text).is_dir() or not is_plain_name(text):
        return Path(text)
    return registry.checked_folder(text)
