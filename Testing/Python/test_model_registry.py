"""Model versions of a user: what is published is whole, what is active is sound, what is damaged says so."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import registry_parts
from engine_parts import bright_model
from learning_parts import toy_scan
from registry_parts import BUILTIN, assert_whole, edit_json, publish, snapshot, vouch

from DDSPSegmentationLib.engine.errors import ModelError, StorageError
from DDSPSegmentationLib.engine.model import DESCRIPTION_FILE, WEIGHTS_FILE, builtin_model_folder, load_networks
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, ScanIdentity
from DDSPSegmentationLib.library import model_registry, model_version
from DDSPSegmentationLib.library.folder_lock import FolderInUseError, FolderLock, lock_holder
from DDSPSegmentationLib.library.model_registry import LOCK_FILE, ModelRegistry, resolve_model
from DDSPSegmentationLib.library.model_version import MANIFEST_FILE
from DDSPSegmentationLib.library.user_folder import default_models_folder

MODULE = Path(__file__).resolve().parents[2] / "DDSPSegmentation"
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry(tmp_path / "Models")


@pytest.fixture
def three(registry, tmp_path):
    """A registry in which v1, v2 and v3 were activated one after the other."""
    for number in (1, 2, 3):
        publish(registry, f"v{number}", tmp_path, bright=number)
        registry.activate(f"v{number}")
    return registry


def refused(action, *arguments) -> str:
    """The error that both cause and next step come with."""
    with pytest.raises(ModelError) as caught:
        action(*arguments)
    assert caught.value.cause and caught.value.next_step
    return str(caught.value)


def names(registry):
    return [version.name for version in registry.versions()]


# ---- publish


def test_before_anything_is_published_the_built_in_version_is_active_and_nothing_is_written(registry):
    (only,) = registry.versions()
    assert only.builtin and only.name == BUILTIN and not only.problem
    assert registry.active() == only and registry.previous() == ""
    assert registry.checked_folder() == builtin_model_folder()
    assert not registry.folder.exists()


def test_the_models_of_a_user_are_in_the_home_folder(tmp_path, monkeypatch):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert ModelRegistry().folder == default_models_folder() == tmp_path / "DDSPSegmentation" / "Models"


def test_a_published_version_is_a_candidate_that_the_engine_can_load(registry, tmp_path):
    version = publish(registry, "v1", tmp_path, files={"ledger.json": b'{"epochs": 3}'})
    assert version.name == "v1" and not version.builtin and not version.problem
    assert version.ledger == {"epochs": 3} and version.comparison == {}
    assert names(registry) == [BUILTIN, "v1"] and registry.active().builtin
    (network,), description = load_networks(registry.checked_folder("v1"))
    assert description == version.description and description.version == "v1"
    assert sorted(os.listdir(version.folder)) == ["ledger.json", MANIFEST_FILE, DESCRIPTION_FILE, WEIGHTS_FILE]
    assert os.listdir(registry.folder / "versions") == ["v1"] and not lock_holder(registry.folder, "registry.lock")


def test_versions_are_listed_by_date_and_number(registry, tmp_path):
    for name, date in (("r10", "2024-05-02"), ("r9", "2024-05-02"), ("z", "2024-05-01"), ("a", "2024-06-01")):
        publish(registry, name, tmp_path, date=date)
    assert names(registry) == [BUILTIN, "z", "r9", "r10", "a"]


def test_publishing_the_same_model_again_changes_nothing(registry, tmp_path):
    first = publish(registry, "v1", tmp_path)
    before = snapshot(registry)
    assert registry.publish(tmp_path / "made-v1", "v1", {}) == first and snapshot(registry) == before


@pytest.fixture
def updated(three, monkeypatch):
    """The registry of somebody who rolled back to the built-in version, after an update that brought another one."""
    shipped = "shipped-before"
    state = json.loads((three.folder / "active.json").read_text())
    edit_json(three.folder / "active.json", active=shipped, previous=[shipped, *state["previous"], "v3"])
    monkeypatch.setattr(model_version, "FORMER_BUILTIN_MODELS", (shipped,))
    return three


def test_a_built_in_version_of_before_is_todays_and_says_so(updated):
    active = updated.active()
    assert active.builtin and active.name == BUILTIN
    assert active.note == f"The built-in version 'shipped-before' was replaced by '{BUILTIN}' in an update."
    assert updated.checked_folder() == builtin_model_folder() and updated.previous() == "v3"
    assert updated.roll_back().name == "v3" and not updated.active().note


def test_whoever_names_a_built_in_version_of_before_is_told_which_to_name(updated, tmp_path):
    for action in (updated.version, updated.activate, updated.checked_folder, updated.delete):
        said = refused(action, "Shipped-Before")
        assert f"'Shipped-Before' was replaced by '{BUILTIN}'" in said and f"Use '{BUILTIN}'" in said
    assert "cannot be called" in refused(updated.publish, bright_model(tmp_path / "made"), "shipped-before", {})


@pytest.mark.parametrize("name", ["v1", "V1"])
def test_another_model_never_takes_the_name_of_a_version(registry, tmp_path, name):
    publish(registry, "v1", tmp_path)
    before = snapshot(registry)
    other = bright_model(tmp_path / "other", bright=3.0)
    assert "called 'v1' already" in refused(registry.publish, other, name, {})
    assert snapshot(registry) == before


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".v1", "a/b", "a\\b", "/v1", "v 1", "nul", "COM1.x", "v1.", "v" * 65, "v\n", BUILTIN, "Ä"]
)
def test_names_that_leave_the_folder_or_fail_elsewhere_are_refused(registry, tmp_path, name):
    folder = bright_model(tmp_path / "made")
    assert "cannot be called" in refused(registry.publish, folder, name, {})
    assert not registry.folder.exists()


def test_the_name_of_the_built_in_version_cannot_be_taken(registry, tmp_path):
    folder = bright_model(tmp_path / "made")
    assert "that is the built-in one" in refused(registry.publish, folder, BUILTIN.upper(), {})


@pytest.mark.parametrize("trouble", ["no folder", "no weights", "changed weights", "missing file"])
def test_a_folder_that_is_no_whole_model_is_not_published(registry, tmp_path, trouble):
    folder, files = bright_model(tmp_path / "made"), {}
    if trouble == "no folder":
        folder = tmp_path / "nowhere"
    elif trouble == "no weights":
        (folder / WEIGHTS_FILE).unlink()
    elif trouble == "changed weights":
        (folder / WEIGHTS_FILE).write_bytes(b"others")
    else:
        files = {"ledger.json": tmp_path / "nowhere.json"}
    assert refused(registry.publish, folder, "v1", files)
    assert names(registry) == [BUILTIN] and snapshot(registry) == {}


@pytest.mark.parametrize("name", ["../evil.json", "weights.exe", "Manifest.json", ".hidden.json", "sub/x.json"])
def test_files_of_strange_names_are_not_published(registry, tmp_path, name):
    folder = bright_model(tmp_path / "made")
    assert refused(registry.publish, folder, "v1", {name: b"x"}) and not registry.folder.exists()


# ---- activate, roll back, delete


def test_rolling_back_goes_through_the_versions_before_and_ends_at_the_built_in_one(three):
    assert three.active().name == "v3" and three.previous() == "v2"
    assert [three.roll_back().name for _ in range(3)] == ["v2", "v1", BUILTIN]
    assert three.active().builtin and three.previous() == ""
    assert "no earlier version" in refused(three.roll_back)


def test_activating_the_active_version_again_is_no_step_of_its_own(three):
    three.activate("v3")
    assert three.previous() == "v2"


def test_the_built_in_version_can_be_activated_and_taken_back(three):
    three.activate(BUILTIN)
    assert three.active().builtin and three.checked_folder() == builtin_model_folder()
    assert three.roll_back().name == "v3"


def test_the_built_in_and_the_active_version_cannot_be_deleted(three):
    before = snapshot(three)
    assert "built-in version" in refused(three.delete, BUILTIN)
    assert "active version and cannot be deleted. Roll back" in refused(three.delete, "v3")
    assert snapshot(three) == before


def test_after_deleting_the_previous_version_rolling_back_goes_to_the_one_before(three):
    three.delete("v2")
    assert names(three) == [BUILTIN, "v1", "v3"] and three.previous() == "v1"
    assert os.listdir(three.folder / "versions") in (["v1", "v3"], ["v3", "v1"])
    three.delete("v1")
    assert three.previous() == BUILTIN and three.roll_back().builtin


def test_rolling_back_passes_over_a_version_that_was_damaged_or_removed_by_hand(three):
    (three.folder / "versions" / "v2" / WEIGHTS_FILE).write_bytes(b"x")
    shutil.rmtree(three.folder / "versions" / "v1")
    assert three.previous() == BUILTIN and three.roll_back().builtin


def test_a_deleted_version_never_returns_as_the_one_before_itself(registry, tmp_path):
    for name, bright in (("v1", 1), ("v2", 2)):
        publish(registry, name, tmp_path, bright=bright)
    for name in ("v1", "v2", "v1"):
        registry.activate(name)
    registry.delete("v2")
    assert registry.previous() == BUILTIN and registry.roll_back().builtin


@pytest.mark.parametrize("action", ["activate", "delete", "checked_folder", "version", "export"])
def test_an_unknown_version_is_named_with_those_that_there_are(three, tmp_path, action):
    more = {"export": (tmp_path / "x.zip",)}.get(action, ())
    message = refused(getattr(three, action), "v9", *more)
    assert "no model version 'v9'" in message and f"'{BUILTIN}', 'v1', 'v2', 'v3'" in message


def test_a_scan_is_asked_of_every_version_and_of_what_it_came_from(registry, tmp_path):
    first, second, third = (ScanIdentity(toy_scan(seed)[0]) for seed in range(3))
    parent = NOTHING_SEEN.with_training([("a-0001", first)])
    publish(registry, "v1", tmp_path, seen=parent)
    publish(registry, "v2", tmp_path, bright=1, seen=parent.with_training([("a-0002", second)]))
    publish(registry, "v3", tmp_path, bright=3, training={"cases": ["a-0003"]})
    assert registry.trained_on(first) == ["v1", "v2"] and registry.trained_on(second) == ["v2"]
    assert registry.trained_on(third) == []
    (registry.folder / "versions" / "v2" / WEIGHTS_FILE).unlink()  # a version that cannot be used saw what it saw
    assert registry.trained_on(second) == ["v2"]
    assert registry.cannot_tell() == ["v3"]
    (registry.folder / "versions" / "v2" / DESCRIPTION_FILE).write_text("{")  # nor does one that nobody can read
    assert registry.cannot_tell() == ["v3", "v2"]


# ---- damage


def flip_a_byte(folder):
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)


def make_link(folder):
    shutil.move(folder / WEIGHTS_FILE, folder.parents[1] / "elsewhere.pt")
    (folder / WEIGHTS_FILE).symlink_to(folder.parents[1] / "elsewhere.pt")


def make_folder_link(folder):
    shutil.move(folder, folder.parents[1] / "elsewhere")
    folder.symlink_to(folder.parents[1] / "elsewhere")


def manifest_of(folder, **changes):
    edit_json(folder / MANIFEST_FILE, **changes)


def leave_the_folder(folder):
    files = json.loads((folder / MANIFEST_FILE).read_text())["files"]
    manifest_of(folder, files={**files, "../../active.json": "0" * 64})


def newer_model(folder):
    edit_json(folder / DESCRIPTION_FILE, schema_version=7)
    vouch(folder)


def other_training_type(folder):
    edit_json(folder / DESCRIPTION_FILE, training={"cases": "a-0001"})
    vouch(folder)


def other_version(folder):
    edit_json(folder / DESCRIPTION_FILE, version="v7")
    vouch(folder)


def weights_of_another(folder):
    flip_a_byte(folder)
    said = json.loads((folder / DESCRIPTION_FILE).read_text())["sha256"]
    vouch(folder)
    edit_json(folder / DESCRIPTION_FILE, sha256=said)
    files = {name: registry_parts.hashlib.sha256((folder / name).read_bytes()).hexdigest()
             for name in (DESCRIPTION_FILE, WEIGHTS_FILE)}  # fmt: skip
    manifest_of(folder, files=files)


FOREIGN_MANIFEST = "damaged or foreign manifest.json"
DAMAGE = {
    "flipped byte in the weights": (flip_a_byte, "'weights.pt' of model 'v2' is damaged or was changed"),
    "edited description": (lambda f: edit_json(f / DESCRIPTION_FILE, license="free"), "'model.json' of model 'v2' is"),
    "missing weights": (lambda f: (f / WEIGHTS_FILE).unlink(), "'weights.pt' of model 'v2' is missing"),
    "missing description": (lambda f: (f / DESCRIPTION_FILE).unlink(), "'model.json' of model 'v2' is missing"),
    "extra file": (lambda f: (f / "extra.json").write_text("{}"), "holds 'extra.json'"),
    "extra folder": (lambda f: (f / "sub").mkdir(), "holds 'sub'"),
    "link for a file": (make_link, "'weights.pt' of model 'v2' is a link"),
    "link for the folder": (make_folder_link, "'v2' is a link to another folder"),
    "no manifest": (lambda f: (f / MANIFEST_FILE).unlink(), "has no manifest.json"),
    "empty manifest": (lambda f: (f / MANIFEST_FILE).write_bytes(b""), FOREIGN_MANIFEST),
    "nested manifest": (lambda f: (f / MANIFEST_FILE).write_text("[" * 9**5), FOREIGN_MANIFEST),
    "foreign manifest": (lambda f: manifest_of(f, format="other"), FOREIGN_MANIFEST),
    "manifest without weights": (lambda f: manifest_of(f, files={}), FOREIGN_MANIFEST),
    "manifest that leaves the folder": (leave_the_folder, FOREIGN_MANIFEST),
    "newer manifest": (lambda f: manifest_of(f, schema_version=2), "schema version 2"),
    "newer model": (newer_model, "schema version 7"),
    "other type in the description": (other_training_type, "damaged model.json"),
    "manifest of another version": (lambda f: manifest_of(f, name="v7"), "'v7' lies in a folder of another name"),
    "description of another version": (other_version, "calls itself 'v7'"),
    "weights of another version": (weights_of_another, "weights of model 'v2' are not those"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_or_foreign_version_is_named_and_never_used(three, kind):
    damage, words = DAMAGE[kind]
    damage(three.folder / "versions" / "v2")
    damaged = three.version("v2")
    assert words in damaged.problem and damaged.ledger == damaged.comparison == {}
    assert [version.name for version in three.versions() if not version.problem] == [BUILTIN, "v1", "v3"]
    for action in (three.checked_folder, three.activate):
        assert words in refused(action, "v2")
    assert three.active().name == "v3" and three.previous() == "v1"
    three.delete("v2")
    assert "v2" not in names(three)


@pytest.mark.parametrize("forge", ["of_another_architecture", "with_nan", "with_intruder"])
def test_weights_are_really_read_before_a_version_becomes_active(three, tmp_path, forge):
    folder, trace = three.folder / "versions" / "v2", tmp_path / "ran"
    getattr(registry_parts, forge)(folder, *([trace] if forge == "with_intruder" else []))
    vouch(folder)
    assert three.version("v2").problem == ""
    assert "weights" in refused(three.activate, "v2")
    assert three.active().name == "v3" and not trace.exists()
    assert three.roll_back().name == "v1" and not trace.exists()


def test_without_torch_a_version_is_activated_by_its_checksums_alone(three, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    three.activate("v1")
    assert three.active().name == "v1"
    flip_a_byte(three.folder / "versions" / "v2")
    assert "damaged" in refused(three.activate, "v2")


@pytest.mark.parametrize("action", ["activate", "roll back", "import"])
def test_the_registry_is_free_while_weights_are_tried(three, tmp_path, monkeypatch, action):
    """They take seconds; another program writes meanwhile."""
    three.export("v1", tmp_path / "v1.zip")
    if action == "import":
        three.delete("v1")
    tried = []

    def try_weights(folder):
        assert lock_holder(three.folder, "registry.lock") is None
        tried.append(publish(three, f"meanwhile-{len(tried)}", tmp_path, bright=7 + len(tried)).name)

    monkeypatch.setattr(model_registry, "_try_weights", try_weights)
    version = {
        "activate": lambda: three.activate("v1"),
        "roll back": three.roll_back,
        "import": lambda: three.import_file(tmp_path / "v1.zip"),
    }[action]()
    assert version.name == ("v2" if action == "roll back" else "v1") and set(tried) <= set(names(three))
    assert_whole(three)


@pytest.mark.parametrize("action", ["activate", "roll_back"])
def test_a_version_that_is_replaced_while_it_is_tried_is_not_activated(three, tmp_path, monkeypatch, action):
    def replace_it(folder):
        monkeypatch.undo()
        three.delete("v2")
        publish(three, "v2", tmp_path / "other", bright=9)

    (tmp_path / "other").mkdir()
    monkeypatch.setattr(model_registry, "_try_weights", replace_it)
    assert "replaced while its weights were tried" in refused(getattr(three, action), *["v2"][: action == "activate"])
    assert three.active().name == "v3"


@pytest.mark.parametrize("action", ["publish", "activate", "roll back", "delete"])
def test_a_writer_whose_lock_file_was_deleted_changes_nothing(three, tmp_path, monkeypatch, action):
    actions = {
        "publish": lambda: publish(three, "fourth", tmp_path),
        "activate": lambda: three.activate("v1"),
        "roll back": three.roll_back,
        "delete": lambda: three.delete("v1"),
    }
    before = snapshot(three)
    monkeypatch.setattr(ModelRegistry, "_sweep", lambda registry: (registry.folder / LOCK_FILE).unlink())
    with pytest.raises(FolderInUseError, match=LOCK_FILE):
        actions[action]()
    assert snapshot(three) == before


def test_rolling_back_does_not_undo_what_somebody_activates_meanwhile(three, monkeypatch):
    def activate_another(folder):
        monkeypatch.undo()
        three.activate("v1")

    monkeypatch.setattr(model_registry, "_try_weights", activate_another)
    assert "activated in this very moment" in refused(three.roll_back)
    assert three.active().name == "v1" and three.previous() == "v3"


def test_a_change_can_be_made_in_another_process(three):
    registry_parts.of_another_architecture(three.folder / "versions" / "v2")
    vouch(three.folder / "versions" / "v2")
    environment = {**os.environ, "PYTHONPATH": str(MODULE)}

    def change(*words):
        command = [sys.executable, "-m", "DDSPSegmentationLib.service.model_process", three.folder, *words]
        return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    answer = change("activate", "v2")
    assert answer["event"] == "error" and "weights" in answer["cause"]
    assert three.active().name == "v3"
    assert change("activate", "v1") == {"event": "result", "version": "v1"} and three.active().name == "v1"
    assert change("roll-back") == {"event": "result", "version": "v3"} and three.active().name == "v3"


def test_what_file_browsers_leave_spoils_no_version(three):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._weights.pt"):
        (three.folder / "versions" / "v3" / name).write_bytes(b"x")
        (three.folder / "versions" / name).write_bytes(b"x")
    assert_whole(three)
    three.delete("v1")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"7", b'{"schema_version": 2, "active": "v1", "previous": []}',
     b'{"schema_version": 1, "active": "../v1", "previous": []}', b'{"schema_version": 1, "active": 3, "previous": []}',
     b'{"schema_version": 1, "active": "v9", "previous": []}', b'{"schema_version": 1, "active": "v1"}'],
)  # fmt: skip
def test_an_active_file_that_names_nothing_is_an_error_until_the_user_chooses(three, content):
    (three.folder / "active.json").write_bytes(content)
    for action in (three.active, three.checked_folder):
        assert "Roll back or activate another version." in refused(action)
    assert three.previous() == BUILTIN
    assert three.roll_back().builtin and three.active().builtin
    (three.folder / "active.json").write_bytes(content)
    three.activate("v2")
    assert_whole(three)


def test_a_damaged_active_version_is_an_error_until_the_user_chooses(three):
    flip_a_byte(three.folder / "versions" / "v3")
    message = refused(three.checked_folder)
    assert "The active model 'v3' cannot be used" in message and "is damaged" in message and "Roll back" in message
    assert three.roll_back().name == "v2"


def test_a_models_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "Models").write_text("in the way")
    registry = ModelRegistry(tmp_path / "Models")
    assert names(registry) == [BUILTIN] and registry.active().builtin
    with pytest.raises(StorageError, match="The models folder 'Models' cannot be written"):
        publish(registry, "v1", tmp_path)


# ---- pictures


def test_a_version_without_its_pictures_is_whole_and_one_with_other_pictures_is_not(three, tmp_path):
    files = {"comparison.json": b'{"n": 1}', "comparison.html": b"page", "worst-1.png": b"picture"}
    version = publish(three, "v4", tmp_path, files=files)
    assert [path.name for path in version.pictures] == ["comparison.html", "worst-1.png"]
    version.pictures[0].unlink()  # as a person may do with the file itself
    assert_whole(three)
    version.pictures[0].write_bytes(b"another picture")
    assert "'worst-1.png' of model 'v4' is damaged or was changed" in three.version("v4").problem
    three.delete_pictures("v4")
    version = three.version("v4")
    assert version.comparison == {"n": 1} and version.pictures == [] and version.problem == ""
    assert_whole(three)
    assert refused(three.delete_pictures, BUILTIN)


# ---- kills and neighbors


def test_everything_is_on_the_disk_before_a_version_takes_its_place(registry, tmp_path, monkeypatch):
    flushed, moved, rename = [], [], os.replace

    def flush(descriptor):
        flushed.append(os.path.realpath(f"/proc/self/fd/{descriptor}"))

    def replace(source, target):
        if Path(target).name == "v1":
            moved.extend(flushed)
        flushed[:] = [path.replace(str(source), str(target)) for path in flushed]
        rename(source, target)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not tell which file a descriptor is")
    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", replace)
    version = publish(registry, "v1", tmp_path, files={"ledger.json": b"{}"})
    needed = {"", *(f"/{name}" for name in os.listdir(version.folder))}
    assert needed <= {path.partition("/v1")[2] for path in moved if path.partition("/v1")[1]}
    assert flushed[-1] == str(registry.folder / "versions")


def killed_at(folder: Path, call: int, action) -> bool:
    """Run an action in a child that is killed before its ``call``-th step on files of the folder; False: it ended."""
    child = os.fork()
    if child == 0:
        try:
            steps = []

            def count(event, arguments):
                if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
                    if str(arguments[0]).startswith(str(folder)):
                        steps.append(event)
                        if len(steps) == call:
                            os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            action()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the action itself failed"
    return os.WIFSIGNALED(status)


def no_leftovers(registry):
    found = [path for path in registry.folder.rglob("*") if path.name.startswith(".")]
    return found == []


ACTIONS = {
    "publish": lambda registry, folder: registry.publish(folder, "v4", {"ledger.json": b"{}"}),
    "activate": lambda registry, folder: registry.activate("v1"),
    "roll back": lambda registry, folder: registry.roll_back(),
    "delete": lambda registry, folder: registry.delete("v2"),
    "import": lambda registry, folder: registry.import_file(folder / "v5.zip"),
}


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ACTIONS)
def test_a_kill_at_any_step_leaves_the_registry_whole(three, tmp_path, kind, one_thread):
    made = bright_model(tmp_path / "made", bright=4)
    publish(three, "v5", tmp_path, bright=5)
    three.export("v5", made / "v5.zip")
    three.delete("v5")
    pristine, call = tmp_path / "pristine", 0
    shutil.copytree(three.folder, pristine)
    while killed_at(three.folder, call := call + 1, lambda: ACTIONS[kind](three, made)):
        assert_whole(three)
        assert set(names(three)) - {"v2", "v4", "v5"} == {BUILTIN, "v1", "v3"}
        publish(three, "next", tmp_path, bright=6)  # the next writer, whoever it is
        assert_whole(three)
        assert no_leftovers(three)
        shutil.rmtree(three.folder)
        shutil.copytree(pristine, three.folder)
    assert call > 8 and no_leftovers(three), "hardly any step was seen, so the test shows nothing"


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_that_share_only_the_folder_lose_nothing(three, tmp_path, one_thread):
    made = bright_model(tmp_path / "made", bright=4)
    children = []
    for worker in ("a", "b"):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                registry = ModelRegistry(three.folder)
                for number in range(6):
                    registry.publish(made, f"{worker}{number}", {})
                    registry.activate(f"{worker}{number}")
                    if number % 2:
                        registry.delete(f"{worker}{number - 1}")
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    waiting = set(children)
    while waiting:
        assert [version.problem for version in three.versions() if version.problem] == []
        assert three.active().problem == ""
        for child in list(waiting):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                waiting.discard(child)
                assert status == 0
    expected = {BUILTIN, "v1", "v2", "v3", *(f"{worker}{number}" for worker in "ab" for number in (1, 3, 5))}
    assert set(names(three)) == expected and no_leftovers(three)
    before = json.loads((three.folder / "active.json").read_text())["previous"]
    assert sorted([*before, three.active().name]) == sorted(expected)


def test_a_lock_of_another_process_is_named_after_a_moment(three, monkeypatch):
    monkeypatch.setattr(model_registry, "_WAIT_SECONDS", 0.2)
    with FolderLock(three.folder, name="registry.lock"):
        with pytest.raises(FolderInUseError, match="'Models'"):
            three.activate("v1")
        assert three.active().name == "v3"
    three.activate("v1")


# ---- what a person means by a model


def test_a_model_is_the_active_version_a_name_or_a_folder(three, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_model(None, three) == three.folder / "versions" / "v3"
    assert resolve_model("v1", three) == three.folder / "versions" / "v1"
    assert resolve_model(BUILTIN, three) == builtin_model_folder()
    assert resolve_model(str(tmp_path / "made-v2"), three) == tmp_path / "made-v2"
    assert resolve_model("made-v2", three) == Path("made-v2")
    assert "'v9'" in refused(resolve_model, "v9", three)
    flip_a_byte(three.folder / "versions" / "v1")
    assert "damaged" in refused(resolve_model, "v1", three)
