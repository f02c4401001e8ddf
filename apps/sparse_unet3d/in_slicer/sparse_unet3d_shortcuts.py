"""Shortcuts for painting with Sparse U-Net in 3D Slicer. They add to the plugin MONAILabel, which stays as it is.

N   shows the next slice worth painting: all views jump to it, and the view across its axis comes on top.
    Press N again for the slice after it.
A   accepts the prediction in the slice that the view under the mouse shows, across any of the volume's three axes.
    Voxels without paint get their predicted class, the background class too. Your own paint stays. Undo takes it back.
U   lays the uncertainty of the latest prediction over the volume. Press U again to hide it.

To load this file once, open View > Python Console in 3D Slicer and enter:

    exec(open(r"FOLDER/sparse_unet3d_shortcuts.py").read(), {})

To load it for good, put this line into the file that Edit > Application Settings > General > Application startup script
names (.slicerrc.py), and restart 3D Slicer. Loaded twice, it replaces its shortcuts. It keeps no settings.

Array indices are those of 3D Slicer: i, j, k along the volume's axes 0, 1, 2, counted from 0. Positions are RAS in mm.
"""

# 3D Slicer 5 has Python 3.9 or newer, and reads this file in the encoding of the computer: keep it to ASCII.
from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

import qt
import slicer

NAME = "SparseUNet3D"
"""Object name of the shortcuts, and the attribute of the overlay's node that keeps what the views showed before."""

PREDICTED = " (predicted)"
"""Ending of the names of the model's segments."""

MARKS = "annotate here"
"""Name of the segment that marks slices to paint; neither a class nor a prediction."""

SUGGESTIONS = 6
"""How many slices N goes through before it starts again."""

LAYOUTS = {"Red": 7301, "Yellow": 7302, "Green": 7303}
"""Numbers of the layouts that have this slice view on top. Slicer's own layouts have numbers below 100."""

LAYOUT = """
<layout type="vertical" split="true">
  <item splitSize="600"><view class="vtkMRMLSliceNode" singletontag="{}"/></item>
  <item splitSize="300">
    <layout type="horizontal">
      <item><view class="vtkMRMLSliceNode" singletontag="{}"/></item>
      <item><view class="vtkMRMLSliceNode" singletontag="{}"/></item>
    </layout>
  </item>
</layout>
"""
"""One slice view on top and two below, as vtkMRMLLayoutNode describes it."""


class Refusal(Exception):
    """What a key asks for can't be done; the message tells the person why, and what to do."""


def told(action: Callable[[Shortcuts], None]) -> Callable[[Shortcuts], None]:
    """Make a key show the cursor of waiting while it works, and a refusal as a message."""

    def carry_out(shortcuts: Shortcuts) -> None:
        refusal = None
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            action(shortcuts)
        except Refusal as error:
            refusal = str(error)
        finally:
            qt.QApplication.restoreOverrideCursor()
        if refusal:
            slicer.util.warningDisplay(refusal, windowTitle="Sparse U-Net")

    return carry_out


