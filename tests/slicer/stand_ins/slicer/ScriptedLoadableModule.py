"""Stand-in for the base classes of Slicer's scripted modules."""

import inspect
from pathlib import Path
from typing import Any

import slicer


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.layout = parent.layout()
        setattr(slicer.modules, type(self).__name__, self)

    def setup(self) -> None:
        pass

    def resourcePath(self, name: str) -> str:
        return str(Path(inspect.getfile(type(self))).parent / "Resources" / name)


class ScriptedLoadableModuleLogic:
    def __init__(self) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self) -> Any:
        """Return the scene's node with the module's parameters."""
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetModuleName(self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleTest:
    pass
