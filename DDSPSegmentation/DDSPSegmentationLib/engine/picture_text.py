"""A few letters of five by seven pixels for pictures, so that they need no font and no drawing library."""

from __future__ import annotations

import numpy as np

HEIGHT, WIDTH, GAP = 7, 5, 1

_ROWS = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00010 00100 01000 11111",
    "3": "11111 00010 00100 00010 00001 10001 01110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00010 01100",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "c": "00000 00000 01110 10000 10000 10001 01110",
    "m": "00000 00000 11010 10101 10101 10101 10101",
    " ": "00000 00000 00000 00000 00000 00000 00000",
}
_GLYPHS = {
    letter: np.array([[pixel == "1" for pixel in row] for row in rows.split()]) for letter, rows in _ROWS.items()
}


def text_mask(text: str, scale: int = 2) -> np.ndarray:
    """A line of text as bool (rows, columns); letters that are not known are blank."""
    blank = np.zeros((HEIGHT, GAP), bool)
    parts = [part for letter in text for part in (_GLYPHS.get(letter, _GLYPHS[" "]), blank)]
    return np.hstack(parts[:-1]).repeat(scale, axis=0).repeat(scale, axis=1)


def write(picture: np.ndarray, text: str, top: int, left: int, scale: int = 2, shade: int = 235) -> None:
    """Write a line on uint8 (rows, columns, 3) with a dark rim, so that it is read on bright and dark."""
    letters = np.pad(text_mask(text, scale), 1)
    rim = letters.copy()
    for axis in (0, 1):
        for step in (1, -1):
            rim |= np.roll(rim, step, axis)
    place = picture[max(top - 1, 0) : top - 1 + len(letters), max(left - 1, 0) : left - 1 + letters.shape[1]]
    rim, letters = (part[: place.shape[0], : place.shape[1]] for part in (rim, letters))
    place[rim] = 0
    place[letters] = shade
