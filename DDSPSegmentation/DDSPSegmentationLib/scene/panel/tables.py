"""Tables of the panel: numbers right-aligned, as high as their rows, never squeezed."""

from __future__ import annotations

from typing import Any

from .room import on_resize

FEW_WORDS = 70  # pixels


def cell(value: Any, tip: str = "", isNumber: bool = False):
    """An item for a table; a number stays one, so that it sorts as such."""
    import qt

    item = qt.QTableWidgetItem()
    if value is not None:
        item.setData(qt.Qt.DisplayRole, value)
    if isNumber:
        item.setData(qt.Qt.TextAlignmentRole, int(qt.Qt.AlignRight) | int(qt.Qt.AlignVCenter))
    item.setToolTip(tip)
    return item


def set_titles(table, *titles: tuple[str, str, bool]) -> None:
    """Name the columns.

    Args:
        titles: (title, tooltip, whether the column holds numbers).
    """
    table.setColumnCount(len(titles))
    for column, title in enumerate(titles):
        table.setHorizontalHeaderItem(column, cell(*title))
    table.verticalHeader().setVisible(False)


def fit_height(table, mostRows: int) -> None:
    """As high as its rows; with more than so many the others are scrolled to."""
    rows = min(max(table.rowCount, 1), mostRows)
    height = sum(table.rowHeight(row) for row in range(min(rows, table.rowCount)))
    if not table.rowCount:
        height = table.verticalHeader().defaultSectionSize
    height += table.horizontalHeader().sizeHint.height() + 2 * table.frameWidth
    table.minimumHeight = table.maximumHeight = height


class Columns:
    """Columns of a table as wide as what they hold; those that can be spared go where the table is narrow.

    The last column takes what the others leave; where that is no room for a few words, it goes first.

    Args:
        spare: the column that goes next, so that the others are shown whole.
    """

    def __init__(self, table, spare: int):
        import qt

        self._table, self._spare, self._widths = table, spare, [0] * (table.columnCount - 1)
        table.horizontalHeader().setSectionResizeMode(table.columnCount - 1, qt.QHeaderView.Stretch)
        self._watcher = on_resize((table,), self._spareColumns)

    def fit(self) -> None:
        """Follow what the table holds now."""
        import qt

        table, last = self._table, self._table.columnCount - 1
        table.horizontalHeader().setSortIndicatorShown(False)  # room for one would be kept in each of the columns
        table.horizontalHeader().setSectionResizeMode(last - 1, qt.QHeaderView.Interactive)
        for column in (self._spare, last):
            table.setColumnHidden(column, False)
        for column in range(last):
            table.resizeColumnToContents(column)
        self._widths = [table.columnWidth(column) for column in range(last)]
        self._spareColumns()

    def cleanup(self) -> None:
        self._watcher = None

    def _spareColumns(self) -> None:
        import qt

        table, last, header = self._table, self._table.columnCount - 1, self._table.horizontalHeader()
        left = table.viewport().width - sum(self._widths)
        if table.isColumnHidden(self._spare) != (left < 0):
            table.setColumnHidden(self._spare, left < 0)
        isNarrow = left < FEW_WORDS
        if table.isColumnHidden(last) == isNarrow:
            return
        table.setColumnHidden(last, isNarrow)
        header.setSectionResizeMode(last - 1, qt.QHeaderView.Stretch if isNarrow else qt.QHeaderView.Interactive)
        if not isNarrow:
            header.resizeSection(last - 1, self._widths[-1])
