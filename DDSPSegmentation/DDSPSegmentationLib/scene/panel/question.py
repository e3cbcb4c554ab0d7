"""A question in the panel itself, with a button for each answer; nothing waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from .attention import bring_into_view, set_shown

Answer = tuple[str, str, Callable[[], None]]  # text of the button, its tooltip, what it does


class Question:
    """One question at a time; it goes away with its answer, or when another one is asked.

    Args:
        frame: what holds the other widgets, hidden as long as nothing is asked.
        titleLabel: for the question in one line or two.
        detailsLabel: for what else must be known before it is answered.
        buttons: one for each answer that there can be.
        sayWhere: puts into the status line that there is a question, and where.
    """

    def __init__(self, frame, titleLabel, detailsLabel, buttons: Sequence, sayWhere: Callable[[], None]):
        self._frame, self._titleLabel, self._detailsLabel = frame, titleLabel, detailsLabel
        self._buttons, self._sayWhere = buttons, sayWhere
        self._actions: Sequence[Callable[[], None]] = ()
        for number, button in enumerate(buttons):
            button.connect("clicked(bool)", partial(self._answer, number))
        self.withdraw()

    @property
    def isOpen(self) -> bool:
        return bool(self._actions)

    def ask(self, title: str, *answers: Answer, details: str = "") -> None:
        """Show a question where it is seen, and say in the status line that there is one."""
        self._actions = [action for _text, _tip, action in answers]
        self._titleLabel.text, self._detailsLabel.text = title, details
        self._detailsLabel.setVisible(bool(details))
        for number, button in enumerate(self._buttons):
            button.setVisible(number < len(answers))
            if number < len(answers):
                button.text, button.toolTip = answers[number][:2]
        self._frame.setVisible(True)
        self._sayWhere()
        bring_into_view(self._frame)

    def withdraw(self) -> None:
        """Take the question away unanswered."""
        self._actions = ()
        set_shown(self._frame, False)

    def _answer(self, number: int, checked: bool = False) -> None:
        action = self._actions[number]
        self.withdraw()
        action()
