"""3D Slicer without a display: the real scene and logics of ``slicer-core``, the real plugin, stand-ins for widgets."""

import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

# slicer imports everything in folders of its name on the search path. The stand-ins become part of it in this way, and
# the folder above this one must not be on the path meanwhile, because this folder has the same name.
_path = sys.path[:]
sys.path[:] = [str(HERE / "stand_ins"), *(entry for entry in _path if Path(entry).resolve() != HERE.parent)]
from slicer_core import vtkSegmentationCore  # noqa: E402

import slicer  # noqa: E402

sys.path[:] = [str(HERE / "stand_ins"), *_path]
import qt  # noqa: E402

# In Slicer this is a separate module, in the wheel a part of the package.
sys.modules["vtkSegmentationCore"] = vtkSegmentationCore


@dataclass(frozen=True)
class Dialog:
    """A message that the plugin showed.

    Attributes:
        kind: ``information``, ``question``, ``warning`` or ``error``.
        text: the message.
        details: the text behind *Show Details*.
    """

    kind: str
    text: str
    details: str


class Application:
    """One run of 3D Slicer, with its own scene, settings and temporary folder.

    In Python code, ``slicer.app``, ``slicer.mrmlScene`` and ``slicer.modules`` belong to the run that was activated
    last.
    """

    applicationName = "Slicer"

    def __init__(self, folder: Path, settings: dict[str, object]) -> None:
        for name in ("temporary", "cache", "share/ColorFiles"):
            (folder / name).mkdir(parents=True)
        colors = [f"{value} color_{value} {value} {value} {value} 255" for value in range(256)]
        (folder / "share/ColorFiles/GenericColors.txt").write_text("\n".join(colors))
        self.temporaryPath = str(folder / "temporary")
        self.cachePath = str(folder / "cache")
        self.settings = dict(settings)
        self.dialogs: list[Dialog] = []
        self.timers: list[Any] = []
        self.window = qt.QMainWindow()
        self.window.objectName = "qSlicerMainWindow"
        self.scene = slicer.vtkMRMLScene()
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetHomeDirectory(str(folder))
        self._logic.SetShareDirectory("share")
        self._logic.SetMRMLScene(self.scene)
        logics = {
            "colors": slicer.vtkSlicerColorLogic(),
            "volumes": slicer.vtkSlicerVolumesLogic(),
            "segmentations": slicer.vtkSlicerSegmentationsModuleLogic(),
            "markups": slicer.vtkSlicerMarkupsLogic(),
        }
        for name, logic in logics.items():
            logic.SetMRMLApplicationLogic(self._logic)
            logic.SetMRMLScene(self.scene)
            self._logic.SetModuleLogic(name.capitalize(), logic)
        self.modules = types.SimpleNamespace(
            **{name: types.SimpleNamespace(logic=lambda logic=logic: logic) for name, logic in logics.items()}
        )

        self._layout = self._add_views()

    def _add_views(self) -> Any:
        """Add what the window's views have in the scene, as at Slicer's start; return the logic of their layout."""
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene)
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetSingletonTag("default")
        self.scene.AddNode(crosshair)
        layout = slicer.vtkMRMLLayoutLogic()
        layout.SetMRMLScene(self.scene)
        layout.GetLayoutNode().SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        for name in ("Red", "Yellow", "Green"):
            layers = slicer.vtkMRMLSliceCompositeNode()
            layers.SetSingletonTag(name)
            layers.SetLayoutName(name)
            self.scene.AddNode(layers)
        return layout

    def activate(self) -> None:
        slicer.app, slicer.mrmlScene, slicer.modules = self, self.scene, self.modules

    def quit(self) -> None:
        self.timers.clear()
        # It can't bear the loss of its views.
        self._layout.SetMRMLScene(None)
        self.scene.Clear(1)

    def note(self, box: Any) -> None:
        """Keep the message of a message box."""
        kind = ("information", "information", "warning", "error", "question")[box.icon]
        self.dialogs.append(Dialog(kind, box.text, box.detailedText))

    # What the plugin and ``slicer.util`` use of ``slicer.app``

    def connect(self, signature: str, slot: Callable[..., object]) -> None:
        """Do nothing: the signals of Slicer's start are over before the plugin is loaded."""

    def testingEnabled(self) -> bool:
        """Return False: in testing mode, messages would be logged instead of shown."""
        return False

    def processEvents(self) -> None:
        pass

    def topLevelWidgets(self) -> list[Any]:
        return [self.window]

    def coreIOManager(self) -> "FileDialogs":
        return FileDialogs()


class FileDialogs:
    """Loads and saves nodes as Slicer's core does: volumes by the volumes logic, others by their storage nodes."""

    def loadNodes(self, kind: str, properties: dict[str, Any], loaded: Any, messages: Any) -> bool:
        if kind != "VolumeFile":
            raise NotImplementedError(f"loading a {kind}")
        file = Path(properties["fileName"])
        node = slicer.modules.volumes.logic().AddArchetypeVolume(str(file), file.name.partition(".")[0], 0)
        if node is None:
            return False
        loaded.AddItem(node)
        return True

    def fileWriterFileType(self, node: Any) -> str:
        return str(node.GetClassName())

    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any) -> bool:
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        node.AddDefaultStorageNode(properties["fileName"])
        return bool(node.GetStorageNode().WriteData(node))


def load_plugin() -> types.ModuleType:
    """Import the plugin's module, unchanged, from where the monailabel package installed it."""
    (file,) = [f for f in importlib.metadata.files("monailabel") or () if f.match("slicer/MONAILabel/MONAILabel.py")]
    path = Path(str(file.locate())).resolve()
    sys.path.append(str(path.parent))
    # Import by path: where file names ignore case, the name alone could also mean the monailabel package.
    spec = importlib.util.spec_from_file_location("MONAILabel", path)
    assert spec
    assert spec.loader
    module = sys.modules["MONAILabel"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
