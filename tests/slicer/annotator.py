"""A person at 3D Slicer with the stock MONAI Label plugin: looks at volumes, paints, and presses its buttons."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import vtk
from numpy.typing import NDArray

from application import Application, Dialog, load_plugin, slicer
from serving import SEGMENTS

PREDICTED, CLASSES = SEGMENTS[:2], SEGMENTS[3:]

_plugin: ModuleType | None = None


class Annotator:
    """One session in 3D Slicer, with its own scene. Several independent sessions may exist.

    Masks are (X, Y, Z) in the order of voxels in the image's file, however Slicer shows them; ``Annotator`` finds the
    voxels that Slicer shows there.

    Attributes:
        ui: the plugin's widgets by name.
        sample: the server's reply to Next Sample about the open image.
    """

    def __init__(self, url: str, folder: Path, name: str = "annotator", **settings: object) -> None:
        """Start Slicer and open the plugin's module.

        Args:
            url: address of the server.
            folder: for temporary files; it is created.
            name: the user name (client id).
            settings: the plugin's settings by their keys without ``MONAILabel/``, e.g. ``fileExtension``,
                ``autoRunSegmentationOnNextSample``, ``autoUpdateModelV2``, ``allowOverlappingSegments``.
        """
        global _plugin
        settings = {"clientId": name, **settings}
        self._slicer = Application(folder, {f"MONAILabel/{key}": value for key, value in settings.items()})
        self._slicer.activate()
        _plugin = _plugin or load_plugin()
        parent = slicer.qMRMLWidget()
        parent.isEntered = True
        self._widget = _plugin.MONAILabelWidget(parent)
        self._widget.setup()
        self.ui = self._widget.ui
        self.ui.serverComboBox.setCurrentText(url)
        self._flips: tuple[int, ...] = ()

    def close(self) -> None:
        """Quit Slicer."""
        self._slicer.activate()
        self._widget.cleanup()
        self._slicer.quit()

    # What Slicer shows

    @property
    def dialogs(self) -> list[Dialog]:
        """All messages so far."""
        return self._slicer.dialogs

    @property
    def errors(self) -> list[Dialog]:
        """All messages about errors."""
        return [dialog for dialog in self.dialogs if dialog.kind in ("warning", "error")]

    @property
    def sample(self) -> dict[str, Any]:
        return dict(self._widget.current_sample)

    @property
    def volume(self) -> Any:
        """The MRML node of the image that is open."""
        return self._widget._volumeNode

    @property
    def segmentation(self) -> Any:
        """The vtkSegmentation that is painted on."""
        return self._widget._segmentNode.GetSegmentation()

    def segments(self) -> list[str]:
        """Names of the segments from top to bottom."""
        count = self.segmentation.GetNumberOfSegments()
        return [self.segmentation.GetNthSegment(position).GetName() for position in range(count)]

    def painted(self, segment: str) -> NDArray[np.bool_]:
        """The voxels of a segment."""
        self._slicer.activate()
        array = slicer.util.arrayFromSegmentBinaryLabelmap(self._widget._segmentNode, self._id(segment), self.volume)
        return np.flip(array.T, self._flips) > 0

    def voxels(self, volume: Any) -> NDArray[Any]:
        """The voxels of a volume node on the grid of the open image."""
        self._slicer.activate()
        return np.flip(slicer.util.arrayFromVolume(volume).T, self._flips)

    def annotation(self) -> NDArray[np.uint8]:
        """The paint as an annotation: 1 inside, 2 tubule, 3 outside, the classes by default."""
        return self._together(CLASSES)

    def prediction(self) -> NDArray[np.uint8]:
        """The model's segments as a prediction: 1 inside, 2 tubule."""
        return self._together(PREDICTED)

    def to_ras(self, volume: Any) -> NDArray[np.float64]:
        """The matrix (4, 4) of a volume node from (i, j, k, 1) to RAS in mm."""
        matrix = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        return np.asarray(slicer.util.arrayFromVTKMatrix(matrix))

    # The plugin's buttons

    def press(self, button: str) -> None:
        """Press a button of the plugin by its name in the user interface."""
        self._slicer.activate()
        getattr(self.ui, button).click()

    def connect(self) -> None:
        """Press the button beside the server's address."""
        self.press("fetchServerInfoButton")

    def log_in(self, name: str, password: str) -> None:
        """Fill in the dialog in which the plugin asks for a login."""
        logic = self._widget.logic
        logic.username, logic.password, logic.auth_token = name, password, None

    def open_file(self, path: Path) -> None:
        """Load an image from a file by File > Add Data."""
        self._slicer.activate()
        slicer.util.loadVolume(str(path))

    def next_sample(self, strategy: str = "sparse") -> str | None:
        """Press Next Sample; return the id of the image, None if there is none."""
        self._slicer.activate()
        _choose(self.ui.strategyBox, strategy)
        self.press("nextSampleButton")
        if self.volume is None:
            return None
        self._flips = _flips(_first_channel(Path(self.sample["path"])), self._shown())
        return str(self.sample["id"])

    def submit(self) -> dict[str, Any]:
        """Press Submit Label; return the server's reply as the plugin shows it, empty if it shows none."""
        before = len(self.dialogs)
        self.press("saveLabelButton")
        replies = [dialog for dialog in self.dialogs[before:] if dialog.kind == "information"]
        return dict(json.loads(replies[0].details)) if replies else {}

    def run(self, model: str = "sparse_unet3d") -> None:
        """Press Run in the section of automatic segmentation."""
        self._slicer.activate()
        _choose(self.ui.segmentationModelSelector, model)
        self.press("segmentationButton")

    def train(self) -> None:
        """Press Train, with the options of the section Options."""
        self.press("trainingButton")

    def stop(self) -> None:
        """Press Stop, and OK in the dialog that asks for confirmation."""
        self.press("stopTrainingButton")

    def let_time_pass(self) -> None:
        """Let the plugin ask for the state of the training, as it does every few seconds."""
        self._slicer.activate()
        for timer in list(self._slicer.timers):
            timer.fire()

    def set_option(self, section: str, name: str, key: str, value: str) -> None:
        """Set an option in the table of the section Options, e.g. ``train``, ``sparse_unet3d``, ``max_epochs``."""
        self._slicer.activate()
        _choose(self.ui.optionsSection, section)
        _choose(self.ui.optionsName, name)
        table = self.ui.configTable
        (row,) = [row for row in range(table.rowCount) if table.item(row, 0).text() == key]
        if (chosen := table.cellWidget(row, 1)) is not None:
            _choose(chosen, value)
        else:
            table.item(row, 1).setText(value)

    def click_point(self, segment: str, voxel: tuple[int, int, int], model: str) -> None:
        """Choose a model and a segment in the point-click section and place a foreground point on a voxel."""
        self._slicer.activate()
        _choose(self.ui.deepgrowModelSelector, model)
        _choose(self.ui.labelComboBox, segment)
        shape = self._shown().shape
        at = [shape[axis] - 1 - index if axis in self._flips else index for axis, index in enumerate(voxel)]
        to_ras = vtk.vtkMatrix4x4()
        self.volume.GetIJKToRASMatrix(to_ras)
        points = self.ui.dgPositiveControlPointPlacementWidget.currentNode()
        # In the slice views, too, a new point is the active one before it is placed.
        points.GetDisplayNode().SetActiveControlPoint(points.GetNumberOfControlPoints())
        points.AddControlPoint(to_ras.MultiplyDoublePoint([*at, 1.0])[:3])

    # The window, its views and its keys

    def load_script(self, path: Path) -> None:
        """Load a script in the Python console, as its documentation says."""
        self._slicer.activate()
        exec(compile(path.read_text(encoding="ascii"), str(path), "exec"), {})

    def press_key(self, key: str) -> None:
        """Press a key in the window."""
        self._slicer.activate()
        self._slicer.window.press(key)

    @property
    def status(self) -> str:
        """The message in the status bar."""
        return str(self._slicer.window.statusBar().message)

    @property
    def scene(self) -> Any:
        """The vtkMRMLScene."""
        return self._slicer.scene

    def view(self, name: str) -> Any:
        """The MRML node of a slice view: ``Red``, ``Yellow`` or ``Green``."""
        return self.scene.GetNodeByID(f"vtkMRMLSliceNode{name}")

    def turn(self, view: str, axis: int, position: Sequence[float]) -> None:
        """Let a slice view show the slice across an axis of the open image, at a position (RAS in mm)."""
        self.view(view).RotateToAxes(slicer.util.vtkMatrixFromArray(self.to_ras(self.volume)), axis)
        self.view(view).JumpSlice(*position)

    def point_at(self, view: str | None) -> None:
        """Move the mouse over a slice view, or out of all of them."""
        crosshair = self.scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if view is None:
            crosshair.SetCursorPositionInvalid()
        else:
            crosshair.SetCursorPositionXYZ([10.0, 10.0, 0.0], self.view(view))

    # The segment editor

    def choose_effect(self, name: str) -> None:
        """Choose a tool, such as ``Draw``."""
        self.ui.embeddedSegmentEditorWidget.logic.GetSegmentEditorNode().SetActiveEffectName(name)

    def open_segment_editor(self) -> Any:
        """Open the module Segment Editor; return its widget, which has an Undo of its own."""
        self._slicer.activate()
        editor = slicer.qMRMLSegmentEditorWidget()
        editor.setMRMLScene(self.scene)
        editor.setMRMLSegmentEditorNode(self.ui.embeddedSegmentEditorWidget.logic.GetSegmentEditorNode())
        slicer.modules.SegmentEditorWidget = SimpleNamespace(editor=editor)
        return editor

    def undo(self) -> None:
        """Press Undo in the plugin's own editor."""
        self._slicer.activate()
        self.ui.embeddedSegmentEditorWidget.undo()

    def paint(self, segment: str, mask: NDArray[np.bool_]) -> None:
        """Add voxels to a segment; by default, Slicer removes them from the other visible ones."""
        self._edit(segment, mask, slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeAdd)

    def paint_annotation(self, annotation: NDArray[np.uint8]) -> None:
        """Paint a whole annotation: 1 inside, 2 tubule, 3 outside."""
        for value, segment in enumerate(CLASSES, start=1):
            self.paint(segment, annotation == value)

    def erase(self, segment: str, mask: NDArray[np.bool_]) -> None:
        """Remove voxels from a segment."""
        self._edit(segment, mask, slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeRemove)

    def allow_overlap(self) -> None:
        """Choose Allow overlap in Masking > Modify other segments."""
        node = self.ui.embeddedSegmentEditorWidget.logic.GetSegmentEditorNode()
        node.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteNone)

    def add_segment(self, name: str) -> None:
        self.segmentation.AddEmptySegment("", name)

    def delete_segment(self, name: str) -> None:
        self.segmentation.RemoveSegment(self._id(name))

    def rename_segment(self, name: str, new: str) -> None:
        self.segmentation.GetSegment(self._id(name)).SetName(new)

    def move_segment(self, name: str, position: int) -> None:
        self.segmentation.SetSegmentIndex(self._id(name), position)

    def _edit(self, segment: str, mask: NDArray[np.bool_], mode: int) -> None:
        self._slicer.activate()
        label = slicer.modules.volumes.logic().CreateAndAddLabelVolume(self.volume, "stroke")
        slicer.util.updateVolumeFromArray(label, np.flip(mask, self._flips).T.astype(np.uint8))
        stroke = slicer.vtkSlicerSegmentationsModuleLogic.CreateOrientedImageDataFromVolumeNode(label)
        stroke.UnRegister(None)
        slicer.mrmlScene.RemoveNode(label)
        editor = self.ui.embeddedSegmentEditorWidget
        editor.setCurrentSegmentID(self._id(segment))
        editor.effectByName("Paint").modifySelectedSegmentByLabelmap(stroke, mode)

    def _together(self, segments: Sequence[str]) -> NDArray[np.uint8]:
        masks = np.stack([self.painted(segment) for segment in segments])
        assert masks.sum(axis=0).max() <= 1, f"{', '.join(segments)} overlap"
        return np.einsum("s,sxyz->xyz", np.arange(1, len(segments) + 1), masks).astype(np.uint8)

    def _id(self, segment: str) -> str:
        found = self.segmentation.GetSegmentIdBySegmentName(segment)
        assert found, f"there is no segment {segment!r} among {self.segments()}"
        return str(found)

    def _shown(self) -> NDArray[Any]:
        """Voxels of the open image, (I, J, K), of the first channel."""
        array = slicer.util.arrayFromVolume(self.volume)
        return array.reshape(*array.shape[:3], -1)[..., 0].T


def _choose(box: Any, text: str) -> None:
    assert box.findText(text) >= 0, f"{text!r} is none of {[box.itemText(index) for index in range(box.count)]}"
    box.setCurrentText(text)


def _first_channel(path: Path) -> NDArray[Any]:
    """The voxels of an image file in their own order, (X, Y, Z), of the first channel."""
    if path.suffix == ".nrrd":
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        return np.asarray(array.reshape(*array.shape[:3], -1)[..., 0].T)
    array = np.asanyarray(nibabel.load(path).dataobj)
    array = array[array.dtype.names[0]] if array.dtype.names else array
    return array.reshape(*array.shape[:3], -1)[..., 0]


def _flips(stored: NDArray[Any], shown: NDArray[Any]) -> tuple[int, ...]:
    """Find the axes along which Slicer shows an image mirrored, by comparing voxels."""
    axes = [chosen for count in range(4) for chosen in itertools.combinations(range(3), count)]
    fitting = [chosen for chosen in axes if np.array_equal(np.flip(stored, chosen), shown)]
    assert len(fitting) == 1, f"Slicer shows {shown.shape}, the file holds {stored.shape}; mirrored along {fitting}"
    return fitting[0]