class Shortcuts:
    """What the keys do.

    Attributes:
        view_used: id of the view that a key was last used on.
        suggested: image and slices that the server suggested last, to notice new suggestions.
        turn: which of these slices is shown.
    """

    def __init__(self) -> None:
        self.view_used = ""
        self.suggested: tuple[str, list[tuple[int, int]]] | None = None
        self.turn = 0

    @told
    def show_next_slice(self) -> None:
        """Show the next slice that the server suggests, or say that none is left."""
        plugin = plugin_with_volume()
        image = image_on_server(plugin)
        marks, reply = ask(plugin, lambda logic: logic.infer("next_slices", image, {"slices": SUGGESTIONS}))
        os.remove(marks)
        slices = reply["slices"]
        if not slices:
            raise Refusal(reply["note"])
        suggested = image, [(one["axis"], one["index"]) for one in slices]
        self.turn = (self.turn + 1) % len(slices) if suggested == self.suggested else 0
        self.suggested = suggested
        chosen = slices[self.turn]
        view = turn_views(plugin._volumeNode)[chosen["axis"]]
        slicer.vtkMRMLSliceNode.JumpAllSlices(
            slicer.mrmlScene, *chosen["position"], slicer.vtkMRMLSliceNode.OffsetJumpSlice
        )
        put_on_top(view.GetLayoutName())
        self.view_used = view.GetID()
        note = f" ({reply['note']})" if reply["note"] else ""
        slicer.util.showStatusMessage(f"{chosen['name']}: {chosen['why']}{note}")

    @told
    def accept_prediction(self) -> None:
        """Give the voxels without paint in the shown slice their predicted class."""
        plugin = plugin_with_volume()
        if plugin.logic.get_segment_editor_node().GetActiveEffectName() == "Draw":
            # In Draw, this key ends an outline. The shortcut takes the key away, and the person meant the outline.
            raise Refusal(
                "Draw is in use: end its outline by Enter; to accept a prediction, choose another tool first."
            )
        volume, segmentation = plugin._volumeNode, plugin._segmentNode
        predicted, classes = segments_of(plugin)
        if not any(labelmap_of(segmentation, segment) for segment in predicted.values()):
            raise Refusal("There is no prediction of this volume here yet: press Run first, then A again.")
        view = self._view()
        axis, index = slice_shown(view, volume)
        grid = slice_grid(volume, axis, index)
        accepted = voxels_to_accept(segmentation, predicted, classes, grid)
        for editor in editors_of(plugin):
            if editor.segmentationNodeID() == segmentation.GetID():
                editor.saveStateForUndo()
        for name, voxels in accepted.items():
            add_voxels(segmentation, classes[name], grid, voxels)
        self.view_used = view.GetID()
        counts = ", ".join(f"{np.count_nonzero(voxels)} voxels of {name}" for name, voxels in accepted.items())
        slicer.util.showStatusMessage(f"Accepted in slice {index} across axis {axis}: {counts}.")

    @told
    def toggle_uncertainty(self) -> None:
        """Lay the uncertainty over the volume in all slice views, or take it away."""
        overlays = [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if node.GetAttribute(NAME)]
        if overlays:
            for overlay in overlays:
                hide_overlay(overlay)
            return
        plugin = plugin_with_volume()
        image = image_on_server(plugin)
        none = "There is no prediction of this volume yet: press Run first, then U again."
        file = ask(plugin, lambda logic: logic.download_label(image, "uncertainty"), if_missing=none)
        try:
            overlay = slicer.util.loadVolume(file, {"name": "uncertainty", "singleFile": True, "show": False})
        finally:
            os.remove(file)
        try:
            place_like(overlay, plugin._volumeNode)
        except Refusal:
            slicer.mrmlScene.RemoveNode(overlay)
            raise
        show_overlay(overlay)
        slicer.util.showStatusMessage("Uncertainty of the latest prediction, from dark to bright; U hides it.")

    def _view(self) -> Any:
        """Return the slice view under the mouse, or else the one that a key was last used on."""
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        view = crosshair.GetCursorPositionXYZ([0.0, 0.0, 0.0]) if crosshair else None
        view = view or slicer.mrmlScene.GetNodeByID(self.view_used)
        if view is None:
            raise Refusal("Move the mouse over the slice, then press A again.")
        return view


# The plugin and the server


def plugin_with_volume() -> Any:
    """Return the plugin's widget; a volume is open in it.

    Raises:
        Refusal: the module wasn't opened yet, or it has no volume.
    """
    plugin = getattr(slicer.modules, "MONAILabelWidget", None)
    if plugin is None or not plugin.current_sample or not plugin._volumeNode or not plugin._segmentNode:
        raise Refusal("No volume is open: open the module MONAILabel, connect to the server and press Next Sample.")
    return plugin


def image_on_server(plugin: Any) -> str:
    """Return the name by which the server knows the open volume.

    Raises:
        Refusal: the volume came from a file and the server doesn't have it.
    """
    if plugin.current_sample.get("session"):
        raise Refusal("The server doesn't have this volume: upload it in the module MONAILabel, or press Next Sample.")
    return str(plugin.current_sample["id"])


