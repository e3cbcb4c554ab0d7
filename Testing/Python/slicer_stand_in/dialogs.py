"""Dialogs that would wait for a person: tests plan the answers, and read what was asked.

planned: answers in the order of the dialogs to come (a path, a button, a text). shown: what was asked so far, as
(title, text). A dialog without an answer fails the test instead of waiting for ever.
"""

planned: list = []
shown: list[tuple[str, str]] = []


def answer(title="", text=""):
    shown.append((title, text))
    if not planned:
        raise AssertionError(f"Nobody answers the dialog '{title}': {text}")
    return planned.pop(0)


def forget():
    planned.clear()
    shown.clear()


def answer_box(box):
    """A message box: its exec_() gives the planned button."""
    return answer(box.windowTitle, box.text)


def answer_static(parent=None, title="", text="", *rest, **named):
    """QFileDialog.getSaveFileName(), QMessageBox.question() and their like."""
    return answer(title, text)
