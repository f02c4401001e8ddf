"""Stand-in for the CTK widgets that the plugin and ``slicer.util`` use; see ``qt``."""

import qt
import slicer


class ctkSettingsPanel(qt.QWidget):
    """The plugin derives its page of Slicer's settings dialog from it."""


class ctkComboBox(qt.QComboBox):
    pass


class ctkCollapsibleButton(qt.QPushButton):
    collapsed = False


class ctkPathLineEdit(qt.QWidget):
    currentPath = ""


class ctkSliderWidget(qt.QWidget):
    SIGNALS = ("valueChanged(double)",)
    value = 0.0

    def setValue(self, value: float) -> None:
        changed, self.value = value != self.value, value
        if changed:
            self._signals["valueChanged"].emit(value)


class ctkMessageBox(qt.QWidget):
    """Closes at once with OK; the application keeps its message."""

    icon = qt.QMessageBox.NoIcon
    text = detailedText = windowTitle = ""
    standardButtons = qt.QMessageBox.Ok

    def deleteLater(self) -> None:
        pass

    def exec_(self) -> int:
        slicer.app.note(self)
        return qt.QMessageBox.Ok
