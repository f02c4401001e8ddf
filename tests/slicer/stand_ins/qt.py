"""Stand-in for Slicer's Qt: widgets as plain objects that hold values and send signals; nothing is drawn.

It has what the plugin and ``slicer.util`` use and refuses the rest (AttributeError). Where Qt is strict, so is this:
text must be text, numbers outside a progress bar's range are ignored, a disabled button can't be pressed.
"""

import inspect
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

import slicer

Slot = Callable[..., object]


class Qt:
    WaitCursor = 3
    ItemIsEditable = 2
    ToolTipRole = 3


class Signal:
    """A signal of Qt such as ``clicked`` or ``stateChanged``."""

    def __init__(self, sender: "QObject") -> None:
        self.sender = sender
        self.slots: list[Slot] = []

    def connect(self, slot: Slot) -> None:
        self.slots.append(slot)

    def emit(self, *values: object) -> None:
        if self.sender.signalsBlocked:
            return
        for slot in self.slots:
            # PythonQt passes as many values as the slot takes.
            taken = [p for p in inspect.signature(slot).parameters.values() if p.kind is not p.KEYWORD_ONLY]
            variable = any(p.kind is p.VAR_POSITIONAL for p in taken)
            slot(*values if variable else values[: len(taken)])


class QObject:
    SIGNALS: tuple[str, ...] = ()
    """Signatures of the signals that it sends."""

    def __init__(self, parent: object = None) -> None:
        self.signalsBlocked = False
        self.objectName = ""
        self._signals = {signature.partition("(")[0]: Signal(self) for signature in self.SIGNALS}

    def connect(self, signature: str, slot: Slot) -> None:
        if signature not in self.SIGNALS:
            raise ValueError(f"{type(self).__name__} has no signal {signature}")
        self._signals[signature.partition("(")[0]].connect(slot)

    def blockSignals(self, block: bool) -> bool:
        before, self.signalsBlocked = self.signalsBlocked, block
        return before


class QWidget(QObject):
    def __init__(self, parent: object = None) -> None:
        super().__init__(parent)
        self.name = ""
        self.enabled = True
        self.visible = True
        self.toolTip = ""
        self._children: list[QObject] = []
        self._layout = QVBoxLayout(self)

    def children(self) -> list[QObject]:
        return list(self._children)

    def layout(self) -> "QVBoxLayout":
        return self._layout

    def show(self) -> None:
        self.visible = True

    def hide(self) -> None:
        self.visible = False

    def setVisible(self, visible: object) -> None:
        self.visible = bool(visible)

    def setEnabled(self, enabled: object) -> None:
        self.enabled = bool(enabled)

    def setToolTip(self, text: str) -> None:
        self.toolTip = _text(text)

    def setStyleSheet(self, text: str) -> None:
        _text(text)


class QStatusBar(QWidget):
    """Keeps the message that it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.message = ""

    def showMessage(self, message: str, milliseconds: int) -> None:
        self.message = _text(message)


class QMainWindow(QWidget):
    def __init__(self) -> None:
        super().__init__()
        self._status = QStatusBar()

    def statusBar(self) -> QStatusBar:
        return self._status

    def press(self, key: str) -> None:
        """Press a key while the window has the focus. Like Qt, activate no shortcut if several have this key."""
        shortcuts = [child for child in self.children() if isinstance(child, QShortcut) and child.key == key]
        if len(shortcuts) != 1:
            raise RuntimeError(f"{len(shortcuts)} shortcuts have the key {key}")
        shortcuts[0].activate()


class QKeySequence:
    def __init__(self, key: str) -> None:
        self.key = _text(key)


class QShortcut(QObject):
    SIGNALS = ("activated()",)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.key = ""
        self.autoRepeat = True
        self._parent: QWidget | None = None
        self.setParent(parent)

    def setKey(self, sequence: QKeySequence) -> None:
        self.key = sequence.key

    def setParent(self, parent: QWidget | None) -> None:
        if self._parent is not None:
            self._parent._children.remove(self)
        if parent is not None:
            parent._children.append(self)
        self._parent = parent

    def deleteLater(self) -> None:
        pass

    def activate(self) -> None:
        self._signals["activated"].emit()


class QVBoxLayout:
    def __init__(self, parent: object = None) -> None:
        pass

    def addWidget(self, widget: QWidget) -> None:
        pass


class QDialog(QWidget):
    """The plugin derives its login dialog from it."""


class QIcon:
    def __init__(self, path: str = "") -> None:
        pass


class QLabel(QWidget):
    def __init__(self, parent: object = None) -> None:
        super().__init__(parent)
        self.text = ""

    def setText(self, text: str) -> None:
        self.text = _text(text)


class QLineEdit(QLabel):
    def setPlaceholderText(self, text: str) -> None:
        _text(text)


class QPushButton(QLabel):
    SIGNALS = ("clicked(bool)",)

    def __init__(self, parent: object = None) -> None:
        super().__init__(parent)
        self.clicked = self._signals["clicked"]
        self.checkable = False
        self.checked = False

    def setIcon(self, icon: QIcon) -> None:
        pass

    def setChecked(self, checked: bool) -> None:
        self.checked = bool(checked)

    def click(self) -> None:
        """Press the button as a person does, who can't press it if it is disabled or hidden."""
        if not self.enabled or not self.visible:
            raise RuntimeError(f"{self.name} can't be pressed: it is {'hidden' if self.enabled else 'disabled'}")
        if self.checkable:
            self.checked = not self.checked
        self.clicked.emit(self.checked)