def ask(plugin: Any, question: Callable[[Any], Any], if_missing: str = "") -> Any:
    """Ask the server as the plugin's buttons do: at its address, with its login.

    Args:
        plugin: the plugin's widget.
        question: called with the plugin's logic, to return the answer.
        if_missing: what to tell if the server doesn't have what is asked for.

    Raises:
        Refusal: the server can't be reached, or it refuses.
    """
    address = plugin.serverUrl()
    plugin.logic.setServer(address)
    try:
        return question(plugin.logic)
    except Exception as error:
        # The plugin raises errors of its own, with the server's reply in ``msg``, besides those of sockets and JSON.
        refused = re.match(r"Status: (\d+); Response: (.*)", str(getattr(error, "msg", "")), re.DOTALL)
        if refused is None:
            raise Refusal(
                f"The server at {address} doesn't answer: see that it runs, and that its address in the module "
                f"MONAILabel is right ({error})."
            ) from error
        if refused[1] == "404" and if_missing:
            raise Refusal(if_missing) from error
        raise Refusal(f"The server refuses: {detail_of(refused[2])}") from error


def detail_of(reply: str) -> str:
    """Return the sentence in a server's reply, or the reply itself if it has none."""
    try:
        return str(json.loads(reply)["detail"])
    except (ValueError, LookupError, TypeError):
        return reply


def segments_of(plugin: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return the ids of segments by the names of the classes.

    Returns:
        The model's segments, of the foreground classes; the painted ones, of these and the background class, the last.

    Raises:
        Refusal: the server isn't one of Sparse U-Net, or a segment is missing.
    """
    labels = [str(name) for name in plugin.info.get("labels", ()) if name != MARKS]
    foreground = [name[: -len(PREDICTED)] for name in labels if name.endswith(PREDICTED)]
    background = [name for name in labels if not name.endswith(PREDICTED) and name not in foreground]
    if not foreground or len(background) != 1:
        raise Refusal(f"The server at {plugin.serverUrl()} isn't one of Sparse U-Net: connect to one that is.")
    segmentation = plugin._segmentNode
    predicted = {name: segment_named(segmentation, name + PREDICTED) for name in foreground}
    return predicted, {name: segment_named(segmentation, name) for name in (*foreground, *background)}


def editors_of(plugin: Any) -> list[Any]:
    """Return the segment editors that the person may be using; each has its own Undo."""
    module = getattr(slicer.modules, "SegmentEditorWidget", None)
    return [plugin.ui.embeddedSegmentEditorWidget, *([module.editor] if module else [])]


# Views


def turn_views(volume: Any) -> dict[int, Any]:
    """Turn the three slice views so that each shows the slices across another axis of the volume, the nearest one.

    Views of a volume that isn't oblique stay as they are, unless they were turned.

    Returns:
        The views by axis.
    """
    views = [slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNode{name}") for name in LAYOUTS]
    to_ras = matrix_of(volume)
    axes = slicer.util.arrayFromVTKMatrix(to_ras)[:3, :3]
    directions = axes / np.linalg.norm(axes, axis=0)
    normals = np.array([slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())[:3, 2] for view in views])
    along = np.abs(normals @ directions)
    order = max(itertools.permutations(range(3)), key=lambda one: float(along[[0, 1, 2], list(one)].sum()))
    by_axis = {axis: views[position] for position, axis in enumerate(order)}
    for axis, view in by_axis.items():
        view.RotateToAxes(to_ras, axis)
    return by_axis


def matrix_of(volume: Any) -> vtk.vtkMatrix4x4:
    """Return the matrix from voxels (i, j, k, 1) to positions of a volume."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix


def put_on_top(name: str) -> None:
    """Change to the layout with this slice view on top and the other two below it."""
    layout, number = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode"), LAYOUTS[name]
    if not layout.IsLayoutDescription(number):
        layout.AddLayoutDescription(number, LAYOUT.format(name, *(other for other in LAYOUTS if other != name)))
    layout.SetViewArrangement(number)


def slice_shown(view: Any, volume: Any) -> tuple[int, int]:
    """Return which slice of the volume a view shows.

    Returns:
        The axis across which the slice lies, and its index.

    Raises:
        Refusal: the view shows parts of several slices, or none.
    """
    to_ras = slicer.util.arrayFromVTKMatrix(matrix_of(volume))
    plane = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
    # A voxel lies in the plane if weights @ (i, j, k) == distance.
    weights = plane[:3, 2] @ to_ras[:3, :3]
    distance = plane[:3, 2] @ (plane[:3, 3] - to_ras[:3, 3])
    axis = int(np.argmax(np.abs(weights)))
    shape = volume.GetImageData().GetDimensions()
    first, second = (other for other in range(3) if other != axis)
    # The same index at all four corners of the volume, but for rounding in headers, means a single slice.
    corners = [
        (distance - weights[first] * at - weights[second] * beside) / weights[axis]
        for at in (0, shape[first] - 1)
        for beside in (0, shape[second] - 1)
    ]
    if max(corners) - min(corners) > 0.5:
        raise Refusal(
            f"The {view.GetName()} view cuts through several slices of this volume: press N, or the button 'Rotate to "
            "volume plane' of the view, then A again."
        )
    index = math.floor(sum(corners) / 4 + 0.5)
    if not 0 <= index < shape[axis]:
        raise Refusal(f"The {view.GetName()} view shows no slice of this volume: scroll to one, then press A again.")
    return axis, index


# Segments


def segment_named(segmentation: Any, name: str) -> str:
    """Return the id of a segment.

    Raises:
        Refusal: there is none of this name.
    """
    segment = segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)
    if not segment:
        raise Refusal(f"The segment '{name}' is missing: give it its name back, or add an empty segment of this name.")
    return str(segment)


