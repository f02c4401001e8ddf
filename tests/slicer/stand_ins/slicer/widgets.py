"""Stand-in for the widgets that belong to Slicer itself; the segment editor works with its real logic."""

from typing import Any

import qt
import slicer


class qMRMLWidget(qt.QWidget):
    def setMRMLScene(self, scene: Any) -> None:
        pass


class qSlicerMarkupsPlaceWidget(qMRMLWidget):
    def __init__(self) -> None:
        super().__init__()
        self.buttonsVisible = True
        self.placeModeEnabled = False
        self._place, self._delete = qt.QPushButton(), qt.QPushButton()
        self._node: Any = None

    def placeButton(self) -> qt.QPushButton:
        return self._place

    def deleteButton(self) -> qt.QPushButton:
        return self._delete

    def setButtonsVisible(self, visible: bool) -> None:
        self.buttonsVisible = visible

    def setPlaceModeEnabled(self, enabled: bool) -> None:
        self.placeModeEnabled = enabled

    def currentNode(self) -> Any:
        return self._node

    def setCurrentNode(self, node: Any) -> None:
        self._node = node


class qSlicerSegmentEditorAbstractEffect:
    ModificationModeSet = slicer.vtkSlicerSegmentEditorLogic.ModificationModeSet
    ModificationModeAdd = slicer.vtkSlicerSegmentEditorLogic.ModificationModeAdd
    ModificationModeRemove = slicer.vtkSlicerSegmentEditorLogic.ModificationModeRemove

    def __init__(self, logic: Any) -> None:
        self._logic = logic

    def selectedSegmentLabelmap(self) -> Any:
        """Return a copy of the current segment that covers the whole image."""
        self._logic.UpdateReferenceGeometryImage()
        self._logic.ResetModifierLabelmapToDefault()
        self._logic.UpdateSelectedSegmentLabelmap()
        return self._logic.GetSelectedSegmentLabelmap()

    def modifySelectedSegmentByLabelmap(self, labelmap: Any, mode: int) -> None:
        node, segment = self._logic.GetSegmentationNode(), self._logic.GetCurrentSegmentID()
        self._logic.ModifySegmentByLabelmap(node, segment, labelmap, mode, True, False)

    def setParameter(self, name: str, value: object) -> None:
        pass


class qMRMLSegmentEditorWidget(qMRMLWidget):
    def __init__(self) -> None:
        super().__init__()
        self.logic = slicer.vtkSlicerSegmentEditorLogic()

    def setMRMLScene(self, scene: Any) -> None:
        self.logic.SetMRMLScene(scene)

    def setMRMLSegmentEditorNode(self, node: Any) -> None:
        self.logic.SetSegmentEditorNode(node)

    def setSegmentationNode(self, node: Any) -> None:
        self.logic.SetSegmentationNode(node)

    def segmentationNodeID(self) -> str:
        node = self.logic.GetSegmentationNode()
        return str(node.GetID()) if node else ""

    def saveStateForUndo(self) -> None:
        self.logic.SaveStateForUndo()

    def undo(self) -> None:
        self.logic.Undo()

    def setSourceVolumeNode(self, node: Any) -> None:
        self.logic.SetSourceVolumeNode(node)

    def setCurrentSegmentID(self, segment: str) -> None:
        self.logic.SetCurrentSegmentID(segment)

    def setSegmentationNodeSelectorVisible(self, visible: bool) -> None:
        pass

    def setSourceVolumeNodeSelectorVisible(self, visible: bool) -> None:
        pass

    def setActiveEffectByName(self, name: str) -> None:
        pass

    def effectByName(self, name: str) -> qSlicerSegmentEditorAbstractEffect:
        return qSlicerSegmentEditorAbstractEffect(self.logic)