class QCheckBox(QLabel):
    SIGNALS = ("stateChanged(int)",)

    def __init__(self, parent: object = None) -> None:
        super().__init__(parent)
        self.stateChanged = self._signals["stateChanged"]
        self.checked = False

    def setChecked(self, checked: bool) -> None:
        changed, self.checked = self.checked != bool(checked), bool(checked)
        if changed:
            self.stateChanged.emit(2 * self.checked)


class QComboBox(QWidget):
    SIGNALS = ("currentIndexChanged(int)",)

    def __init__(self, parent: object = None) -> None:
        super().__init__(parent)
        self.editable = False
        self._items: list[str] = []
        self._index = -1
        self._line = QLineEdit()

    @property
    def count(self) -> int:
        return len(self._items)

    @property
    def currentIndex(self) -> int:
        return self._index

    @property
    def currentText(self) -> str:
        if self.editable:
            return self._line.text
        return self._items[self._index] if self._index >= 0 else ""

    @currentText.setter
    def currentText(self, text: str) -> None:
        self.setCurrentText(text)

    def lineEdit(self) -> QLineEdit:
        return self._line

    def addItem(self, *item: object) -> None:
        """Add (text), (icon, text) or (text, user data)."""
        self._items.append(_text(item[1] if isinstance(item[0], QIcon) else item[0]))
        if self._index < 0:
            self.setCurrentIndex(0)

    def addItems(self, texts: Sequence[str]) -> None:
        for text in texts:
            self.addItem(text)

    def clear(self) -> None:
        self._items.clear()
        self.setCurrentIndex(-1)

    def setCurrentIndex(self, index: int) -> None:
        index = index if 0 <= index < self.count else -1
        changed, self._index = index != self._index, index
        if changed:
            self._line.setText(self._items[index] if index >= 0 else "")
            self._signals["currentIndexChanged"].emit(index)

    def setCurrentText(self, text: str | None) -> None:
        if self.editable:
            self._line.setText(text or "")
        elif text in self._items:
            self.setCurrentIndex(self._items.index(text))

    def itemText(self, index: int) -> str:
        return self._items[index] if 0 <= index < self.count else ""

    def findText(self, text: str) -> int:
        return self._items.index(text) if text in self._items else -1

    def setItemData(self, index: int, value: object, role: int) -> None:
        if role == Qt.ToolTipRole:
            _text(value)


class QProgressBar(QWidget):
    def __init__(self, parent: object = None) -> None:
        super().__init__(parent)
        self.value = 0

    def setValue(self, value: float) -> None:
        if 0 <= int(value) <= 100:
            self.value = int(value)


class QTableWidgetItem:
    def __init__(self, text: str) -> None:
        self._text = _text(text)
        self._flags = 63

    def text(self) -> str:
        return self._text

    def setText(self, text: str) -> None:
        self._text = _text(text)

    def flags(self) -> int:
        return self._flags

    def setFlags(self, flags: int) -> None:
        self._flags = flags


