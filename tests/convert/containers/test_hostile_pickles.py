"""Hostile and damaged files of torch.save are refused, and nothing that they name is run."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.errors import CheckpointError
from ipa_convert.containers.checkpoint import open_file
from ipa_convert.containers.torch_save import pickle_machine
from oracle.pickles import (
    FALSE,
    MAGIC,
    NONE,
    START,
    TRUE,
    ZEROS,
    archive,
    call,
    group,
    name,
    number,
    numbers,
    state,
    storage,
    stream,
    tensor,
    text,
)

MIB = 1 << 20
GOOD = state(a=tensor())
OLD = state(a=tensor(source=storage("FloatStorage", "0", 4, NONE)))
BIG = 2**40
EMPTY = call("collections", "OrderedDict")


def zipped(value: bytes) -> bytes:
    """One entry of a state dict."""
    return archive(state(a=value), {"0": ZEROS} if text("storage") in value else {})


def view(*options: Any) -> bytes:
    return zipped(tensor(*options))


def raw(body: bytes) -> bytes:
    """A whole pickle after its first opcode."""
    return archive(START + body, {"0": ZEROS} if text("storage") in body else {})


def edited(old: bytes, new: bytes, data: bytes | None = None) -> bytes:
    """A good archive with other bytes, everywhere."""
    data = archive(GOOD) if data is None else data
    assert old in data
    return data.replace(old, new)


def central(offset: int, form: str, value: int, member: int = 0) -> bytes:
    """A good archive with another number in one entry of its directory."""
    data = bytearray(archive(GOOD))
    place = -1
    for _ in range(member + 1):
        place = data.index(b"PK\1\2", place + 1)
    struct.pack_into(form, data, place + offset, value)
    return bytes(data)


def end(offset: int, form: str, value: int) -> bytes:
    """A good archive with another number in its last record."""
    data = bytearray(archive(GOOD))
    struct.pack_into(form, data, len(data) - 22 + offset, value)
    return bytes(data)


def doubled() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return archive(GOOD, more=[("archive/version", b"3\n")])


REBUILD = name("torch._utils", "_rebuild_tensor_v2")
LAUGHS = b"}q\0"  # every dict holds the one before it twice
for row in range(60):
    LAUGHS = b"}(" + text("a") + LAUGHS + text("b") + b"h%cuq%c" % (row, row + 1)
DEEP = b"".join(b"}" + text("a") for _ in range(40)) + tensor() + b"s" * 40
PARAMETER = name("torch._utils", "_rebuild_parameter")
PARAMETERS = name("torch.nn.modules.container", "ParameterDict")
LARGE = tensor((4096,), source=storage(count=4096))

# Calls and names: what must be said to be found.
CALLS: dict[str, tuple[bytes, str]] = {
    "system": (name("os", "system") + group(text("echo")) + b"R", "the name os.system"),
    "posix": (name("posix", "system") + group(text("echo")) + b"R", "the name posix.system"),
    "eval": (name("builtins", "eval") + group(text("1")) + b"R", "the name builtins.eval"),
    "eval of Python 2": (name("__builtin__", "eval"), "the name __builtin__.eval"),
    "getattr": (name("builtins", "getattr"), "the name builtins.getattr"),
    "subprocess": (name("subprocess", "Popen"), "the name subprocess.Popen"),
    "runpy": (name("runpy", "run_path"), "the name runpy.run_path"),
    "numpy.load": (name("numpy", "load"), "the name numpy.load"),
    "torch.load": (name("torch", "load"), "the name torch.load"),
    "torch.hub": (name("torch.hub", "load"), "the name torch.hub.load"),
    "attribute of an allowed name": (name("collections", "OrderedDict.__init__"), "__init__"),
    "module of an allowed name": (name("torch._utils", "os"), "the name torch._utils.os"),
    "name on the stack": (text("os") + text("system") + b"\x93", "the name os.system"),
    "name of numbers": (b"K\1K\2\x93", "a name that is no text"),
    "name without an end": (b"c" + b"a" * 500, "a name without an end"),
    "name not ASCII": (b"c\xff\n\xff\n", "text that is not ascii"),
    "call of a string": (text("os.system") + b")R", "a call of a str"),
    "call of a dict": (b"})R", "a call of a dict"),
    "call of a storage type": (name("torch", "FloatStorage") + b")R", "a call of a StorageType"),
    "call of what a call gave": (
        call("_codecs", "encode", text("a")) + group(text("b")) + b"R",
        "a call of a _codecs.encode",
    ),
    "call with a list": (name("collections", "OrderedDict") + b"]R", "a call of"),
    "state of a tensor": (tensor() + b"}b", "a state for a View"),
    "state of a function": (name("_codecs", "encode") + b"}b", "a state for a _codecs.encode"),
    "state of a list": (b"]}b", "a state for a list"),
    "instance": (b"(ios\nsystem\n", "the pickle opcode b'i'"),
    "object": (b"(" + name("os", "system") + b"o", "the name os.system"),
    "new object": (name("torch", "Size") + b")\x81", "an object of a Size"),
    "new object of a tensor": (tensor() + b")\x81", "an object of a View"),
    "new object of what is not listed": (name("os", "system") + b")\x81", "the name os.system"),
    "new object of what a call gave": (
        call("argparse", "Namespace") + b")\x81",
        "an object of a argparse.Namespace",
    ),
    "new object without a tuple": (
        name("argparse", "Namespace") + b"]\x81",
        "a call of argparse.Namespace with a list",
    ),
    "parameters called": (PARAMETERS + b")R", "a call of a torch.nn.ParameterDict"),
    "parameters with arguments": (
        PARAMETERS + group(text("a")) + b"\x81",
        "an object of a torch.nn.ParameterDict",
    ),
    "parameters without a state": (PARAMETERS + b")\x81Nb", "whose state is a NoneType"),
    "parameters of a list": (
        PARAMETERS + b")\x81}" + text("_parameters") + b"]sb",
        "whose state is a dict",
    ),
    "parameters that are none": (
        PARAMETERS + b")\x81}" + text("_parameters") + b"}" + text("a") + b"K\1ssb",
        "a parameter that is a int",
    ),
    "parameters as a dict": (
        PARAMETERS + b")\x81" + text("a") + b"K\1s",
        "an entry in a Parameters",
    ),
    "parameters twice": (
        PARAMETERS
        + b")\x81"
        + 2 * (b"}" + text("_parameters") + b"}" + text("a") + tensor() + b"ssb"),
        "whose state is a dict",
    ),
    "new object with keywords": (b")})\x92", r"the pickle opcode b'\x92'"),
    "extension": (b"\x82\x01", r"the pickle opcode b'\x82'"),
    "persistent id as text": (b"P0\n", "the pickle opcode b'P'"),
    "duplication": (b"}2", "the pickle opcode b'2'"),
    "pop": (b"N0", "the pickle opcode b'0'"),
    "bytearray too long": (b"\x96\xff" + bytes(6) + b"\x01", "a string of 72057594037928191 bytes"),
    "text integer": (b"I01\n", "the pickle opcode b'I'"),
    "items of a dict as of a set": (b"}(NN\x90", "an append to a dict"),
    "inert object in the state dict": (call("_codecs", "encode"), "which is no tensor"),
    "function in the state dict": (name("numpy", "dtype"), "which is no tensor"),
}
# What makes a tensor.
TENSORS: dict[str, tuple[bytes, str]] = {
    "number in the state dict": (zipped(b"K\1"), "a, which is no tensor but of type int"),
    "list in the state dict": (zipped(b"]" + tensor() + b"a"), "a, which is no tensor"),
    "beyond its storage": (view((5,), (1,)), "ends at element 5 of a storage with 4"),
    "offset beyond its storage": (view((4,), (1,), 1), "ends at element 5"),
    "offset of nothing beyond": (view((0,), (1,), 5), "ends at element 5"),
    "stride beyond its storage": (view((2,), (4,)), "ends at element 5"),
    "enormous offset": (view((1,), (1,), 2**100), "ends at element"),
    "negative offset": (view((1,), (1,), -1), "an offset that is -1"),
    "negative side": (view((-1,), (1,)), "the shape (-1)"),
    "two negative sides": (view((-2, -2), (2, 1)), "the shape (-2, -2)"),
    "negative stride": (view((2,), (-1,), 3), "strides (-1)"),
    "expanded": (view((4,), (0,)), "elements overlap"),
    "expanded without end": (view((2**31 - 1, 4), (0, 1)), "elements overlap"),
    "overlapping": (view((2, 2), (1, 1)), "elements overlap"),
    "partly overlapping": (view((2, 3), (1, 1)), "elements overlap"),
    "too many dimensions": (view((1,) * 9, (1,) * 9), "the shape"),
    "side too large": (view((BIG, 0), (1, 1)), "the shape"),
    "sides that overflow beside one of nothing": (
        view((2**31 - 1,) * 7 + (0,), (1,) * 8),
        "the shape (2147483647",
    ),
    "strides too few": (view((2, 2), (1,)), "the shape (2, 2) and strides (1)"),
    "shape that is a list": (
        zipped(REBUILD + group(storage(), b"K\0", b"]", b")", FALSE, b"}") + b"R"),
        "the shape list",
    ),
    "side that is true": (
        zipped(REBUILD + group(storage(), b"K\0", group(TRUE), numbers([1]), FALSE, b"}") + b"R"),
        "the shape (bool)",
    ),
    "side that is a fraction": (
        zipped(REBUILD + group(storage(), b"K\0", group(b"G" + bytes(8)), numbers([1])) + b"R"),
        "the shape (float)",
    ),
    "too few arguments": (zipped(REBUILD + group(storage()) + b"R"), "a call with 1 arguments"),
    "without a storage": (view((1,), (1,), 0, b"N"), "without a typed storage"),
    "hooks": (view((1,), (1,), 0, None, b"}" + text("a") + b"Ns"), "hooks or metadata"),
    "parameter of nothing": (
        zipped(PARAMETER + group(NONE, TRUE, b"}") + b"R"),
        "without a tensor",
    ),
    "storage without an id": (zipped(text("x") + b"Q"), "names no storage"),
    "id of a module": (zipped(group(text("module"), *[NONE] * 4) + b"Q"), "names no storage"),
    "storage of no type": (
        zipped(group(text("storage"), text("F"), text("0"), text("cpu"), b"K\4") + b"Q"),
        "names no storage",
    ),
    "negative storage": (view((1,), (1,), 0, storage(count=-1)), "names no storage"),
    "storage in two forms": (
        archive(state(a=tensor(), b=tensor((2,), (1,), 0, storage("HalfStorage")))),
        "in two forms",
    ),
    "storage longer than its member": (view((1,), (1,), 0, storage(count=5)), "16 bytes for"),
    "storage shorter than its member": (view((1,), (1,), 0, storage(count=3)), "16 bytes for"),
    "storage enormous": (view((1,), (1,), 0, storage(count=2**62)), "16 bytes for storage"),
    "storage that is not there": (view((1,), (1,), 0, storage(key="7")), "0 bytes for storage"),
    "storage elsewhere": (view((1,), (1,), 0, storage(key="../../x")), "0 bytes for storage"),
    "storage that nothing names": (archive(GOOD, {"0": ZEROS, "1": b""}), "1 storages that"),
    "one storage many times": (
        archive(
            START
            + b"}("
            + b"".join(text(f"a{i}") + (b"h\0" if i else LARGE + b"q\0") for i in range(200))
            + b"u.",
            {"0": bytes(4 * 4096)},
        ),
        "bytes in a file of",
    ),
}
# Dicts, and the machine itself.
PICKLES: dict[str, tuple[bytes, str]] = {
    "no dict": (raw(b"]."), "a list where a state dict should be"),
    "a tensor alone": (raw(tensor() + b"."), "a View where a state dict should be"),
    "state dict that is a list": (
        archive(state(state_dict=b"]"), {}),
        "a state dict that is a list",
    ),
    "one name twice": (raw(b"}(" + (text("a") + tensor()) * 2 + b"u."), "the key 'a' twice"),
    "one name twice, one by one": (
        raw(b"}" + (text("a") + tensor() + b"s") * 2 + b"."),
        "the key 'a' twice",
    ),
    "one name twice, in pairs": (
        zipped(call("collections", "OrderedDict", b"](" + group(b"K\1", NONE) * 2 + b"e")),
        "the key '1' twice",
    ),
    "one name by two ways": (
        archive(state(**{"a.b": tensor(), "a": b"}" + text("b") + tensor() + b"s"})),
        "the name 'a.b' twice",
    ),
    "key that is a number": (raw(b"}K\1" + tensor() + b"s."), "with the name '1'"),
    "key that is a tuple": (raw(b"})" + tensor() + b"s."), "a key of type tuple"),
    "key that is a list": (raw(b"}]" + tensor() + b"s."), "a key of type list"),
    "key that is an enormous number": (raw(b"}" + number(2**63) + b"Ns."), "a key of type int"),
    "key without characters": (archive(state(**{"": tensor()})), "with the name ''"),
    "key with a line break": (archive(state(**{"a\n": tensor()})), r"with the name 'a\n'"),
    "key too long": (archive(state(**{"a" * 257: tensor()})), "with the name 'aaa"),
    "dict in itself": (raw(b"}q\0" + text("a") + b"h\0s."), "one dict in two places"),
    "dicts of dicts of one dict": (archive(START + LAUGHS + b".", {}), "one dict in two places"),
    "dicts too deep": (archive(state(a=DEEP)), "too deep"),
    "entry in a list": (raw(b"]" + text("a") + b"Ns."), "an entry in a list"),
    "entry in a tensor": (raw(tensor() + text("a") + b"Ns."), "an entry in a View"),
    "entries that are odd": (raw(b"}(Nu."), "an entry in a dict"),
    "append to a dict": (raw(b"}Na."), "an append to a dict"),
    "pairs that are none": (zipped(call("collections", "OrderedDict", b"}")), "made of pairs"),
    "pairs of three": (
        zipped(call("collections", "OrderedDict", b"]" + group(NONE, NONE, NONE) + b"a")),
        "made of pairs",
    ),
    "two values": (raw(b"}}."), "more or less than one value"),
    "no value": (raw(b"."), "more or less than one value"),
    "group left open": (raw(b"}(."), "more or less than one value"),
    "group never begun": (raw(b"}u."), "has not begun"),
    "stack empty": (raw(b"\x85."), "takes what it has not made"),
    "state of nothing": (raw(b"b."), "takes what it has not made"),
    "memo of nothing": (raw(b"q\0."), "takes what it has not made"),
    "memo never kept": (raw(b"h\5."), "asks for 5, which it has not kept"),
    "protocol 9": (archive(b"\x80\x09}."), "pickle protocol 9"),
    "protocol 0": (archive(b"(dp0\n."), "the pickle opcode b'd'"),
    "cut off": (archive(GOOD[:-1]), "a pickle that is cut off"),
    "cut off in a string": (raw(b"X\xff\0\0\0abc"), "a pickle that is cut off"),
    "nothing": (archive(b""), "a pickle that is cut off"),
    "string of gigabytes": (raw(b"X\xff\xff\xff\xffabc."), "a string of 4294967295 bytes"),
    "bytes of gigabytes": (raw(b"B\xff\xff\xff\xffabc."), "a string of 4294967295 bytes"),
    "string not UTF-8": (raw(b"}X\1\0\0\0\xffNs."), "text that is not utf-8"),
    "half a surrogate pair": (raw(b"}X\3\0\0\0\xed\xa0\x80Ns."), "text that is not utf-8"),
    "long integer": (raw(b"\x8a\xff" + bytes(300)), "an integer of 255 bytes"),
    "longer integer": (raw(b"\x8b\xff\xff\xff\x7f"), r"the pickle opcode b'\x8b'"),
    "frame beyond the end": (archive(b"\x80\4\x95" + b"\xff" * 8 + b"}."), "is cut off"),
    "a second pickle": (archive(GOOD + GOOD), f"{len(GOOD)} bytes after the pickle"),
    "groups in groups": (raw(b"(" * 201), "more than 200 containers"),
}
# The archive around it.
SCRIPT = [("archive/constants.pkl", b"x")]
ARCHIVES: dict[str, tuple[bytes, str]] = {
    "two pickles": (archive(GOOD, more=[("other/data.pkl", GOOD)]), "an archive with 2 pickles"),
    "no pickle": (archive(GOOD).replace(b"data.pkl", b"data.txt"), "an archive with 0 pickles"),
    "path upwards": (archive(GOOD, more=[("archive/../../x", b"")]), "'archive/../../x' in it"),
    "absolute path": (archive(GOOD, more=[("/etc/passwd", b"")]), "'/etc/passwd' in it"),
    "drive": (archive(GOOD, more=[("C:/x", b"")]), "'C:/x' in it"),
    "backslashes": (archive(GOOD, more=[(r"archive\..\x", b"")]), "in it"),
    "storage upwards": (archive(GOOD, more=[("archive/data/../x", b"")]), "in it"),
    "file beside the folder": (archive(GOOD, more=[("version", b"3")]), "'version' in it"),
    "folder that is the parent": (archive(GOOD, root=".."), "with the folder '..'"),
    "folder in a folder": (archive(GOOD, root="a/b"), "with the folder 'a/b'"),
    "folder that is the root": (archive(GOOD, root=""), "with the folder ''"),
    "folder with a line break": (archive(GOOD, root="a\nb"), r"with the folder 'a\nb'"),
    "TorchScript": (archive(GOOD, more=SCRIPT), "a TorchScript program"),
    "compressed": (archive(GOOD, method=zipfile.ZIP_DEFLATED), "compressed, encrypted"),
    "zip bomb": (
        archive(GOOD, {"0": bytes(50 * MIB)}, method=zipfile.ZIP_DEFLATED),
        "compressed, encrypted",
    ),
    "big-endian": (archive(GOOD, more=[("archive/byteorder", b"big")]), "byte order b'big'"),
    "spelled twice": (archive(GOOD, {"0": ZEROS, "a": b"", "A": b""}), "two members of one name"),
    "bytes before": (b"PK\3\4" + bytes(40) + archive(GOOD), "not where it says"),
    "bytes after": (archive(GOOD) + b"\0", "bytes after it"),
    "another archive after": (archive(GOOD) * 2, "not where it says"),
    "cut off": (archive(GOOD)[:-30], "without an end"),
    "only its beginning": (archive(GOOD)[:60], "without an end"),
    "comment": (end(20, "<H", 5), "a comment"),
    "several parts": (end(4, "<H", 1), "in several parts"),
    "too many members": (end(8, "<I", 0x00090009), "of 9 members"),
    "fewer members": (end(8, "<I", 0x00020002), "after the last entry"),
    "directory elsewhere": (end(16, "<I", 40), "not where it says"),
    "wrong checksum": (central(16, "<I", 1), "checksum is wrong"),
    "storage that is a folder": (central(38, "<I", 0x10, member=2), "a folder"),
    "encrypted": (central(8, "<H", 1), "compressed, encrypted"),
    "sizes that differ": (central(20, "<I", 9), "compressed, encrypted"),
    "size without 64 bits": (central(24, "<I", 2**32 - 1), "without a size"),
    "header of another member": (central(42, "<I", 0, member=2), "not where"),
    "header beyond the end": (central(42, "<I", 2**31, member=2), "begins beyond the end"),
    "member beyond the end": (
        central(20, "<Q", (2**20 << 32) + 2**20, member=2),
        "reaches beyond",
    ),
    "overlapping members": (central(20, "<Q", (500 << 32) + 500), "that overlap"),
    "other name in the header": (
        archive(GOOD).replace(b"archive/version", b"archive/verzion", 1),
        "is not where",
    ),
}
KEYS = START + b"](" + text("0") + b"e."
STREAMS: dict[str, tuple[bytes, str]] = {
    "big-endian": (stream(OLD, little=FALSE), "another byte order"),
    "cut in the storages": (stream(OLD)[:-1], "its tensors need"),
    "bytes after": (stream(OLD) + b"\0", "1 bytes after the last storage"),
    "count that differs": (stream(OLD, tail=struct.pack("<q", 5) + ZEROS), "5 elements"),
    "negative count": (stream(OLD, tail=struct.pack("<q", -1) + ZEROS), "-1 elements"),
    "storage never listed": (stream(OLD, START + b"]."), "not that of the tensors"),
    "storage listed twice": (
        stream(OLD, START + b"](" + text("0") * 2 + b"e."),
        "not that of the tensors",
    ),
    "storage of nobody": (
        stream(OLD, START + b"](" + text("0") + text("1") + b"e."),
        "not that of the tensors",
    ),
    "keys that are numbers": (stream(OLD, START + b"]K\0a."), "without a list of storages"),
    "tensors in the list": (stream(OLD, START + b"]" + storage() + b"a."), "names no storage"),
    "part of a storage": (
        stream(state(a=tensor(source=storage("FloatStorage", "0", 4, numbers([0]))))),
        "part of another one",
    ),
    "id of the other format": (stream(GOOD), "names no storage"),
    "system": (stream(START + name("os", "system") + b")R."), "the name os.system"),
    "system in the list": (stream(OLD, START + name("os", "system") + b"."), "os.system"),
    "system in the head": (MAGIC + START + name("os", "system") + b".", "the name os.system"),
    "only its head": (MAGIC, "a pickle that is cut off"),
    "unknown version": (MAGIC.replace(b"\xe9\3", b"\xe9\4") + OLD, "no stream of torch"),
    "head that is a list": (MAGIC + START + b"].", "an unknown version"),
}
FILES = {
    **{f"call: {key}": (zipped(value), found) for key, (value, found) in CALLS.items()},
    **{f"tensor: {key}": value for key, value in TENSORS.items()},
    **{f"pickle: {key}": value for key, value in PICKLES.items()},
    **{f"archive: {key}": value for key, value in ARCHIVES.items()},
    **{f"stream: {key}": value for key, value in STREAMS.items()},
}


def refused(path: Path, data: bytes) -> CheckpointError:
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        open_file(path)
    return caught.value


@pytest.mark.parametrize("case", FILES)
def test_refused(case: str, tmp_path: Path) -> None:
    data, found = FILES[case]
    error = refused(tmp_path / "a.bin", data)
    assert str(tmp_path / "a.bin") in error.what
    assert found in error.found
    assert error.remedy
    assert len(str(error)) < len(str(tmp_path)) + 400, "a message, not a dump"


def test_the_sound_files_are_read(tmp_path: Path) -> None:
    """So that each case above is refused for what was changed."""
    for data in (archive(GOOD), stream(OLD), archive(state(a=EMPTY, b=tensor()))):
        (tmp_path / "a.bin").write_bytes(data)
        assert [t.array().tolist() for t in open_file(tmp_path / "a.bin").values()] == [[0.0] * 4]


def test_a_plain_pickle(tmp_path: Path) -> None:
    error = refused(tmp_path / "a.bin", pickle.dumps({"a": 1}, 2))
    assert error.found == "a pickle"


def test_one_member_twice(tmp_path: Path) -> None:
    error = refused(tmp_path / "a.bin", doubled())
    assert "two members of one name" in error.found


class Run:
    """What a pickle of it does when Python reads it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.parts = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.parts


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("wrap", [archive, stream])
def test_nothing_is_run(wrap: Callable[[bytes], bytes], protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for function, arguments in (
        (exec, (f"open({str(mark)!r}, 'w')",)),
        (Path.touch, (mark,)),
        (__import__("os").system, (f"touch '{mark}'",)),
        (open, (str(mark), "w")),
    ):
        attack = pickle.dumps({"a": Run(function, *arguments)}, protocol)
        pickle.loads(attack)  # it is live
        assert mark.exists()
        mark.unlink()
        assert "the name" in refused(tmp_path / "a.bin", wrap(attack)).found
        assert not mark.exists()


def test_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lying_in_wait.py").write_text("from collections import OrderedDict")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("lying_in_wait", "antigravity", "this", "pytorch_lightning.callbacks"):
        before = set(sys.modules)
        error = refused(tmp_path / "a.bin", zipped(call(module, "OrderedDict")))
        assert f"the name {module}.OrderedDict" in error.found
        assert set(sys.modules) == before
    model = name("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    (tmp_path / "a.bin").write_bytes(archive(state(callbacks=model, state_dict=EMPTY), {}))
    assert not open_file(tmp_path / "a.bin")
    assert "pytorch_lightning" not in sys.modules


MANY = 25_000
BOMBS = {
    "dicts": b"}" * 4 * MANY,
    "lists": b"]" * 4 * MANY,
    "tuples in tuples": b")" + b"\x85" * 4 * MANY,
    "groups": b"(t" * 2 * MANY,
    "memo": b"N" + b"".join(b"r" + struct.pack("<I", i) for i in range(MANY)),
    "memo of protocol 4": b"N" + b"\x94" * 4 * MANY,
    "numbers": number(2**120) * MANY,
    "long strings": (b"X" + struct.pack("<I", 60_000) + "🙂".encode() * 15_000) * 20,
    "short strings": b"X\1\0\0\0a" * MANY,
    "entries": b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(MANY)) + b"u",
    "one list in many dicts": b"]("
    + b"".join(group(b"J" + struct.pack("<i", i), NONE) for i in range(1000))
    + b"eq\0"
    + (name("collections", "OrderedDict") + b"h\0\x85R") * 500,
    "opaque objects": call("argparse", "Namespace") * MANY,
    "opaque objects made": (name("pathlib", "PosixPath") + b")\x81") * MANY,
    "opaque objects in the memo": (name("collections", "deque") + b")R\x94") * MANY,
    "entries of one opaque object": call("collections", "defaultdict")
    + b"("
    + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(MANY))
    + b"u)",
    "opaque keys": b"}(" + (call("argparse", "Namespace") + b"N") * MANY + b"u",
    "states of one opaque object": call("argparse", "Namespace") + b"}b" * 2 * MANY + b")",
    "tuples in tuples in an opaque object": name("argparse", "Namespace")
    + b")"
    + b"\x85" * 4 * MANY
    + b"R)",
    "tensors": tensor() * (MANY // 20),
    "tensors of one": tensor() + b"q\0" + b"h\0" * 4 * MANY,
}


@pytest.mark.parametrize("case", BOMBS)
def test_memory_of_bombs(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most about twice the file, beside an allowance: 32 MiB, here one so that it shows."""
    monkeypatch.setattr(pickle_machine, "_ALLOWANCE", MIB)
    path = tmp_path / "a.bin"
    path.write_bytes(raw(BOMBS[case] + b"."))
    size = path.stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            open_file(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * size + 2 * MIB, f"{peak / MIB:.1f} MiB for {size / MIB:.1f} MiB"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"N" + b"\x80\2" * 3_000_000, "steps"),
        (b")" * 10_000_000, "steps"),
        (
            b"}(" + b"".join(number(i * (2**61 - 1)) + NONE for i in range(40_000)) + b"u",
            "a dict with a key",
        ),
        (b"](" + b"N" * 100_000 + b"eq\0(" + b"h\0" * 2_000_000, "steps"),
    ],
    ids=["nothing at all", "empty tuples", "numbers of one hash", "one list in a list"],
)
def test_time_of_bombs(body: bytes, found: str, tmp_path: Path) -> None:
    """Measured: 0.7 s at most."""
    path = tmp_path / "a.bin"
    started = time.perf_counter()
    assert found in refused(path, raw(body + b".")).found
    assert time.perf_counter() - started < 8


def saved(zip_format: bool) -> bytes:
    file = io.BytesIO()
    tensors = OrderedDict(a=torch.ones(3, 4).t(), b=torch.nn.Parameter(torch.ones(2)))
    torch.save(
        {"image_proj": tensors, "ip_adapter": {"c": torch.ones(4).half()}},
        file,
        _use_new_zipfile_serialization=zip_format,
    )
    return file.getvalue()


SAVED = [saved(True), saved(False)]
LENGTH = max(map(len, SAVED))


@settings(max_examples=400, deadline=None)
@given(
    kind=st.integers(0, 1),
    edits=st.lists(
        st.tuples(st.integers(0, LENGTH - 1), st.integers(0, 255)), min_size=1, max_size=4
    ),
    cut=st.one_of(st.none(), st.integers(0, LENGTH)),
)
def test_any_damage(
    kind: int,
    edits: list[tuple[int, int]],
    cut: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Refused as a CheckpointError, or its tensors lie in the file."""
    data = bytearray(SAVED[kind])
    for place, value in edits:
        data[place % len(data)] = value
    attempt(bytes(data[:cut]), tmp_path_factory)


@settings(max_examples=400, deadline=None)
@given(
    pieces=st.lists(
        st.sampled_from([
            *[bytes([c]) for c in b".(}])tNsuaeRbQ\x85\x86\x87\x88\x89\x93\x94"],
            *[value for value, _ in CALLS.values()],
            text("a"), text("b"), number(-1), number(4), name("torch", "Size"), REBUILD, PARAMETER,
            name("collections", "OrderedDict"), storage(), tensor(), EMPTY, b"q\0", b"h\0",
        ]),
        max_size=12,
    )
)  # fmt: skip
def test_any_program(pieces: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    attempt(raw(b"".join(pieces) + b"."), tmp_path_factory)


def attempt(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.bin"
    path.write_bytes(data)
    try:
        tensors = open_file(path)
    except CheckpointError as error:
        assert str(path) in error.what
        return
    assert sum(t.array().nbytes for t in tensors.values()) <= 2 * len(data)
