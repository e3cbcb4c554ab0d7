"""Is this scan an axial T2? One answer for the volume in a panel and for the series in a folder, from what is known.

Names are read word by word, in the abbreviations of scanners and of several languages. What a name does not say is
not guessed: such a scan is ``UNNAMED``. The batch passes it over; in the panel a person chose it, so it is not doubted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

AXIAL_T2 = ""
UNNAMED = "unnamed"
NOT_AXIAL = "not axial"
NOT_MR = "not MR"
SHORT_ECHO = "short echo"
SHORTEST_T2_ECHO_MS = 60.0


def _word(pattern: str) -> re.Pattern[str]:
    """A word of a lower-case name: digits may touch it, letters may not."""
    return re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])")


# T2* and maps of T2 are other kinds of image; PT2 and CT2 are a patient and a scan with a number.
_T2 = re.compile(r"(?<![a-z0-9])(?:ax|axial|tra|sag|cor|obl|wip|(?![cp]t)[a-z])?t2(?!\d|\*|[_ -]?star|[_ -]?maps?)")
_SPIN_ECHO_TRAIN = _word(r"(?:fr|ss|s|t|v)?(?:tse|fse)(?:xl|opt|fs)?")
_KINDS = (
    ("ADC map", _word(r"[ed]?adc(?:maps?)?")),
    (
        "diffusion",
        _word(
            r"[ec]?dwi|diff|diff?us\w*|dti|tracew?|ep2d|ep_b\d+|[bh]val(?:ues?)?|b-values?|hbv"
            r"|(?<!\d)b(?:\s?=\s?\d{1,4}|0|[1-9]\d{0,2}0|[ _-][1-9]\d?00)(?!\d)"
        ),
    ),
    ("dynamic contrast", _word(r"dce|perf|perfus\w*|dyn|dynami\w*|twist")),
    # sub-001 is how BIDS begins the name of a subject.
    ("subtraction", _word(r"sub(?!-\d|-[a-z0-9]+_)|subs|(?:subs?|sus|sous|sot)tr\w*")),
    ("localizer", _word(r"loc|lo[ck]ali[sz](?:ers?|ador|at\w+)|scout|survey")),
    ("FLAIR", _word("flair")),
    ("projection", _word(r"mip|m(?:in|ax)_?ip")),
)
# A name that says T2 too is about a T2: registered to a T1, or the second of two echoes.
_KINDS_WITHOUT_T2 = (
    ("map", re.compile(r"(?<![a-z])(?:t[12]\*?w?)?[_ -]?maps?(?![a-z])|(?<![a-z0-9])t2(?:\*|[_ -]?star)")),
    ("T1", re.compile(r"(?<![a-z0-9])(?:ax|axial|tra|sag|cor|[es])?t1(?!\d)|(?<![a-z])(?:vibe|lava|thrive)(?![a-z])")),
    ("PD", _word(r"pdw?|dp|proton")),
)
_AXIAL = _word(r"(?:ax|axia+le?s?|tra|transv?|transvers(?:e|al|ales?|aal)?)(?:t2w?)?")
_OTHER_PLANE = _word(r"(?:para)?(?:sag|sagit+a+le?s?|[ck]or|[ck]oron(?:a+le?s?|are?)|frontale?)(?:t2w?)?")


@dataclass(frozen=True, slots=True)
class ScanFacts:
    """What is known of a scan; what is not known stays empty.

    Attributes:
        names: a file's or a node's name, series description, protocol and sequence name.
        image_type, modality, scanning_sequence: as DICOM has them, several values joined in any way.
        b_value: s/mm2. echo_time: ms.
        axial: what the geometry says.
    """

    names: tuple[str, ...] = ()
    image_type: str = ""
    modality: str = ""
    scanning_sequence: str = ""
    b_value: float | None = None
    echo_time: float | None = None
    axial: bool | None = None


@dataclass(frozen=True)
class Recognition:
    """The answer.

    Attributes:
        kind: ``AXIAL_T2``, ``UNNAMED`` when nothing says what it is, or what it is instead.
        reason: why it is no axial T2, for a sentence about the scan; empty for one.
        says_t2: a name says T2, whatever else speaks against it.
    """

    kind: str
    reason: str
    says_t2: bool


def recognize(facts: ScanFacts) -> Recognition:
    """Tell an axial T2 from every other kind of scan."""
    names = [_in_words(name) for name in facts.names if name]
    says_t2 = any(map(_T2.search, names))
    kind, reason = _kind_and_reason(facts, names, says_t2)
    return Recognition(kind, reason, says_t2)


def _kind_and_reason(facts: ScanFacts, names: list[str], says_t2: bool) -> tuple[str, str]:
    if facts.modality and facts.modality.upper() != "MR":
        return NOT_MR, "not MR"
    kind = _kind_told(names, says_t2) or _kind_told([facts.image_type.lower()], says_t2=False)
    if kind:
        return kind, f"its name or image type says {kind}"
    if re.search(r"\bEP\b", facts.scanning_sequence.upper()) or (facts.b_value or 0) > 0:
        return "diffusion", "its scanning sequence or b-value says diffusion"
    if any(map(_OTHER_PLANE.search, names)) and not any(map(_AXIAL.search, names)):
        return NOT_AXIAL, "its name says sagittal or coronal"
    if facts.axial is False:
        return NOT_AXIAL, "its slices are not axial"
    if facts.echo_time is not None and facts.echo_time < SHORTEST_T2_ECHO_MS:
        return SHORT_ECHO, f"echo time below {SHORTEST_T2_ECHO_MS:.0f} ms, so not T2-weighted"
    if says_t2 or any(map(_SPIN_ECHO_TRAIN.search, names)):
        return AXIAL_T2, ""
    return UNNAMED, "its name does not say T2 (t2, tse or fse)"


def _kind_told(texts: list[str], says_t2: bool) -> str:
    patterns = _KINDS if says_t2 else (*_KINDS, *_KINDS_WITHOUT_T2)
    return next((kind for kind, pattern in patterns if any(map(pattern.search, texts))), "")


def _in_words(name: str) -> str:
    """SagT2 and AxialADC are two words each."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
