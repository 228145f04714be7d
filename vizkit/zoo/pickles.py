"""What a pickle would import, read off its opcodes without running it."""

import os
import pickletools
import re
import struct
import zipfile
from dataclasses import dataclass, replace
from io import BufferedReader, BytesIO

SCANNED = 64 << 20
TORCH_MAGIC = 0x1950A86A20F9469CFC6C

HARMLESS = re.compile(
    r"torch\.(\w+Storage|\w*Tensor|Size|device|(q?u?int|float|bfloat|complex|bool|per_)\w*)"
    r"|torch\.(storage|_utils|nn\.parameter|sparse)\.\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.serialization\._get_layout|collections\.(OrderedDict|Counter)|_codecs\.encode"
    r"|builtins\.(set|bytearray|complex|object)|copy_?reg\._reconstructor"
    r"|numpy\.(_?core\.multiarray\.scalar|dtype|dtypes\.\w+)"
)
"""Full names of what torch loads, or can be allowed to load, without running code."""

RENAMED = {"posix": "os", "nt": "os", "__builtin__": "builtins", "commands": "subprocess"}

CODE = re.compile(
    r"(os|sys|subprocess|pty|io|runpy|importlib|imp|shutil|socket|webbrowser|ctypes|code|codeop|pdb"
    r"|bdb|timeit|pickle|_pickle|marshal|urllib\w*|asyncio|multiprocessing|operator|types|signal|threading"
    r"|tempfile|pydoc|cProfile|profile|trace|platform|torch\.hub|torch\.jit)\..*"
    r"|builtins\.(?!(frozenset|slice|range|list|dict|tuple|int|float|str|bytes|bool|type)$).*"
)
"""Full names of what runs code, or gets at what does."""


@dataclass(frozen=True)
class Scan:
    """What a pickle would import, its protocol, and whether torch.save's, a module, whole."""

    names: tuple[str, ...]
    protocol: int
    by_torch: bool
    module: bool
    complete: bool


def scan(data: bytes, count: int) -> Scan:
    """Parse up to `count` pickles one after another, as far as they go, without running them."""
    names: list[str] = []
    words: list[str] = ["", ""]
    protocol, numbers, module, complete = 0, set(), False, False
    stream = BytesIO(data)
    try:
        for _ in range(count):
            for code, value, _at in pickletools.genops(stream):
                if code.name in ("GLOBAL", "INST"):
                    names.append(_renamed(*str(value).split(" ", 1)))
                elif code.name == "STACK_GLOBAL":
                    names.append(_renamed(*words))
                elif code.name == "PROTO":
                    protocol = max(protocol, int(value or 0))
                elif code.name == "LONG1":
                    numbers.add(value)
                elif isinstance(value, str):
                    words = [words[1], value]
                    module = module or value == "_parameters"
        complete = bool(names)
    except (ValueError, IndexError, OverflowError, EOFError, struct.error):
        pass
    return Scan(tuple(names), protocol, TORCH_MAGIC in numbers, module, complete)


def _renamed(module: str, name: str) -> str:
    """The full name as people write it: pickle keeps that of the system and of Python 2."""
    return f"{RENAMED.get(module, module)}.{name}"


def scan_file(stream: BufferedReader) -> Scan:
    """The scan of a file by torch.save: of its data.pkl, or of the four pickles an old file starts with."""
    stream.seek(0)
    if stream.read(2) != b"PK":
        stream.seek(0)
        return scan(stream.read(SCANNED), 4)
    with zipfile.ZipFile(stream) as archive:
        entry = next(e for e in archive.infolist() if e.filename.rpartition("/")[2] == "data.pkl")
    return replace(scan(_stored(stream, entry), 1), by_torch=True)


def _stored(stream: BufferedReader, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry stored as it is; unlike ZipFile.open, also where the checksum is not set."""
    try:
        stream.seek(entry.header_offset + 26)
        stream.seek(sum(struct.unpack("<HH", stream.read(4))), os.SEEK_CUR)
        return stream.read(min(entry.file_size, SCANNED))
    except (struct.error, ValueError, OverflowError, OSError):
        return b""
