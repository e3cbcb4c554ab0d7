"""Model versions on disk: damage of any kind is named, nothing in them is executed, no version is ever half there."""

import hashlib
import json
import math
import os
import pickle
import warnings
from dataclasses import replace

import pytest
import SimpleITK as sitk
import torch
from engine_parts import a_calibration, bright_network
from learning_parts import toy_scan
from registry_parts import Intruder

from DDSPSegmentationLib.engine.errors import ModelError, StorageError
from DDSPSegmentationLib.engine.files import as_json
from DDSPSegmentationLib.engine.model import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    ModelDescription,
    builtin_model_folder,
    describe_model,
    load_networks,
    save_model,
)
from DDSPSegmentationLib.engine.network import DDSPConvNet, NetworkSettings
from DDSPSegmentationLib.engine.preprocessing import PreprocessingSettings
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, ScanIdentity, SeenScans

PREPROCESSING = PreprocessingSettings().to_dict()
SMALL = NetworkSettings(widths=(2, 3, 4), growth=2, input_size=(8, 8, 8))
CHANGED, UNFIT = "damaged or were changed", "do not fit its description"


def small_network(seed=0, settings=SMALL):
    torch.manual_seed(seed)
    network = DDSPConvNet(settings).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.fixture
def folder(tmp_path):
    """A sound model version with its card."""
    folder = tmp_path / "models" / "small-1"
    save_model(folder, [small_network()], PREPROCESSING, license="research use")
    (folder / "README.md").write_text("# Model card\n", encoding="utf-8")
    return folder


def change_description(folder, **changes):
    path = folder / DESCRIPTION_FILE
    values = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(values), encoding="utf-8")


def put_weights(folder, content):
    """Other weights that the description nevertheless vouches for."""
    (folder / WEIGHTS_FILE).write_bytes(content)
    change_description(folder, sha256=hashlib.sha256(content).hexdigest())


def put_state(folder, state):
    torch.save(state, folder / "aside.pt")
    put_weights(folder, (folder / "aside.pt").read_bytes())


def refused(folder):
    """The error that both cause and next step come with."""
    with pytest.raises(ModelError) as caught:
        load_networks(folder)
    assert "small-1" in caught.value.cause and caught.value.next_step
    assert str(folder.parent) not in str(caught.value)
    return str(caught.value)


def test_a_saved_model_comes_back_with_everything_it_says(tmp_path):
    network = small_network()
    facts = {
        "version": "v7",
        "calibration": as_json(a_calibration().to_dict()),
        "training": {"cases": ["Case00"], "parent": "v6"},
        "metrics": {"dice": 0.9},
        "license": "research use",
        "date": "2024-05-01",
    }
    saved = save_model(tmp_path / "folder", [network], PREPROCESSING, **facts)
    (loaded,), description = load_networks(tmp_path / "folder")
    assert description == saved == describe_model(tmp_path / "folder")
    assert all(getattr(description, key) == value for key, value in facts.items())
    assert loaded.settings == network.settings
    assert PreprocessingSettings.from_dict(description.preprocessing) == PreprocessingSettings()
    assert not loaded.training
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-3, atol=1e-6)


def test_a_version_of_several_networks_comes_back_in_their_order(tmp_path):
    networks = [small_network(seed) for seed in (3, 1, 2)]
    members = [{"left_out": folds} for folds in ([0, 1], [1, 2], [2, 0])]
    saved = save_model(tmp_path / "three", networks, PREPROCESSING, members=members)
    loaded, description = load_networks(tmp_path / "three")
    assert description == saved and description.members == members
    for network, one in zip(networks, loaded, strict=True):
        torch.testing.assert_close(one.head1.weight, network.head1.weight, rtol=1e-3, atol=1e-6)


def test_a_version_of_schema_1_is_one_network_that_left_nobody_out(folder):
    expected = load_networks(folder)[0][0].state_dict()
    put_state(folder, small_network().state_dict())
    change_description(folder, schema_version=1)
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    del description["members"]
    (folder / "model.json").write_text(json.dumps(description), encoding="utf-8")
    (network,), described = load_networks(folder)
    assert described.members == [{"left_out": []}]
    for name, value in expected.items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "members",
    [
        *([], [{"left_out": []}] * 8, [{"left_out": 0}], [{}], [[0]], {"left_out": []}),
        *([{"left_out": [fold]}] for fold in (True, "1", 1.0, None, -1, 100, 10**400, [0])),
    ],
)
def test_members_that_nobody_can_follow_are_refused(folder, members):
    change_description(folder, members=members)
    assert "damaged model.json" in refused(folder)


@pytest.mark.parametrize("fold", [True, "1", 1.0, -1, 100, 10**400])
def test_folds_of_seen_scans_that_nobody_can_follow_are_refused(folder, fold):
    scan = {"name": "a", "digest": "00" * 32, "fingerprint": "00" * 96, "fold": 99}
    seen = {"known": True, "groups": [{"salt": "00" * 32, "scans": [scan]}]}
    change_description(folder, seen=seen)
    assert load_networks(folder)[1].seen.groups[0].scans[0].fold == 99
    scan["fold"] = fold
    change_description(folder, seen=seen)
    assert "damaged model.json" in refused(folder)


