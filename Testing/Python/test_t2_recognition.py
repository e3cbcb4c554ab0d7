"""Panel and batch know an axial T2 by one rule: a table of names as scanners and people write them holds them to it."""

import pytest
import slicer
from dicom_parts import write_slice
from scene_parts import new_volume

from DDSPSegmentationLib.engine.files import files_below
from DDSPSegmentationLib.engine.t2_recognition import (
    AXIAL_T2,
    NOT_AXIAL,
    NOT_MR,
    SHORT_ECHO,
    UNNAMED,
    ScanFacts,
    recognize,
)
from DDSPSegmentationLib.scene.input_choice import doubt_about, preferred_volume
from DDSPSegmentationLib.service.dicom_series import series_among

NAMES = {
    AXIAL_T2: (
        "t2_tse_tra", "T2 FSE AX", "AX T2 FRFSE", "T2W_TSE_ax", "sT2W_TSE_ax", "AxT2", "AXT2", "Ax FRFSE-XL",
        "tse_tra_384", "t2_spc_rst_axial_obl_Prostate", "SSFSE", "T2TSE", "Prostata t2", "subject_3 t2",
        "T2 locoregional", "t2 transversal", "T2 axiaal", "T2 TRANSVERSE", "sub-001_T2w", "sub-ucsf01_ses-1_T2w",
        "T2 registered to T1", "t2 tra from sag", "t2_tse_dixon_tra_W", "T2 PD dual echo ax", "t2_blade_tra p2",
    ),
    UNNAMED: (
        "Case00", "ProstateX-0000", "Series 6", "gre_tra", "t20_gre", "test2 gre", "offset gre", "b12", "PT2", "PT1",
        "Head_ADCock", "Tracey", "Lockerbie", "Sagan", "Coriander", "Corona 7", "pelvis T10", "substance", "3D_VISTA",
    ),
    "ADC map": ("ADC", "6: ADC map (mm2/s)", "AxialADC_1", "t2 grid eADC", "T2 dADC map", "ep2d_diff_tra_ADC"),
    "diffusion": (
        "DWI", "ep2d_diff_b50_400_800_T2", "t2 DWI", "tra t2 b=800", "T2 b = 1000", "tra b50", "calc_b1400",
        "ProstateB1000", "DWI b-value 800", "resolve TRACEW", "Diffusie", "difusion ax", "b0", "pca_hbv",
    ),
    "dynamic contrast": ("DCE 12", "perf_tra", "t2 DCE", "twist dyn", "Perfusie"),
    "subtraction": ("Sub_t2_tse", "SUB T2 FSE", "t2_tse_subtraction", "T2 soustraction", "Subtraktion"),
    "localizer": ("t2_haste_localizer", "T2 SSFSE LOC", "t2 localiser", "Survey", "3-plane Loc", "Lokalisator t2"),
    "FLAIR": ("t2_flair", "AX T2 FLAIR"),
    "projection": ("t2_space_MIP", "MinIP tra"),
    "map": ("T2 map", "t2map", "t2star_tra", "T2* axial"),
    "T1": ("T1", "t1_tse_tra", "T1_vibe_tra", "AxT1", "VIBE 3"),
    "PD": ("PD_tse", "pd_tse", "PDW_TSE tra", "DP FSE"),
    NOT_AXIAL: (
        "t2_tse_sag", "T2Sag", "SAGT2", "t2 cor", "T2 Coronal", "t2_sagittal_p2", "T2 sagitaal", "t2 koronar",
        "T2 TSE paracor", "t2 sagittale",
    ),
}  # fmt: skip
TABLE = [(name, kind) for kind, names in NAMES.items() for name in names]


@pytest.mark.parametrize(("name", "kind"), TABLE)
def test_a_name_is_recognized(name, kind):
    recognition = recognize(ScanFacts(names=(name,)))
    assert recognition.kind == kind
    assert (recognition.reason == "") == (kind == AXIAL_T2)


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("kind", NAMES)
def test_panel_and_batch_give_the_same_answer(tmp_path, kind):
    for number, name in enumerate(NAMES[kind]):
        write_slice(tmp_path / f"{number:02d}.dcm", 0, series=number + 1, tags={"0008|103e": name})
    found, skipped = series_among(files_below(tmp_path)[0])
    doubts = {name: doubt_about(new_volume(name)) for name in NAMES[kind]}
    if kind == AXIAL_T2:
        assert (len(found), skipped, set(doubts.values())) == (len(NAMES[kind]), [], {""})
        assert preferred_volume()[0].GetName() == NAMES[kind][-1]
        return
    assert found == []
    advice = "; --series any takes it" if kind == UNNAMED else ""
    assert {one.reason for one in skipped} == {recognize(ScanFacts(names=NAMES[kind][:1])).reason + advice}
    # A person who chose a volume that says nothing is not asked again; a batch of such series is nobody's choice.
    assert all((doubt == "") == (kind == UNNAMED) for doubt in doubts.values())
    assert len({doubt.replace(f"'{name}'", "") for name, doubt in doubts.items()}) == 1


@pytest.mark.parametrize(
    ("facts", "kind"),
    (
        ({"modality": "CT"}, NOT_MR),
        ({"image_type": "DERIVED\\PRIMARY\\DIFFUSION\\NONE"}, "diffusion"),
        ({"image_type": "DERIVED\\PRIMARY\\T2 MAP"}, "map"),
        ({"scanning_sequence": "SE\\EP"}, "diffusion"),
        ({"b_value": 50.0}, "diffusion"),
        ({"echo_time": 12.0}, SHORT_ECHO),
        ({"echo_time": 60.0, "b_value": 0.0, "modality": "MR", "axial": True}, AXIAL_T2),
        ({"axial": False}, NOT_AXIAL),
    ),
)
def test_what_the_scanner_recorded_outweighs_a_name_that_says_t2(facts, kind):
    assert recognize(ScanFacts(names=("t2_tse_tra",), **facts)).kind == kind


def test_every_name_of_a_series_counts():
    assert recognize(ScanFacts(names=("Prostata", "", "*tse2d1_25"))).kind == AXIAL_T2
    assert recognize(ScanFacts(names=("t2", "prostate_ADC"))).kind == "ADC map"
    assert recognize(ScanFacts(names=("t2_tse_tra", "t2_tse_sag"))).kind == AXIAL_T2
    assert recognize(ScanFacts(names=("Series 6", "t2_tse_sag"))).kind == NOT_AXIAL


@pytest.mark.usefixtures("scene")
def test_a_short_echo_time_is_doubted_in_the_panel_too(monkeypatch):
    class Database:
        isOpen = True

        def instanceValue(self, uid, tag):
            return {"0018,0081": "12", "0008,103e": "t2_tse_tra"}.get(tag, "")

    monkeypatch.setattr(slicer, "dicomDatabase", Database(), raising=False)
    volume = new_volume("Series 6")
    volume.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    assert doubt_about(volume) == "'Series 6' has an echo time below 60 ms; a T2-weighted scan is needed."
