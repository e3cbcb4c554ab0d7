"""Words that several sections of the panel use; what a statistician would call it stands in their tooltips."""

from __future__ import annotations

from slicer.i18n import tr as _

from ...library.case_library import TRAINING


def counted(count: int, one: str, many: str) -> str:
    """As in "1 case" and "2 cases"."""
    return one if count == 1 else many.format(count=count)


def cases(count: int) -> str:
    return counted(count, _("1 case"), _("{count} cases"))


def patients(count: int) -> str:
    return counted(count, _("1 patient"), _("{count} patients"))


def purpose(split: str) -> str:
    """What a case is there for."""
    return _("for training") if split == TRAINING else _("kept for checking")


def about_purposes() -> str:
    """Explains both, with the word that papers use."""
    return _(
        "One patient in five is kept for checking (hold-out): never trained on, only used to compare versions. "
        "That is drawn once for each patient."
    )


def verdict_in_words(word: str) -> str:
    """The network's word for its own contour, see ``quality.verdict``."""
    return {"good": _("good"), "check": _("check"), "doubtful": _("doubtful"), "": ""}[word]