def test_more_members_than_networks_are_refused(folder):
    change_description(folder, members=[{"left_out": [0]}, {"left_out": [1]}])
    assert UNFIT in refused(folder)


def test_only_members_that_left_out_a_patient_never_saw_a_copy_of_its_scan():
    scans = {name: ScanIdentity(toy_scan(number)[0]) for number, name in enumerate("abcd")}
    seen = NOTHING_SEEN.with_training([("d", scans["d"])])  # of a parent that every member comes from
    seen = seen.with_training([(name, scans[name]) for name in "abc"], {"a": 0, "b": 1, "c": 2})
    members = [{"left_out": folds} for folds in ([0, 1], [1, 2], [2, 0])]
    facts = {"version": "v", "sha256": "", "network": {}, "preprocessing": {}, "members": members}
    description = ModelDescription(**facts, seen=seen)
    never_saw = {name: description.members_that_never_saw(scan) for name, scan in scans.items()}
    assert never_saw == {"a": [0, 2], "b": [0, 1], "c": [1, 2], "d": []}
    copy = ScanIdentity(sitk.Cast(toy_scan(0)[0], sitk.sitkFloat64) * 3)
    assert description.members_that_never_saw(copy) == [0, 2]
    assert description.members_that_never_saw(ScanIdentity(toy_scan(9)[0])) == [0, 1, 2]
    unknown = ModelDescription(**facts, seen=replace(seen, known=False))
    assert unknown.members_that_never_saw(scans["a"]) == []
    assert SeenScans.from_dict(json.loads(json.dumps(seen.to_dict()))) == seen


def test_half_precision_weights_hardly_change_the_answer(folder):
    scan = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for one, other in zip(small_network()(scan), load_networks(folder)[0][0](scan), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=5e-3)


def test_a_version_is_called_like_its_folder_unless_said_otherwise(folder):
    assert describe_model(folder).version == "small-1"
    assert describe_model(str(folder)).sha256 == hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()


def test_the_network_of_the_paper_takes_less_than_10_megabytes(tmp_path):
    save_model(tmp_path / "full", [DDSPConvNet()], PREPROCESSING)
    assert sum(path.stat().st_size for path in (tmp_path / "full").iterdir()) < 3e6


def test_the_built_in_model_is_whole_small_and_described():
    folder = builtin_model_folder()
    networks, description = load_networks()
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 16e6
    assert description.version == folder.name and description.license
    assert {network.settings.input_size for network in networks} == {(48, 96, 96)}
    assert [member["left_out"] for member in description.members] == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]]
    assert len(description.training["cases"]) == 66 and description.metrics and description.calibration
    assert list(folder.glob("*.md")), "the model card"


# ---- damage


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"Model 'small-1' has no model\.json\. Choose a folder that holds a model"):
        describe_model(tmp_path / "small-1")
    assert "has no model.json" in refused(tmp_path / "small-1")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"7", b"\xff\xfe", b'{"version": "x"}', b'{"schema_version": 1}']
)
def test_a_damaged_description_is_named(folder, content):
    (folder / DESCRIPTION_FILE).write_bytes(content)
    assert "damaged model.json" in refused(folder)


def test_an_unknown_key_in_the_description_is_damage(folder):
    change_description(folder, color="red")
    assert "damaged model.json" in refused(folder) and "color" in refused(folder)


def test_a_model_of_a_newer_version_asks_for_an_update(folder):
    change_description(folder, schema_version=3)
    assert "schema version 3; this version reads up to 2. Update the extension, or choose" in refused(folder)


def test_missing_weights_are_named(folder):
    (folder / WEIGHTS_FILE).unlink()
    assert "has no weights.pt" in refused(folder)


def test_changed_weights_are_found_by_their_hash(folder):
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)
    message = refused(folder)
    assert CHANGED in message and describe_model(folder).sha256[:12] in message


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_weights_are_refused_even_with_a_fitting_hash(folder, share):
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(content[: int(len(content) * share)])
    assert CHANGED in refused(folder)
    put_weights(folder, content[: int(len(content) * share)])
    assert UNFIT in refused(folder)


@pytest.mark.parametrize("foreign", [{"block": "none"}, {"widths": (2, 3, 5)}, {"long_connection": "concatenation"}])
def test_weights_of_another_architecture_are_refused(folder, foreign):
    settings = NetworkSettings(**{**vars(SMALL), **foreign})
    put_state(folder, small_network(settings=settings).state_dict())
    assert UNFIT in refused(folder)