def labelmap_of(segmentation: Any, segment: str) -> Any | None:
    """Return a copy of a segment as vtkOrientedImageData, or None if it is empty."""
    labelmap = slicer.vtkOrientedImageData()
    segmentation.GetBinaryLabelmapRepresentation(segment, labelmap)
    return None if labelmap.IsEmpty() else labelmap


def slice_grid(volume: Any, axis: int, index: int) -> Any:
    """Return the voxels of one slice of the volume as vtkOrientedImageData, without values."""
    extent = list(volume.GetImageData().GetExtent())
    extent[2 * axis : 2 * axis + 2] = index, index
    grid = slicer.vtkOrientedImageData()
    grid.SetImageToWorldMatrix(matrix_of(volume))
    grid.SetExtent(extent)
    grid.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    return grid


def voxels_of(segmentation: Any, segment: str, grid: Any) -> NDArray[np.bool_]:
    """Return which voxels of a grid a segment has, wherever and in whatever order of voxels the segment is stored.

    Returns:
        bool, one for each point of the grid.
    """
    labelmap = labelmap_of(segmentation, segment)
    if labelmap is None:
        return np.zeros(grid.GetNumberOfPoints(), dtype=bool)
    resampled = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(labelmap, grid, resampled)
    return np.asarray(vtk_to_numpy(resampled.GetPointData().GetScalars()), dtype=bool)


def voxels_to_accept(
    segmentation: Any, predicted: dict[str, str], classes: dict[str, str], grid: Any
) -> dict[str, NDArray[np.bool_]]:
    """Return which voxels of a grid each class gets. None of them is painted yet.

    Args:
        segmentation: the node with the segments.
        predicted, classes: see ``segments_of``.
        grid: as of ``slice_grid``.

    Returns:
        By class, bool for each point of the grid. What the model gives to no class is background.

    Raises:
        Refusal: every voxel is painted.
    """
    free = np.ones(grid.GetNumberOfPoints(), dtype=bool)
    for segment in classes.values():
        free &= ~voxels_of(segmentation, segment, grid)
    if not free.any():
        raise Refusal("Every voxel of this slice is painted already: erase what the prediction is to replace.")
    accepted = {}
    for name in classes:
        accepted[name] = free & voxels_of(segmentation, predicted[name], grid) if name in predicted else free
        free = free & ~accepted[name]
    return accepted


