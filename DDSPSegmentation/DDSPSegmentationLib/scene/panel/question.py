"""A question in the panel itself, with a button for each answer; nothing waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from slicer.i18n import tr as _

QUESTION_HEIGHT = 150  # pixels above the status line that a question may take


class Question:
    """One question at a time; it goes away with its answer, or when another one is asked."""

    def __init__(self, ui):
        self.ui = ui
        self._buttons = (ui.firstAnswerButton, ui.secondAnswerButton, ui.thirdAnswerButton)
        self._actions: Sequence[Callable[[], None]] = ()
        for number, button in enumerate(self._buttons):
            button.connect("clicked(bool)", partial(self._answer, number))
        self.withdraw()

    @property
    def isOpen(self) -> bool:
        return bool(self._actions)

    def ask(self, text: str, *answers: tuple[str, str, Callable[[], None]]) -> None:
        """Show a question, and say in the status line that there is one.

        Args:
            answers: up to three of (text of the button, its tooltip, what it does).
        """
        self._actions = [action for _text, _tip, action in answers]
        self.ui.questionLabel.text = text
        for number, button in enumerate(self._buttons):
            button.setVisible(number < len(answers))
            if number < len(answers):
                button.text, button.toolTip = answers[number][:2]
        self.ui.questionFrame.setVisible(True)
        self.ui.statusLabel.text = _("Answer the question above.")
        self._bringIntoView()

    def _bringIntoView(self) -> None:
        """Whoever clicked far below would not see it; the frame itself has no place yet, the line below it has."""
        area = self.ui.questionFrame.parent()
        while area is not None and not area.inherits("QScrollArea"):
            area = area.parent()
        if area is not None:
            area.ensureWidgetVisible(self.ui.statusLabel, 0, QUESTION_HEIGHT)

    def withdraw(self) -> None:
        """Take the question away unanswered."""
        self._actions = ()
        self.ui.questionFrame.setVisible(False)

    def _answer(self, number: int, checked: bool = False) -> None:
        action = self._actions[number]
        self.withdraw()
        action()
