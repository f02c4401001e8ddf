"""Record what a process that stores does to its folder: each operation of files, and when it acknowledged what."""

import ctypes
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.core.errors import InputError

from . import PROJECT
from .storing import StoringProcess

CALLS = (
    "open,openat,creat,close,dup,dup2,fcntl,lseek,read,write,pwrite64,writev,sendfile,copy_file_range,truncate,ftruncate,"
    "fsync,fdatasync,sync_file_range,link,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,symlink"
)

MARK = b'["said", '
"""Begins what the process says; it goes into the record as a write to its standard output."""

PR_SET_PTRACER = 0x59616D61

_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")


@dataclass(frozen=True)
class Call:
    """A system call that succeeded.

    Attributes:
        name: of the call.
        words: its arguments as strace prints them, strings as bytes.
        result: what it returned.
    """

    name: str
    words: tuple[bytes | str, ...]
    result: int


def record(studies: Path, temporary: Path) -> list[Call]:
    """Have a process start on a folder, submit, restore and publish; return the calls of its main thread.

    Raises:
        InputError: it can't be traced, or it failed.
    """
    trace = temporary / "trace"
    command = [sys.executable, "-m", "torture.recorded", str(studies), str(temporary)]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        # strace follows from here: tracing the imports would take half a minute.
        process.stdout.readline()
        strace = ["strace", "-o", str(trace), "-xx", "-s", "100000000", "-e", f"trace={CALLS}", "-p", str(process.pid)]
        with subprocess.Popen(strace, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr
            attached = "attached" in (answer := tracer.stderr.readline())
            process.stdin.write(b"go\n")
            process.stdin.close()
            process.stdout.read()
    if not attached or process.returncode:
        raise InputError(f"the process can't be traced, or failed: {answer.strip() or process.returncode}")
    with trace.open(encoding="ascii") as lines:
        calls = [call for line in lines if (call := _parse(line))]
    trace.unlink()
    return calls


def said(call: Call) -> list[Any] | None:
    """Return what the process said by a call, if anything."""
    if call.name == "write" and isinstance(call.words[1], bytes) and call.words[1].startswith(MARK):
        words: list[Any] = json.loads(call.words[1])[1]
        return words
    return None


def _parse(line: str) -> Call | None:
    found = _CALL.match(line)
    if not found or int(found[3]) < 0:
        return None
    words: list[bytes | str] = []
    for text, word in re.findall(r'"((?:\\x[0-9a-f]{2})*)"|([^,\s"]+)', found[2]):
        words.append(word or bytes.fromhex(text.replace("\\x", "")))
    return Call(found[1], tuple(words), int(found[3]))


def main() -> None:
    """What is recorded: submissions of two images, an import by hand, restores, and models of two runs."""

    def say(*words: Any) -> None:
        os.write(1, MARK + json.dumps(words).encode() + b"]\n")

    if sys.platform == "linux":
        # Where only a parent may trace a process, allow it to all.
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    print("imported", flush=True)
    sys.stdin.readline()
    process = StoringProcess(Path(sys.argv[1]), Path(sys.argv[2]), say)
    say("ready")
    process.submit("a", 1)
    process.submit("a", 2)
    process.restore("a", 1)
    process.submit("b", 3)
    process.adopt("a", 5)
    process.publish(1)
    process.publish(2)
    process.submit("b", 4)
    process.restore("b", 1)


if __name__ == "__main__":
    main()