def add_voxels(segmentation: Any, segment: str, grid: Any, voxels: NDArray[np.bool_]) -> None:
    """Add voxels of a grid to a segment; all other segments stay as they are."""
    grid.GetPointData().SetScalars(numpy_to_vtk(voxels.astype(np.uint8), deep=True))
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetBinaryLabelmapToSegment(grid, segmentation, segment, logic.MODE_MERGE_MASK, grid.GetExtent())


# The overlay


def corners_of(volume: Any) -> NDArray[np.float64]:
    """Return the positions of the volume's corners, (8, 3); that of voxel (0, 0, 0) comes first."""
    to_ras = matrix_of(volume)
    ends = itertools.product(*((0, length - 1) for length in volume.GetImageData().GetDimensions()))
    return np.array([to_ras.MultiplyPoint([*end, 1])[:3] for end in ends])


def place_like(overlay: Any, volume: Any) -> None:
    """Lay an overlay on the voxels of the volume.

    Raises:
        Refusal: it isn't of this volume.
    """
    half, there, here = min(volume.GetSpacing()) / 2, corners_of(overlay), corners_of(volume)
    if there.shape == here.shape and np.abs(there - here).max() < half:
        return
    same_size = overlay.GetImageData().GetDimensions() == volume.GetImageData().GetDimensions()
    if not same_size or not np.allclose(overlay.GetSpacing(), volume.GetSpacing(), rtol=1e-3):
        raise Refusal("The stored uncertainty belongs to an earlier volume of this name: press Run, then U again.")
    # Of some files with several channels, Slicer loses the directions, but neither the first voxel's position nor the
    # order of the voxels. The overlay has one channel, and Slicer reverses its third axis if it is left-handed.
    if np.abs(there[0] - here[0]).max() > half:
        voxels = slicer.util.arrayFromVolume(overlay)
        voxels[:] = voxels[::-1].copy()
        slicer.util.arrayFromVolumeModified(overlay)
    overlay.CopyOrientation(volume)


def show_overlay(overlay: Any) -> None:
    """Show the uncertainty, 0 to 255, over the volume in all slice views, and note what they showed before."""
    overlay.CreateDefaultDisplayNodes()
    display = overlay.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0, 255)
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeIron")
    # What is nearly certain stays transparent; black would only darken the volume there.
    display.AutoThresholdOff()
    display.SetThreshold(255 // 10, 255)
    display.ApplyThresholdOn()
    before = {
        layers.GetID(): (layers.GetForegroundVolumeID(), layers.GetForegroundOpacity())
        for layers in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    }
    overlay.SetAttribute(NAME, json.dumps(before))
    slicer.util.setSliceViewerLayers(foreground=overlay, foregroundOpacity=0.5)


def hide_overlay(overlay: Any) -> None:
    """Remove the overlay, and let the views show what they showed before."""
    for name, (volume, opacity) in json.loads(overlay.GetAttribute(NAME)).items():
        layers = slicer.mrmlScene.GetNodeByID(name)
        # The person may have chosen another layer meanwhile.
        if layers and layers.GetForegroundVolumeID() == overlay.GetID():
            layers.SetForegroundVolumeID(volume)
            layers.SetForegroundOpacity(opacity)
    slicer.mrmlScene.RemoveNode(overlay)


def load() -> None:
    """Connect the keys, in place of those of an earlier load."""
    window = slicer.util.mainWindow()
    if window is None:
        # Slicer runs without a window, to carry out a program.
        return
    for child in window.children():
        if child.objectName == NAME:
            child.setParent(None)
            child.deleteLater()
    shortcuts = Shortcuts()
    actions = {
        "N": shortcuts.show_next_slice,
        "A": shortcuts.accept_prediction,
        "U": shortcuts.toggle_uncertainty,
    }
    for key, action in actions.items():
        shortcut = qt.QShortcut(window)
        shortcut.objectName = NAME
        shortcut.setKey(qt.QKeySequence(key))
        shortcut.autoRepeat = False
        shortcut.connect("activated()", action)


load()
