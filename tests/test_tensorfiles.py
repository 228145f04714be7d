"""Arrays in safetensors files: what is written is read, by us and by others; hostile files are refused."""

import errno
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vizkit import atomic, tensorfiles
from vizkit.errors import UsageError
from vizkit.tensorfiles import Piecewise


def arrays():
    return {
        "a/ö": np.arange(12, dtype=np.float32).reshape(3, 4),
        "empty": np.zeros((0, 5), np.int64),
        "bytes": np.frombuffer(b"xyz", np.uint8),
        "counts": np.arange(6, dtype=np.uint16).reshape(2, 3),
        "exact": np.array([np.pi, -np.inf]),
    }


def test_what_is_written_is_read_and_carries_our_mark(tmp_path):
    path = tmp_path / "x.safetensors"
    tensorfiles.write(path, arrays(), {"key": "é"})
    found, told = tensorfiles.read(path)
    assert told["key"] == "é"
    for name, array in arrays().items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert not found[name].flags.writeable
    assert atomic.is_ours(path)


def test_other_readers_understand_it(tmp_path):
    from safetensors.numpy import load_file

    tensorfiles.write(tmp_path / "x.safetensors", arrays(), {})
    found = load_file(tmp_path / "x.safetensors")
    assert set(found) == set(arrays())
    for name, array in arrays().items():
        np.testing.assert_array_equal(found[name], array)


def test_pieces_equal_the_whole(tmp_path):
    whole = np.arange(20, dtype=np.float32).reshape(10, 2)
    tensorfiles.write(tmp_path / "a.safetensors", {"x": whole}, {})
    pieces = Piecewise("f4", (10, 2), (whole[k : k + 3] for k in range(0, 10, 3)))
    tensorfiles.write(tmp_path / "b.safetensors", {"x": pieces}, {})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_pieces_that_do_not_add_up_leave_the_old_file(tmp_path):
    path = tmp_path / "x.safetensors"
    tensorfiles.write(path, arrays(), {})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="do not add up"):
        tensorfiles.write(path, {"x": Piecewise("f4", (3,), [np.zeros(2, np.float32)])}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _file(header, data=b"\0" * 16):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HOSTILE = {
    "empty": b"",
    "short": b"\x05\0\0",
    "long header": struct.pack("<Q", 1 << 60) + b"{}",
    "no json": struct.pack("<Q", 4) + b"abcd",
    "a list": _file([1, 2]),
    "unknown type": _file({"x": {"dtype": "Q9", "shape": [1], "data_offsets": [0, 4]}}),
    "outside": _file({"x": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]}}),
    "backwards": _file({"x": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}}),
    "negative": _file({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}),
    "another size": _file({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}),
    "no offsets": _file({"x": {"dtype": "F32", "shape": [1]}}),
    "endless": _file({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, float("inf")]}}),
    "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(UsageError, match="damaged") as caught:
        tensorfiles.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        tensorfiles.read(tmp_path / "no.safetensors")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mutations_are_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("m")
    tensorfiles.write(folder / "x.safetensors", arrays(), {"k": "v"})
    whole = bytearray((folder / "x.safetensors").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (folder / "x.safetensors").write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        found, _ = tensorfiles.read(folder / "x.safetensors")
        assert all(array.sum() is not None for array in found.values())
    except UsageError:
        pass


def test_a_file_that_there_is_no_room_to_map_is_not_called_damaged(tmp_path, monkeypatch):
    tensorfiles.write(tmp_path / "a.safetensors", {"a": np.zeros(3)}, {})

    def full(*_args, **_named):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(np, "memmap", full)
    with pytest.raises(MemoryError, match=r"a\.safetensors"):
        tensorfiles.read(tmp_path / "a.safetensors")
