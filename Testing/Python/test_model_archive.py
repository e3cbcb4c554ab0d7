"""A model version as one file: it comes back as it left, and whatever else calls itself so is refused unexecuted."""

import io
import json
import os
import pickle
import stat
import struct
import zipfile

import pytest
import registry_parts
from learning_parts import toy_scan
from registry_parts import BUILTIN, assert_whole, publish, snapshot, vouch

from DDSPSegmentationLib.engine.errors import ModelError, StorageError
from DDSPSegmentationLib.engine.model import DESCRIPTION_FILE, WEIGHTS_FILE, load_networks
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, ScanIdentity
from DDSPSegmentationLib.library import model_archive, model_registry
from DDSPSegmentationLib.library.model_archive import EXPORT_AGAIN
from DDSPSegmentationLib.library.model_registry import ModelRegistry, resolve_model
from DDSPSegmentationLib.library.model_version import MANIFEST_FILE, manifest_text

NO_ZIP, FOREIGN, NEWER = "is damaged or no .zip file", "which does not belong", "schema version 2"
FILES = {
    "ledger.json": b'{"epochs": 3}',
    "comparison.json": b'{"verdict": "better"}',
    "comparison.html": b"<html>pictures of scans</html>",
    "worst-1.png": b"a picture of a scan",
}


@pytest.fixture
def here(tmp_path):
    """A registry with the version v1."""
    registry = ModelRegistry(tmp_path / "here")
    publish(registry, "v1", tmp_path, files=FILES)
    return registry


@pytest.fixture
def elsewhere(tmp_path):
    """Somebody else's registry, with a version of its own."""
    registry = ModelRegistry(tmp_path / "elsewhere")
    publish(registry, "own", tmp_path, bright=3)
    registry.activate("own")
    return registry


@pytest.fixture
def exported(here, tmp_path):
    path = tmp_path / "v1.zip"
    here.export("v1", path)
    return path


def refused(registry, path) -> str:
    """The error of an import; nothing of the registry has changed and nothing is left behind."""
    before = snapshot(registry)
    with pytest.raises(ModelError) as caught:
        registry.import_file(path)
    assert caught.value.cause and caught.value.next_step
    assert snapshot(registry) == before and os.listdir(registry.folder / "versions") == ["own"]
    assert_whole(registry)
    return str(caught.value)


def contents_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path, contents, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def rezip(path, changes=None, vouched=True, name="v1"):
    """The same file with other contents (``None``: without), for which the manifest vouches when asked to."""
    contents = {**contents_of(path), **(changes or {})}
    contents = {file: content for file, content in contents.items() if content is not None}
    if vouched:
        files = {
            file: registry_parts.hashlib.sha256(content).hexdigest()
            for file, content in contents.items()
            if file != MANIFEST_FILE
        }
        contents[MANIFEST_FILE] = manifest_text(name, files).encode()
    return write_zip(path, contents)


def forged(exported, place, forge, *arguments):
    """The exported version with its weights or description changed as only a careful forger would."""
    folder = place / "v1"
    folder.mkdir()
    for file, content in contents_of(exported).items():
        (folder / file).write_bytes(content)
    forge(folder, *arguments)
    vouch(folder)
    return write_zip(exported, {path.name: path.read_bytes() for path in folder.iterdir()})


# ---- there and back


def test_a_version_comes_back_as_it_left_as_a_candidate(here, elsewhere, exported):
    version = elsewhere.import_file(exported)
    original = here.version("v1")
    assert (version.name, version.description) == ("v1", original.description)
    assert (version.ledger, version.comparison) == (original.ledger, original.comparison)
    assert elsewhere.active().name == "own"
    assert load_networks(elsewhere.checked_folder("v1"))[1] == original.description
    elsewhere.activate("v1")
    assert_whole(elsewhere)


def test_a_version_that_leaves_without_what_it_saw_cannot_tell_elsewhere(elsewhere, tmp_path):
    scan, registry = ScanIdentity(toy_scan(1)[0]), ModelRegistry(tmp_path / "mine")
    publish(registry, "v1", tmp_path, seen=NOTHING_SEEN.with_training([("a3f9-0001", scan)]))
    registry.export("v1", tmp_path / "whole.zip")
    registry.export("v1", tmp_path / "without.zip", without_seen=True)
    with zipfile.ZipFile(tmp_path / "without.zip") as archive:
        assert scan.digest.encode() not in b"".join(archive.read(name) for name in archive.namelist())
    silent = elsewhere.import_file(tmp_path / "without.zip").description
    assert silent.was_trained_on(scan) is None and elsewhere.cannot_tell() == ["own", "v1"]
    assert registry.version("v1").description.was_trained_on(scan) is True  # here everything stays
    elsewhere.delete("v1")
    assert elsewhere.import_file(tmp_path / "whole.zip").description.was_trained_on(scan) is True
    assert elsewhere.trained_on(scan) == ["v1"]


