"""Left and right in the names of labels: real names, and names that only look like it."""

from __future__ import annotations

import pytest

from stu_pipeline.datasets.side_names import pair_names, read_side

# (left, right) as data sets and tools name them.
PAIRS = [
    # TotalSegmentator
    ("kidney_left", "kidney_right"),
    ("adrenal_gland_left", "adrenal_gland_right"),
    ("lung_upper_lobe_left", "lung_upper_lobe_right"),
    ("lung_lower_lobe_left", "lung_lower_lobe_right"),
    ("rib_left_7", "rib_right_7"),
    ("rib_left_12", "rib_right_12"),
    ("iliac_vena_left", "iliac_vena_right"),
    ("gluteus_maximus_left", "gluteus_maximus_right"),
    ("autochthon_left", "autochthon_right"),
    ("brachiocephalic_vein_left", "brachiocephalic_vein_right"),
    ("common_carotid_artery_left", "common_carotid_artery_right"),
    ("heart_atrium_left", "heart_atrium_right"),
    ("scapula_left", "scapula_right"),
    # FreeSurfer
    ("Left-Hippocampus", "Right-Hippocampus"),
    ("Left-Cerebral-White-Matter", "Right-Cerebral-White-Matter"),
    ("Left-VentralDC", "Right-VentralDC"),
    ("Left-Accumbens-area", "Right-Accumbens-area"),
    ("Left-Inf-Lat-Vent", "Right-Inf-Lat-Vent"),
    ("ctx-lh-bankssts", "ctx-rh-bankssts"),
    ("ctx_lh_G&S_frontomargin", "ctx_rh_G&S_frontomargin"),
    ("wm-lh-insula", "wm-rh-insula"),
    ("lh.BA1_exvivo", "rh.BA1_exvivo"),
    ("L_V1_ROI", "R_V1_ROI"),
    # OpenKBP and other radiotherapy
    ("LeftParotid", "RightParotid"),
    ("Parotid_L", "Parotid_R"),
    ("Lung_l", "Lung_r"),
    ("A_Carotid_L", "A_Carotid_R"),
    ("OpticNrv_L", "OpticNrv_R"),
    ("Lt Parotid", "Rt Parotid"),
    ("Femur-L", "Femur-R"),
    ("Femur (L)", "Femur (R)"),
    ("FEMUR_HEAD_LEFT", "FEMUR_HEAD_RIGHT"),
    ("Kidney.l", "Kidney.r"),
    ("L Kidney", "R Kidney"),
    ("l-temporal-lobe", "r-temporal-lobe"),
    ("LN_Neck_IA_L", "LN_Neck_IA_R"),
    ("LKidney", "RKidney"),
    ("LAdrenal", "RAdrenal"),
    ("KidneyL", "KidneyR"),
    ("station 4L", "station 4R"),
    ("L4L", "L4R"),
    ("left_atrium", "right_atrium"),
    ("left_ventricle", "right_ventricle"),
    # Latin, and glued words
    ("ren_sin", "ren_dex"),
    ("ren sin.", "ren dext."),
    ("pulmo sinister", "pulmo dexter"),
    ("leftkidney", "rightkidney"),
    ("kidneyleft", "kidneyright"),
    ("LEFTLUNG", "RIGHTLUNG"),
    ("left", "right"),
    ("L", "R"),
]
# Names of one data set that must give no pair and no lone label.
UNSIDED = [
    "liver", "spleen", "bright", "cleft", "bright_spot", "upright", "LV", "RV", "LA", "RA", "LVmyo", "RVmyo", "LVendo",
    "RVendo", "LVEndo", "RVEndo", "LAwall", "RAwall", "LAD", "RCA", "vertebrae_L1", "vertebrae_L5", "vertebrae_R1",
    "R1", "L1", "skull", "vessel", "femur", "tumor", "labrum", "rectum", "larynx", "brain_stem", "3rd-Ventricle",
    "CC_Anterior", "WM-hypointensities", "src01", "anterior", "posterior", "LLL", "RLL", "left_and_right_lung",
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_a_label_and_its_mirror_image_are_a_pair(left: str, right: str):
    found = pair_names([right, "liver", left])
    assert found.pairs == ((left, right),) and found.lone == ()


def test_totalsegmentator_has_two_labels_without_a_partner():
    both = [
        "kidney", "adrenal_gland", "lung_upper_lobe", "lung_lower_lobe", "kidney_cyst", "subclavian_artery",
        "common_carotid_artery", "brachiocephalic_vein", "iliac_artery", "iliac_vena", "humerus", "scapula",
        "clavicula", "femur", "hip", "gluteus_maximus", "gluteus_medius", "gluteus_minimus", "autochthon", "iliopsoas",
    ]  # fmt: skip
    pairs = [(f"{name}_left", f"{name}_right") for name in both]
    pairs += [(f"rib_left_{number}", f"rib_right_{number}") for number in range(1, 13)]
    others = [f"vertebrae_{name}" for name in ("S1", "L5", "L1", "T12", "T1", "C7", "C1")]
    others += [
        "liver",
        "heart",
        "aorta",
        "brain",
        "skull",
        "sternum",
        "costal_cartilages",
        "portal_vein_and_splenic_vein",
    ]
    lone = ["lung_middle_lobe_right", "atrial_appendage_left"]
    found = pair_names([*lone, *others, *(name for pair in pairs for name in reversed(pair))])
    assert set(found.pairs) == set(pairs) and set(found.lone) == set(lone)


@pytest.mark.parametrize("name", UNSIDED)
def test_a_name_without_a_side_is_no_pair_and_not_lone(name: str):
    assert pair_names(UNSIDED).pairs == () and name not in pair_names(UNSIDED).lone


@pytest.mark.parametrize(
    "name",
    ["lung_middle_lobe_right", "kidney_left", "Left-Hippocampus", "LeftParotid", "Parotid_L", "R Kidney", "ctx-lh-x"],
)
def test_one_side_alone_is_told(name: str):
    assert pair_names([name, "liver"]).lone == (name,)


def test_a_letter_in_the_middle_of_a_name_needs_its_partner():
    assert pair_names(["rib_L_7"]).lone == ()
    assert pair_names(["rib_L_7", "rib_R_7"]).pairs == (("rib_L_7", "rib_R_7"),)


def test_two_spellings_of_one_side_have_no_partner():
    found = pair_names(["kidney_left", "kidney_l", "kidney_right"])
    assert found.pairs == () and set(found.lone) == {"kidney_left", "kidney_l", "kidney_right"}


def test_other_words_or_numbers_are_another_label():
    assert pair_names(["rib_left_7", "rib_right_8"]).pairs == ()
    assert pair_names(["kidney_left", "kidney_cyst_right"]).pairs == ()


def test_no_names_are_no_pairs():
    assert pair_names([]).pairs == () and pair_names([]).lone == ()
    assert read_side("") is None and read_side("---") is None


def test_letters_beyond_ascii_part_names():
    assert pair_names(["N\u00e4vus_links_L", "Navus_links_R"]).pairs == ()