class QTableWidget(QWidget):
    def __init__(self, parent: object = None) -> None:
        super().__init__(parent)
        self.rowCount = 0
        self._items: dict[tuple[int, int], QTableWidgetItem] = {}
        self._widgets: dict[tuple[int, int], QWidget] = {}

    def clear(self) -> None:
        self._items.clear()
        self._widgets.clear()

    def setRowCount(self, count: int) -> None:
        self.rowCount = count

    def setColumnCount(self, count: int) -> None:
        pass

    def setColumnWidth(self, column: int, width: int) -> None:
        pass

    def setHorizontalHeaderLabels(self, labels: Sequence[str]) -> None:
        pass

    def item(self, row: int, column: int) -> QTableWidgetItem | None:
        return self._items.get((row, column))

    def setItem(self, row: int, column: int, item: QTableWidgetItem) -> None:
        self._items[row, column] = item

    def cellWidget(self, row: int, column: int) -> QWidget | None:
        return self._widgets.get((row, column))

    def setCellWidget(self, row: int, column: int, widget: QWidget) -> None:
        self._widgets[row, column] = widget


class QProgressDialog(QWidget):
    def activateWindow(self) -> None:
        pass

    def setValue(self, value: float) -> None:
        self.value = int(value)


class QMessageBox:
    NoIcon, Information, Warning, Critical, Question = range(5)
    Ok, Cancel = 0x400, 0x400000


class QApplication:
    @staticmethod
    def setOverrideCursor(cursor: int) -> None:
        pass

    @staticmethod
    def restoreOverrideCursor() -> None:
        pass


class QTimer(QObject):
    """Runs only when the annotator lets time pass."""

    SIGNALS = ("timeout()",)

    def setInterval(self, milliseconds: int) -> None:
        pass

    def start(self) -> None:
        slicer.app.timers.append(self)

    def stop(self) -> None:
        slicer.app.timers.remove(self)

    def fire(self) -> None:
        self._signals["timeout"].emit()


class QSettings:
    """The settings of one installation of Slicer."""

    def contains(self, key: str) -> bool:
        return key in slicer.app.settings

    def value(self, key: str) -> Any:
        return slicer.app.settings.get(key)

    def setValue(self, key: str, value: object) -> None:
        slicer.app.settings[key] = value


class QUiLoader:
    """Makes the widgets of a ``.ui`` file, by the names of their classes."""

    def load(self, file: "QFile") -> QWidget:
        return self._make(ElementTree.parse(file.path).find("widget"))

    def _make(self, element: Any) -> QWidget:
        import ctk

        kind = element.get("class")
        (namespace,) = [n for n in (globals(), vars(ctk), vars(slicer)) if kind in n]
        widget: QWidget = namespace[kind]()
        widget.name = element.get("name")
        for given in element.iterfind("property"):
            name = given.get("name")
            if name in ("enabled", "checkable", "checked", "editable", "collapsed"):
                setattr(widget, name, given.findtext("bool") == "true")
            elif name in ("toolTip", "text"):
                setattr(widget, name, given.findtext("string") or "")
            elif name == "value":
                widget.setValue(float(given.findtext("number") or given.findtext("double")))
        # Layouts lie between a widget and its children.
        inside = list(element)
        while inside:
            part = inside.pop(0)
            if part.tag == "widget":
                widget._children.append(self._make(part))
            elif part.tag in ("layout", "item"):
                inside += list(part)
        return widget


# What ``slicer.util`` uses for files


class QFile:
    ReadOnly = 1

    def __init__(self, path: str) -> None:
        self.path = path

    def exists(self) -> bool:
        return os.path.exists(self.path)

    def open(self, mode: int) -> bool:
        return self.exists()


class QDir:
    def __init__(self, path: "str | QDir" = "") -> None:
        self.path: str = path.path if isinstance(path, QDir) else path

    def mkpath(self, path: str) -> bool:
        os.makedirs(os.path.join(self.path, path), exist_ok=True)
        return True


class QFileInfo:
    def __init__(self, folder: QDir, name: str) -> None:
        self.path = os.path.join(folder.path, name)

    def absoluteFilePath(self) -> str:
        return os.path.abspath(self.path)


class QDateTime:
    @staticmethod
    def currentDateTime() -> datetime:
        return datetime.now()


class QLocale:
    English, UnitedStates = 31, 225

    def __init__(self, language: int, country: int) -> None:
        pass

    def toString(self, time: datetime, form: str) -> str:
        return time.strftime("%Y-%m-%d_%H+%M+%S.%f")


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no text")
    return text