def test_no_picture_of_a_scan_leaves_with_a_model(exported):
    assert sorted(contents_of(exported)) == sorted(
        [MANIFEST_FILE, DESCRIPTION_FILE, WEIGHTS_FILE, "ledger.json", "comparison.json"]
    )
    assert b"of a scan" not in b"".join(contents_of(exported).values())


def test_the_same_version_gives_the_same_file(here, exported, tmp_path):
    here.export("v1", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == exported.read_bytes()


def test_importing_a_version_that_is_there_already_changes_nothing(here, exported):
    before = snapshot(here)
    assert here.import_file(exported) == here.version("v1") and snapshot(here) == before


def test_a_file_of_another_name_is_imported_alike(elsewhere, exported):
    assert elsewhere.import_file(exported.rename(exported.with_name("from a colleague (1)"))).name == "v1"


def test_a_version_that_macos_packed_again_is_imported(elsewhere, exported):
    contents = contents_of(exported)
    notes = {f"__MACOSX/._{name}": b"macOS" for name in contents} | {".DS_Store": b"macOS"}
    write_zip(exported, {**contents, **notes})
    assert elsewhere.import_file(exported).name == "v1"


@pytest.mark.parametrize("separator", "/\\")
def test_a_version_that_windows_packed_again_with_its_folder_is_imported(elsewhere, exported, separator):
    contents = {f"v1 (1){separator}{name}": content for name, content in contents_of(exported).items()}
    write_zip(exported, {f"v1 (1){separator}": b"", **contents, f"v1 (1){separator}Thumbs.db": b"Windows"})
    assert elsewhere.import_file(exported).name == "v1"


def test_an_exported_version_is_not_used_before_it_is_imported(elsewhere, exported):
    with pytest.raises(ModelError, match="'v1.zip' is an exported version.*Import it first: models import v1.zip"):
        resolve_model(str(exported), elsewhere)


def test_the_built_in_version_is_not_exported(here, tmp_path):
    with pytest.raises(ModelError, match="need not be exported"):
        here.export(BUILTIN, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_a_damaged_version_is_not_exported(here, tmp_path):
    (here.folder / "versions" / "v1" / WEIGHTS_FILE).write_bytes(b"x")
    with pytest.raises(ModelError, match="damaged"):
        here.export("v1", tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_an_export_that_fails_leaves_the_old_file(here, exported, tmp_path, monkeypatch):
    before = exported.read_bytes()
    here.delete("v1")
    here.publish(tmp_path / "made-v1", "v1", {"ledger.json": b'{"epochs": 4}'})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="'v1.zip'"):
        here.export("v1", exported)
    assert exported.read_bytes() == before and sorted(exported.parent.glob(".*")) == []
    with pytest.raises(StorageError, match="v1.zip"):
        here.export("v1", exported.parent / "nowhere" / "v1.zip")


# ---- what is refused


def test_a_file_that_is_not_there_is_named(elsewhere, tmp_path):
    assert "'v1.zip' cannot be read" in refused(elsewhere, tmp_path / "v1.zip")
    assert "cannot be read" in refused(elsewhere, tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(elsewhere, exported, share):
    content = exported.read_bytes()
    exported.write_bytes(content[: int(len(content) * share)])
    assert f"'v1.zip' {NO_ZIP}" in refused(elsewhere, exported)


@pytest.mark.parametrize("content", [b"", b"this is no zip file", b"PK\x03\x04", bytes(1000)])
def test_a_file_that_is_no_zip_is_refused(elsewhere, exported, content):
    exported.write_bytes(content)
    assert f"{NO_ZIP}. {EXPORT_AGAIN}" in refused(elsewhere, exported)


def test_a_byte_that_flipped_on_the_way_is_found_wherever_it_is(here, elsewhere, exported, monkeypatch):
    content, silent = exported.read_bytes(), []
    for place in range(0, len(content), 23):
        exported.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        try:
            silent.append(model_archive.read_archive(exported))
        except ModelError:
            continue
    # Dates and the like carry nothing; what comes through is what was exported.
    assert all(found == silent[0] for found in silent) and len(silent) < len(content) / 230
    exported.write_bytes(content)
    assert not silent or silent[0] == model_archive.read_archive(exported)


@pytest.mark.parametrize("file", [DESCRIPTION_FILE, WEIGHTS_FILE, "ledger.json"])
def test_a_file_that_was_changed_or_taken_out_is_named(elsewhere, exported, tmp_path, file):
    whole = exported.read_bytes()
    rezip(exported, {file: contents_of(exported)[file] + b" "}, vouched=False)
    assert f"was changed: '{file}' is not what was exported" in refused(elsewhere, exported)
    exported.write_bytes(whole)
    rezip(exported, {file: None}, vouched=False)
    assert f"lacks '{file}'" in refused(elsewhere, exported)


@pytest.mark.parametrize("file", [DESCRIPTION_FILE, WEIGHTS_FILE])
def test_a_manifest_that_does_without_the_model_is_refused(elsewhere, exported, file):
    assert f"no {file}" in refused(elsewhere, rezip(exported, {file: None}))


def test_a_zip_of_something_else_is_refused(elsewhere, exported):
    assert "has no manifest.json" in refused(elsewhere, rezip(exported, {MANIFEST_FILE: None}, vouched=False))
    assert "has no manifest.json" in refused(elsewhere, write_zip(exported, {}))
    assert f"holds 'photo.jpg', {FOREIGN}" in refused(elsewhere, write_zip(exported, {"photo.jpg": b"x"}))


@pytest.mark.parametrize("vouched", [True, False])
@pytest.mark.parametrize(
    "name",
    ["extra.json", "comparison.html", "run.py", "../evil.json", "/evil.json", "..\\evil.json", "sub/model.json",
     "C:evil.json", "MODEL.JSON", "nul.md", ".hidden.md", "a\0.md"],
)  # fmt: skip
def test_a_file_that_does_not_belong_or_leaves_the_folder_is_refused(elsewhere, exported, tmp_path, name, vouched):
    before = sorted(path for path in tmp_path.rglob("*"))
    message = refused(elsewhere, rezip(exported, {name: b"{}"}, vouched=vouched))
    assert FOREIGN in message
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_text_that_the_manifest_does_not_name_is_refused(elsewhere, exported):
    message = refused(elsewhere, rezip(exported, {"TERMS.md": b"none"}, vouched=False))
    assert f"holds 'TERMS.md', {FOREIGN}" in message


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(elsewhere, exported):
    with zipfile.ZipFile(exported, "a") as archive:
        archive.writestr(WEIGHTS_FILE, b"others")
    assert f"holds '{WEIGHTS_FILE}' twice" in refused(elsewhere, exported)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFDIR])
def test_a_link_is_refused(elsewhere, exported, kind):
    contents = contents_of(exported)
    with zipfile.ZipFile(exported, "w") as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name)
            if name == "ledger.json":
                entry.external_attr, content = (kind | 0o777) << 16, b"/etc/hostname"
            archive.writestr(entry, content)
    assert "holds 'ledger.json' as a link or device" in refused(elsewhere, exported)


