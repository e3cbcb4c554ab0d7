"""The settings of a run: refused at once when no run can have them, the same after the way to the worker and back."""

import json
from pathlib import Path

import pytest

from DDSPSegmentationLib.engine.errors import InputError
from DDSPSegmentationLib.engine.run_settings import RunSettings


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mode": "quick"}, "Mode 'quick' is unknown. Choose one of standard, fast, paper."),
        ({"threshold": 0}, "Threshold 0 is not between 0 and 1."),
        ({"threshold": 1.0}, "Threshold 1 is not between 0 and 1."),
        ({"threshold": float("nan")}, "Threshold nan is not between 0 and 1."),
        ({"bias_field": "n3"}, "Bias field 'n3' is unknown. Choose one of full, fast, off."),
        ({"location": (1, 2)}, "Location (1.0, 2.0) is not a point."),
        ({"location": (1, 2, float("inf"))}, "is not a point. Give three coordinates in mm."),
    ],
)
def test_a_setting_that_does_not_exist_is_refused(asked, message):
    with pytest.raises(InputError) as caught:
        RunSettings(**asked)
    assert message in str(caught.value)


def test_settings_come_back_from_json_as_they_were():
    settings = RunSettings("paper", 0.4, "off", "cpu", "/models/mine", (-1.0, 2.0, 3.5))
    assert RunSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert RunSettings(model=Path("models")).to_dict()["model"] == "models"
    assert RunSettings.from_dict({}) == RunSettings()


def test_a_setting_of_another_version_is_named():
    with pytest.raises(InputError, match="Settings are unknown: flip. Known are mode, threshold,"):
        RunSettings.from_dict({"mode": "fast", "flip": True})
