"""Tables of the panel: numbers right-aligned, as high as their rows, never squeezed."""

from __future__ import annotations

from typing import Any

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


def fit_widths(table) -> list[int]:
    """Make every column but the last as wide as what it holds; returns their widths."""
    import qt

    last, header = table.columnCount - 1, table.horizontalHeader()
    header.setSectionResizeMode(last - 1, qt.QHeaderView.Interactive)
    for column in range(last):
        table.resizeColumnToContents(column)
    widths = [table.columnWidth(column) for column in range(last)]
    table.setColumnHidden(last, False)
    hide_last_when_narrow(table, widths)
    return widths


def hide_last_when_narrow(table, widths: list[int]) -> None:
    """Leave the last column out where the others leave it no room for a few words; one of them takes the rest."""
    import qt

    last, header = table.columnCount - 1, table.horizontalHeader()
    isNarrow = table.viewport().width - sum(widths) < FEW_WORDS
    if table.isColumnHidden(last) == isNarrow:
        return
    table.setColumnHidden(last, isNarrow)
    header.setSectionResizeMode(last - 1, qt.QHeaderView.Stretch if isNarrow else qt.QHeaderView.Interactive)
    header.setSectionResizeMode(last, qt.QHeaderView.Stretch)
    if not isNarrow:
        header.resizeSection(last - 1, widths[-1])
