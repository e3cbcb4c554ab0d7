"""pytest plugin for the Slicer side: an empty MRML scene a test, and the host of the contract with Slicer."""

import pytest

from DDSPSegmentationLib.scene.headless_host import start

CONTRACT = "test_slicer_contract.py"
WITH_THE_PANEL = "the stand-in for .ui files and node selectors arrives with the panel"
NEEDS_SLICER = {
    "test_ui_file_names_become_attributes": WITH_THE_PANEL,
    "test_node_combo_box_follows_the_scene": WITH_THE_PANEL,
    "test_none_enabled_combo_box_starts_empty": WITH_THE_PANEL,
    "test_connect_gui_goes_both_ways": WITH_THE_PANEL,
    "test_segment_editor_widget": "needs Slicer: the Segment Editor widget",
    "test_slices_jump_to_a_point": "needs Slicer: slice views",
    "test_overlay_as_foreground_with_opacity_and_threshold": "needs Slicer: slice views",
    "test_segment_statistics_module_gives_the_volume": "needs Slicer: the module SegmentStatistics",
    "test_sample_data_source_can_be_registered_from_a_local_file": "needs Slicer: the module SampleData",
}


@pytest.fixture
def scene():
    """slicer.mrmlScene, emptied before and after."""
    host = start()
    host.scene.Clear(0)
    yield host.scene
    host.scene.Clear(0)


@pytest.fixture(autouse=True)
def contract_host(request):
    """slicer.app and subject hierarchy items as in Slicer, for the contract alone."""
    if request.path.name != CONTRACT:
        yield
        return
    import slicer
    from slicer_stand_in import Application, add_hierarchy_items

    scene = request.getfixturevalue("scene")
    slicer.app = Application()
    tag = add_hierarchy_items(scene)
    yield
    scene.RemoveObserver(tag)
    del slicer.app


def pytest_collect_file(file_path, parent):
    """The contract imports qt and slicer's own packages at its head."""
    if file_path.name == CONTRACT:
        start()
        from slicer_stand_in import install

        install()


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name == CONTRACT and item.name in NEEDS_SLICER:
            item.add_marker(pytest.mark.xfail(reason=NEEDS_SLICER[item.name], strict=True))