def test_an_encrypted_or_strangely_packed_file_is_refused(elsewhere, exported):
    contents = contents_of(exported)
    write_zip(exported, contents, zipfile.ZIP_LZMA)
    assert "unknown compression" in refused(elsewhere, exported)
    content = bytearray(write_zip(exported, contents).read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    exported.write_bytes(content)
    assert "is encrypted" in refused(elsewhere, exported)


def test_a_file_that_would_fill_the_disk_is_refused_before_it_is_unpacked(elsewhere, exported, monkeypatch):
    monkeypatch.setattr(model_archive, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
    with zipfile.ZipFile(exported, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.md", bytes(model_archive.MOST_BYTES + 1))
    assert exported.stat().st_size < 1 << 16
    assert "would grow to 1 MB; at most 1 MB" in refused(elsewhere, exported)


def test_a_file_that_lies_about_its_size_is_not_unpacked_beyond_it(elsewhere, exported):
    """The directory says 10 bytes where sixteen megabytes of zeros are packed."""
    contents = contents_of(exported)
    with zipfile.ZipFile(exported, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        with archive.open("big.md", "w") as entry:
            for _ in range(16):
                entry.write(bytes(1 << 20))
    content = bytearray(exported.read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", 10)
    exported.write_bytes(content)
    assert NO_ZIP in refused(elsewhere, exported)


def test_a_very_large_file_or_one_of_many_files_is_refused(elsewhere, exported):
    assert "holds 45 files" in refused(elsewhere, rezip(exported, {f"text{n}.md": b"" for n in range(40)}))
    with open(exported, "ab") as file:
        file.truncate(model_archive.MOST_BYTES + 1)
    assert "is larger than 64 MB" in refused(elsewhere, exported)


def test_weights_that_would_unpack_to_gigabytes_are_refused_before_torch_sees_them(elsewhere, exported, monkeypatch):
    monkeypatch.setattr(model_archive, "MOST_BYTES", 1 << 20)
    packed = io.BytesIO(contents_of(exported)[WEIGHTS_FILE])
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/99", bytes(model_archive.MOST_BYTES))
    monkeypatch.setattr(model_registry, "_try_weights", lambda *_: pytest.fail("torch was asked"))
    assert "holds weights of 1 MB" in refused(elsewhere, rezip(exported, {WEIGHTS_FILE: packed.getvalue()}))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("container", ["torch", "pickle", "pickle in a zip"])
def test_code_hidden_in_the_weights_never_runs(elsewhere, exported, tmp_path, container):
    trace = tmp_path / "ran"
    intruder = pickle.dumps({"head1.weight": registry_parts.Intruder(trace)})

    def hide(folder):
        if container == "torch":
            registry_parts.with_intruder(folder, trace)
        elif container == "pickle":
            (folder / WEIGHTS_FILE).write_bytes(intruder)
        else:
            write_zip(folder / WEIGHTS_FILE, {"archive/data.pkl": intruder, "archive/version": b"3\n"})

    message = refused(elsewhere, forged(exported, tmp_path, hide))
    assert "weights" in message
    assert not trace.exists()
    pickle.loads(intruder)
    assert trace.exists(), "the intruder is no threat, so the test shows nothing"


@pytest.mark.parametrize("forge", ["of_another_architecture", "with_nan"])
def test_a_version_of_another_architecture_or_without_finite_weights_is_refused(elsewhere, exported, tmp_path, forge):
    message = refused(elsewhere, forged(exported, tmp_path, getattr(registry_parts, forge)))
    assert "weights" in message and EXPORT_AGAIN in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 3}, "schema version 3"),
        ({"version": "v7"}, "calls itself 'v7'"),
        ({"sha256": "0" * 64}, "weights of model 'v1'"),
        ({"training": {"cases": [3]}}, "damaged model.json"),
        ({"training": {"replay": 3}}, "damaged model.json"),
        ({"date": 7}, "damaged model.json"),
        ({"more": 7}, "damaged model.json"),
        ({"network": {"block": "unet"}}, "'unet'"),
    ],
    ids=str,
)
def test_a_description_that_nothing_follows_is_refused(elsewhere, exported, changes, words):
    values = {**json.loads(contents_of(exported)[DESCRIPTION_FILE]), **changes}
    assert words in refused(elsewhere, rezip(exported, {DESCRIPTION_FILE: json.dumps(values).encode()}))


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"a":' * 100_000])
def test_a_description_that_is_no_table_is_refused(elsewhere, exported, content):
    assert "damaged model.json" in refused(elsewhere, rezip(exported, {DESCRIPTION_FILE: content}))


def test_a_manifest_of_a_newer_version_asks_for_an_update(elsewhere, exported):
    newer = json.dumps({**json.loads(contents_of(exported)[MANIFEST_FILE]), "schema_version": 2}).encode()
    message = refused(elsewhere, rezip(exported, {MANIFEST_FILE: newer}, vouched=False))
    assert NEWER in message


@pytest.mark.parametrize("name", ["../own", "", "a/b", ".hidden", "nul", 7, None, ["v1"]])
def test_a_version_of_a_name_that_leaves_the_folder_is_refused(elsewhere, exported, name):
    assert "manifest.json" in refused(elsewhere, rezip(exported, name=name))


@pytest.mark.parametrize("name", [BUILTIN, BUILTIN.upper()])
def test_a_version_that_calls_itself_like_the_built_in_one_is_refused(elsewhere, exported, name):
    values = {**json.loads(contents_of(exported)[DESCRIPTION_FILE]), "version": name}
    path = rezip(exported, {DESCRIPTION_FILE: json.dumps(values).encode()}, name=name)
    assert f"'{name}'" in refused(elsewhere, path)


def test_a_version_never_replaces_another_one_of_its_name(here, elsewhere, tmp_path):
    publish(here, "own", tmp_path / "other", bright=5)
    here.export("own", tmp_path / "own.zip")
    assert "Another model version is called 'own' already. Give it another name" in refused(
        elsewhere, tmp_path / "own.zip"
    )


@pytest.mark.parametrize(
    "comparison",
    [
        {"sentences": 7},
        {"sentences": [7], "recommendation": "activate"},
        {"hold_out_summary": ["dice"]},
        {"hold_out_summary": {"old": {"dice": "0.9"}, "new": {"dice": 0.9}}},
        {"hold_out_summary": {"old": 0.9}},
    ],
    ids=str,
)
def test_a_comparison_that_cannot_be_shown_counts_as_none(elsewhere, exported, comparison):
    elsewhere.import_file(rezip(exported, {"comparison.json": json.dumps(comparison).encode()}))
    assert elsewhere.version("v1").comparison == {} and elsewhere.version("v1").problem == ""
