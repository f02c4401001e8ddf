"""Runs a module in a process of its own. Only the server runs this file, with the module and the server's number."""

import importlib
import sys

from lib.core.orphan import end_with_parent

if __name__ == "__main__":
    end_with_parent(int(sys.argv[2]))
    importlib.import_module(sys.argv[1]).main()