@pytest.mark.parametrize("content", [[1, 2], {"weights": {"a": torch.zeros(1)}}, torch.zeros(3)])
def test_a_file_that_holds_no_weights_is_refused(folder, content):
    put_state(folder, content)
    assert UNFIT in refused(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    state = small_network().state_dict()
    state["head1.weight"][0, 0] = value
    put_state(folder, state)
    assert "not finite" in refused(folder)


@pytest.mark.parametrize("container", ["pickle", "torch"])
def test_code_hidden_in_the_weights_never_runs(folder, tmp_path, container):
    trace = tmp_path / "ran"
    if container == "pickle":
        put_weights(folder, pickle.dumps({"head1.weight": Intruder(trace)}))
    else:
        put_state(folder, {**small_network().state_dict(), "head1.weight": Intruder(trace)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert UNFIT in refused(folder)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Intruder(trace)))
    assert trace.exists(), "the intruder is no threat, so the test shows nothing"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": {"depth": 7}}, "unknown keys: depth"),
        ({"network": {"block": "unet"}}, "'unet'"),
        ({"network": 3}, "unusable settings"),
        ({"preprocessing": {"margin": 3}}, "unknown keys: margin"),
        ({"preprocessing": {"bias_field": "n3"}}, "'n3'"),
        ({"preprocessing": {"spacing_mm": [0, 1, 1]}}, "is not three lengths"),
        ({"network": {"widths": [16, 32]}}, "are not numbers of channels"),
        ({"calibration": {"weights": [0.5]}}, "unusable settings"),
        ({"calibration": {**a_calibration().to_dict(), "threshold": "x"}}, "unusable settings"),
        ({"calibration": {**a_calibration().to_dict(), "reach": [0.1, 0.2]}}, "without scale or order"),
        *(
            ({"calibration": {**a_calibration().to_dict(), **change}}, "unusable settings")
            for change in (
                *({"mode": mode} for mode in ("accurate", "", None, 3, ["standard"])),
                *({"patients": patients} for patients in (0, -1, True, 20.0, "20", None)),
                *({"threshold": threshold} for threshold in (0, 1, 1.5, -0.5, True, math.inf)),
                *({name: 10**400} for name in ("threshold", "intercept")),
                *({name: [0.1, 10**400]} for name in ("reach", "weights")),
            )
        ),
    ],
)
def test_settings_that_nothing_follows_are_refused(folder, changes, words):
    change_description(folder, **changes)
    assert words in refused(folder)


# ---- publishing


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else None


def interrupt(monkeypatch, call, error):
    """The ``call``-th rename (counted from 1) raises; gives the list that counts them."""
    rename, calls = os.replace, []

    def replace(*paths, **options):
        calls.append(paths)
        if len(calls) == call:
            raise error
        return rename(*paths, **options)

    monkeypatch.setattr(os, "replace", replace)
    return calls


def test_a_version_saved_again_is_replaced_and_keeps_its_card(folder):
    before = describe_model(folder).sha256
    saved = save_model(folder, [small_network(seed=1)], PREPROCESSING)
    assert load_networks(folder)[1].sha256 == saved.sha256 != before
    assert (folder / "README.md").read_text(encoding="utf-8") == "# Model card\n"
    assert [path.name for path in folder.parent.iterdir()] == ["small-1"]


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_rename_that_fails_leaves_the_old_version_and_nothing_else(folder, monkeypatch, call):
    before = contents(folder)
    interrupt(monkeypatch, call, PermissionError(13, "Permission denied"))
    with pytest.raises(StorageError, match="'(model.json|small-1)'.*ermission"):
        save_model(folder, [small_network(seed=1)], PREPROCESSING)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["small-1"]


@pytest.mark.parametrize("call", [1, 2])
def test_a_rename_that_fails_leaves_no_first_version_behind(tmp_path, monkeypatch, call):
    interrupt(monkeypatch, call, OSError(28, "No space left on device"))
    with pytest.raises(StorageError, match="'(model.json|small-1)'"):
        save_model(tmp_path / "small-1", [small_network()], PREPROCESSING)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_after_a_kill_at_any_rename_the_old_or_the_new_version_is_there(folder, monkeypatch, call):
    old = describe_model(folder).sha256
    # A real kill also skips the tidying up that KeyboardInterrupt allows.
    monkeypatch.setattr("shutil.rmtree", lambda *paths, **options: None)
    interrupt(monkeypatch, call, KeyboardInterrupt())
    try:
        new = save_model(folder, [small_network(seed=1)], PREPROCESSING).sha256
    except KeyboardInterrupt:
        new = None
    monkeypatch.undo()
    assert load_networks(folder)[1].sha256 == (new or old)
    again = save_model(folder, [small_network(seed=2)], PREPROCESSING)
    assert load_networks(folder)[1] == again
    assert (folder / "README.md").exists()
    assert not (folder.parent / ".small-1.replaced").exists()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="Model 'v1' cannot be written .* Free space or choose another folder"):
        save_model(tmp_path / "file" / "v1", [small_network()], PREPROCESSING)


def test_the_bright_network_of_the_tests_answers_as_the_tests_believe():
    scan = torch.linspace(-2, 5, 32 * 48 * 48).reshape(1, 1, 32, 48, 48)
    network = bright_network(bright=1.5)
    with torch.no_grad():
        answer = network(scan)[0]
        folded = network.fold_batch_norm()(scan)[0]
    torch.testing.assert_close(answer, torch.sigmoid(8.0 * (scan - 1.5)), rtol=0, atol=1e-3)
    torch.testing.assert_close(folded, answer, rtol=0, atol=1e-5)
