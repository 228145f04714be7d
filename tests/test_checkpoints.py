import argparse
import hashlib
import io
import json
import os
import pickle
import random
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_bytes
from torch import nn

from vizkit.errors import UsageError, WeightsError
from vizkit.fingerprint import digest
from vizkit.zoo import checkpoints, weightfiles
from vizkit.zoo.checkpoints import load_weights
from vizkit.zoo.weightfiles import read_weights


class Net(nn.Module):
    def __init__(self, classes=5, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, classes)


class Runs:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def made(seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net(**options)
        with torch.no_grad():
            for tensor in net.state_dict().values():
                if tensor.is_floating_point():
                    tensor.normal_()
    return net


def state(**options):
    return made(1, **options).state_dict()


def image(module):
    """Everything of the module that a failed load must leave alone."""
    values = {
        k: (str(v.device), v.dtype, v.tolist()) for k, v in module.state_dict().items() if not v.is_meta
    }
    return values, [id(p) for p in module.parameters()], [id(b) for b in module.buffers()]


def saved(what, old=False, **options):
    stream = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.save(what, stream, _use_new_zipfile_serialization=not old, **options)
    return stream.getvalue()


def scripted():
    stream = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), stream)
    return stream.getvalue()


def exported():
    stream = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), stream)
    return stream.getvalue()


def zipped(entries, method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, value in entries.items():
            archive.writestr(name, value)
    return stream.getvalue()


def rezipped(data, method=zipfile.ZIP_STORED, **changes):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {n: archive.read(n) for n in archive.namelist()}
    for name in entries:
        change = changes.get(name.rpartition("/")[2].replace(".", "_"))
        entries[name] = change(entries[name]) if change else entries[name]
    return zipped(entries, method)


def npz():
    stream = io.BytesIO()
    np.savez(stream, a=np.ones(3))
    return stream.getvalue()


def npy():
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


def tarred(*names):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return stream.getvalue()


def quantized():
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


def nested():
    with warnings.catch_warnings(action="ignore"):
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


def csr():
    with warnings.catch_warnings(action="ignore"):
        return torch.eye(3).to_sparse_csr()


def with_value(value, name="conv.weight"):
    out = {k: v.clone() for k, v in state().items()}
    out[name].view(-1)[:2] = value
    return out


def changed(**tensors):
    return {**state(), **{k.replace("__", "."): v for k, v in tensors.items()}}


def without(*names):
    return {k: v for k, v in state().items() if k not in names}


def prefixed(prefix, tensors=None):
    return OrderedDict((prefix + k, v) for k, v in (tensors or state()).items())


def looped():
    loop = {}
    loop["state_dict"] = loop
    return loop


def no_checksums(what):
    torch.serialization.set_crc32_options(False)
    try:
        return saved(what)
    finally:
        torch.serialization.set_crc32_options(True)


ST = safetensors_bytes(state())
HUGE = {"a": torch.ones(1).expand(10**9, 10**3)}

BAD = {
    # name: (bytes, fragment of the message)
    "empty": (lambda: b"", "is empty (0 bytes)"),
    "text": (lambda: b"epoch 3, loss 0.4\n", "is text"),
    "script": (lambda: b"import os\nprint(1)\n", "is text"),
    "text like zip": (lambda: b"PKs are keys\n", "is text"),
    "latin text": (lambda: "Gewichte für später".encode("latin-1"), "is text"),
    "html": (lambda: b"\n<!DOCTYPE html><html><body>404", "looks like HTML"),
    "html with mark": (lambda: b"\xef\xbb\xbf<html>", "looks like HTML"),
    "json": (lambda: json.dumps({"weight_map": {}}).encode(), "is JSON"),
    "lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "git lfs pull"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
    "npy": (npy, "numpy array (.npy)"),
    "npz": (npz, "numpy arrays (.npz)"),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(30), "gzip"),
    "png": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(30), "PNG picture"),
    "pdf": (lambda: b"%PDF-1.4", "PDF"),
    "gguf": (lambda: b"GGUF\3\0\0\0", "GGUF"),
    "tflite": (lambda: b"\x1c\0\0\0TFL3" + bytes(9), "TensorFlow Lite"),
    "onnx": (lambda: b"\x08\x07\x12\x07pytorch\x1a\x052.1.0", "ONNX"),
    "binary": (lambda: bytes(range(1, 200)), "starts with the bytes 01 02 03"),
    "zeros": (lambda: bytes(2000), "no known kind"),
    "ancient tar": (lambda: tarred("storages", "tensors", "pickle"), "ancient torch"),
    "tar": (lambda: tarred("model.pt"), "is a tar archive: unpack"),
    "broken tar": (lambda: tarred("model.pt")[:300] + b"\xff" * 90, "is a tar archive: unpack"),
    "torchscript": (scripted, "TorchScript"),
    "export": (exported, "torch.export"),
    "keras": (lambda: zipped({"config.json": b"{}", "model.weights.h5": b"x"}), "Keras"),
    "zip of a file": (
        lambda: zipped({"a/model.pt": b"x"}),
        "name the weights file in it, such as 'a/model.pt'",
    ),
    "zip of texts": (lambda: zipped({"a.txt": b"x"}), "zip archive without weights"),
    "empty zip": (lambda: zipped({}), "zip archive without weights"),
    "compressed": (lambda: rezipped(saved(state()), zipfile.ZIP_DEFLATED), "compressed zip"),
    "half a zip": (lambda: saved(state())[:1500], "damaged or cut-off zip"),
    "zip without a storage": (
        lambda: zipped({"a/data.pkl": zipfile.ZipFile(io.BytesIO(saved(state()))).read("archive/data.pkl")}),
        "is damaged or cut off",
    ),
    "half an old file": (lambda: saved(state(), old=True)[:-9], "damaged or cut off"),
    "old file cut early": (lambda: saved(state(), old=True)[:60], "damaged or cut off"),
    "code": (lambda: saved({"a": Runs(os.system, "true")}), "contains code (os.system), refused"),
    "code, old": (
        lambda: saved({"a": Runs(os.system, "true")}, old=True),
        "contains code (os.system), refused",
    ),
    "code, no checksum": (lambda: no_checksums({"a": Runs(os.system, "true")}), "contains code (os.system)"),
    "code, builtin": (lambda: saved({"a": Runs(exec, "1")}), "contains code (builtins.exec)"),
    "code, eval": (lambda: saved(Runs(eval, "1"), old=True), "contains code (builtins.eval)"),
    "code, subprocess": (lambda: saved(Runs(subprocess.call, "true")), "contains code (subprocess.call)"),
    **{
        f"code, raw {p}": (lambda p=p: pickle.dumps(Runs(os.system, "true"), p), "contains code (os.system)")
        for p in range(6)
    },
    "model": (
        lambda: saved(nn.Sequential(nn.Linear(2, 2))),
        "whole pickled model (torch.nn.modules.container.",
    ),
    "model, old": (lambda: saved(made(), old=True), "save model.state_dict() instead"),
    "model in a dict": (lambda: saved({"model": made()}), "Net), which cannot be read without running code"),
    "namespace": (
        lambda: saved({"state_dict": state(), "args": argparse.Namespace(a=1)}),
        "argparse.Namespace",
    ),
    "numpy array": (lambda: saved({"state_dict": state(), "a": np.ones(3)}), "holds a numpy.ndarray"),
    "protocol 4": (lambda: saved(state(), pickle_protocol=4), "has pickle protocol 4"),
    "plain pickle": (lambda: pickle.dumps({"a": 1}, 2), "no pickle written by torch.save"),
    "tensor": (lambda: saved(torch.ones(3)), "holds a Tensor, not a state dict"),
    "list": (lambda: saved([torch.ones(3)]), "holds a list"),
    "empty dict": (lambda: saved({}), "holds an empty dict"),
    "no tensors": (lambda: saved({"epoch": 3, "loss": 0.1}), "holds no state dict, but 'epoch', 'loss'"),
    "two nets": (lambda: saved({"g": state(), "d": state()}), "holds no state dict, but 'g', 'd'"),
    "loop": (lambda: saved(looped()), "holds no state dict, but 'state_dict'"),
    "long names": (lambda: saved({"x" * 10**6: 1}), "xxx...xxx"),
    "claims 4 TB": (lambda: saved(HUGE), "claims tensors of 4000000000000 bytes"),
    "claims 4 TB, old": (lambda: saved(HUGE, old=True), "claims tensors of 4000000000000 bytes"),
    "storage too short": (
        lambda: rezipped(
            saved({"a": torch.ones(4)}), data_pkl=lambda b: b.replace(b"K\x04tq", b"M\x00\x40tq")
        ),
        "is damaged or cut off",
    ),
    "nan": (lambda: saved(with_value(float("nan"))), "NaN or infinity in 'conv.weight' (2 of 108 values)"),
    "inf": (
        lambda: saved(with_value(float("inf"), "fc.bias")),
        "NaN or infinity in 'fc.bias' (2 of 5 values)",
    ),
    "-inf": (lambda: safetensors_bytes(with_value(-float("inf"))), "NaN or infinity in 'conv.weight'"),
    "inf - inf": (
        lambda: saved(with_value(torch.tensor([float("inf"), -float("inf")]))),
        "(2 of 108 values)",
    ),
    "half nan": (
        lambda: saved(
            {k: v.half() if v.is_floating_point() else v for k, v in with_value(float("nan")).items()}
        ),
        "NaN or infinity in 'conv.weight'",
    ),
    "quantized": (lambda: saved(changed(conv__weight=quantized())), "'conv.weight', a quantized tensor"),
    "float8": (lambda: saved(changed(fc__bias=torch.ones(5).to(torch.float8_e4m3fn))), "a quantized tensor"),
    "sparse": (lambda: saved(changed(conv__weight=torch.eye(3).to_sparse())), "a sparse tensor"),
    "csr": (lambda: saved(changed(conv__weight=csr())), "a sparse tensor"),
    "nested": (lambda: saved(changed(conv__weight=nested())), "a nested tensor"),
    "complex": (lambda: saved(changed(fc__bias=torch.ones(5, dtype=torch.complex64))), "a complex tensor"),
    "meta": (lambda: saved(changed(fc__bias=torch.ones(5, device="meta"))), "a meta (empty) tensor"),
    "safetensors cut": (lambda: ST[:-5], "cut-off safetensors"),
    "safetensors cut in the header": (lambda: ST[:50], "cut-off safetensors"),
    "safetensors, 8 bytes": (lambda: ST[:8], "cut-off safetensors"),
    "safetensors, bad header": (lambda: ST.replace(b'"dtype"', b'"dtipe"', 1), "cut-off safetensors"),
    "safetensors, nothing": (lambda: safetensors_bytes({}), "holds an empty dict"),
    "classes": (lambda: saved(state(classes=7)), "has 7 classes, the model 5: pass --classes 7"),
    "classes, safetensors": (lambda: safetensors_bytes(state(classes=2)), "has 2 classes, the model 5"),
    "shapes": (
        lambda: saved(state(width=6)),
        "7 of 9 shapes differ ('conv.weight' is (6, 3, 3, 3), not (4, 3, 3, 3); 'conv.bias' is (6,)",
    ),
    "one dimension more": (
        lambda: saved(changed(bn__bias=torch.ones(4, 1))),
        "1 of 9 shapes differ ('bn.bias'",
    ),
    "missing": (
        lambda: saved(without("fc.bias", "bn.weight")),
        "2 of its 9 tensors are missing ('bn.weight', 'fc.b",
    ),
    "unexpected": (lambda: saved(changed(extra=torch.ones(1))), "1 unexpected ('extra')"),
    "all else": (
        lambda: saved({f"l{i}": torch.ones(1) for i in range(7)}),
        "7 unexpected ('l0', 'l1', 'l2', ...)",
    ),
    "twice": (
        lambda: saved({**prefixed("module."), "fc.bias": torch.ones(5)}),
        "'fc.bias' both with and without",
    ),
    "integers": (
        lambda: saved(changed(fc__bias=torch.ones(5, dtype=torch.int64))),
        "has torch.int64 in 'fc.bias'",
    ),
    "floats": (lambda: saved(changed(bn__num_batches_tracked=torch.ones(2))), "shapes differ"),
}


def refused(module, path, fragment, kind=WeightsError, **options):
    before = image(module)
    with pytest.raises(kind) as caught:
        load_weights(module, path, **options)
    message = str(caught.value)
    assert fragment in message
    assert "vizkit.zoo" not in message
    assert "weights_only=True" not in message
    assert "\n" not in message
    assert len(message) < 700
    assert image(module) == before
    assert caught.value.exit_code == (2 if kind is UsageError else 4)
    return message


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("extension", [".pt", ".safetensors"])
def test_every_bad_file_is_refused_in_one_line(tmp_path, kind, extension):
    make, fragment = BAD[kind]
    path = tmp_path / f"weights{extension}"
    path.write_bytes(make())
    assert str(path) in refused(made(), path, fragment)


@pytest.mark.parametrize("kind", ["empty", "code", "nan", "shapes", "missing", "safetensors cut"])
def test_a_meta_module_is_untouched_as_well(tmp_path, kind):
    (tmp_path / "weights.pt").write_bytes(BAD[kind][0]())
    with torch.device("meta"):
        module = Net()
    refused(module, tmp_path / "weights.pt", BAD[kind][1])
    assert all(t.is_meta for t in module.state_dict().values())


RUNNERS = {
    "os.system": lambda canary: Runs(os.system, f"touch {canary}"),
    "exec": lambda canary: Runs(exec, f"open({str(canary)!r}, 'w').close()"),
    "eval": lambda canary: Runs(eval, f"__import__('os').mkdir({str(canary)!r})"),
    "os.mkdir": lambda canary: Runs(os.mkdir, str(canary)),
    "subprocess": lambda canary: Runs(subprocess.check_call, ["touch", str(canary)]),
}
WRITERS = {
    "zip": saved,
    "old": lambda what: saved(what, old=True),
    "zip in a state dict": lambda what: saved({"state_dict": state(), "hook": what}),
    "raw 2": lambda what: pickle.dumps(what, 2),
    "raw 0": lambda what: pickle.dumps(what, 0),
    "no checksums": no_checksums,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("runner", RUNNERS)
def test_no_code_runs(tmp_path, writer, runner):
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    path.write_bytes(WRITERS[writer](RUNNERS[runner](canary)))
    refused(made(), path, "contains code (")
    assert not canary.exists()
    # The canary is alive: without the refusal it would have been there.
    if writer.startswith("raw"):
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"epoch": 3, "model": model}])
def test_the_advice_for_a_whole_model_works(tmp_path, monkeypatch, wrap):
    monkeypatch.chdir(tmp_path)
    torch.save(wrap(made(1)), "whole.pt")
    message = refused(made(), "whole.pt", "whole pickled model")
    exec(message[message.index("import torch") :])
    load_weights(module := made(), "whole.weights.pt")
    assert same(module, made(1))


def test_the_advice_for_a_namespace_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": state(), "args": argparse.Namespace(a=1)}, "last.ckpt")
    message = refused(made(), "last.ckpt", "argparse.Namespace")
    exec(message[message.index("import torch") :])
    load_weights(module := made(), "last.weights.pt")
    assert same(module, made(1))


def same(a, b):
    one, two = a.state_dict(), b.state_dict()
    return list(one) == list(two) and all(
        one[k].dtype == two[k].dtype and one[k].device == two[k].device and torch.equal(one[k], two[k])
        for k in one
    )


def loads(tmp_path, data, module=None, **options):
    """The notes of loading the bytes, checked to have put the weights of `made(1)` in place."""
    path = tmp_path / "good.bin"
    path.write_bytes(data)
    module = module or made()
    assert not same(module, made(1))
    notes = load_weights(module, path, **options)
    assert same(module, made(1))
    return notes


PLAIN = {
    "zip": lambda: saved(state()),
    "old": lambda: saved(state(), old=True),
    "safetensors": lambda: ST,
    "parameters": lambda: saved(dict(made(1).state_dict(keep_vars=True))),
    "no checksums": lambda: no_checksums(state()),
    "plain dict": lambda: saved(dict(state())),
    "other order": lambda: saved(dict(reversed(state().items()))),
    "shared storage": lambda: saved(flat()),
    "not contiguous": lambda: saved({k: turned(v) for k, v in state().items()}),
    "big endian mark absent": lambda: rezipped(saved(state())),
}


def flat():
    """A state dict whose floats are views of one storage."""
    floats = {k: v for k, v in state().items() if v.is_floating_point()}
    whole = torch.cat([v.reshape(-1) for v in floats.values()])
    parts = whole.split([v.numel() for v in floats.values()])
    return {**state(), **{k: p.view(v.shape) for (k, v), p in zip(floats.items(), parts, strict=True)}}


def turned(tensor):
    return tensor.movedim(0, -1).contiguous().movedim(-1, 0) if tensor.ndim else tensor


@pytest.mark.parametrize("kind", PLAIN)
def test_round_trip(tmp_path, kind):
    assert loads(tmp_path, PLAIN[kind]()) == ("9 of 9 tensors read",)
    loaded = read_weights(tmp_path / "good.bin")
    assert loaded.notes == ()
    for name, tensor in loaded.tensors.items():
        assert torch.equal(tensor, state()[name])
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert type(tensor) is torch.Tensor
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


@pytest.mark.parametrize("kind", PLAIN)
def test_a_meta_module_is_loaded_alike(tmp_path, kind):
    with torch.device("meta"):
        module = Net()
    module.conv.requires_grad_(False)
    assert loads_meta(tmp_path, PLAIN[kind](), module) == ("9 of 9 tensors read",)
    assert not module.conv.weight.requires_grad
    assert module.fc.weight.requires_grad
    assert all(type(p) is nn.Parameter for p in module.parameters())
    with torch.no_grad():
        module.fc.weight.zero_()
    assert torch.equal(read_weights(tmp_path / "meta.bin").tensors["fc.weight"], state()["fc.weight"])


def loads_meta(tmp_path, data, module):
    (tmp_path / "meta.bin").write_bytes(data)
    notes = load_weights(module, tmp_path / "meta.bin")
    assert same(module, made(1))
    return notes


def test_a_meta_module_casts_and_creates_counters(tmp_path):
    with torch.device("meta"):
        module = Net()
    tensors = {k: v.double() for k, v in without("bn.num_batches_tracked").items()}
    notes = loads_meta(tmp_path, saved(tensors), module)
    assert notes[:2] == ("created 1 missing num_batches_tracked", "cast 8 tensors from float64 to float32")
    assert module.bn.num_batches_tracked.dtype == torch.int64


def test_tied_parameters_of_a_meta_module_stay_tied(tmp_path):
    def tied():
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        net[1].weight = net[0].weight
        return net

    torch.save(tied().state_dict(), tmp_path / "tied.pt")
    with torch.device("meta"):
        module = tied()
    load_weights(module, tmp_path / "tied.pt")
    assert module[0].weight is module[1].weight
    assert not module[0].weight.is_meta


def test_a_meta_buffer_that_no_file_holds_is_an_error(tmp_path):
    torch.save(state(), tmp_path / "a.pt")
    with torch.device("meta"):
        module = Net()
        module.register_buffer("grid", torch.ones(3), persistent=False)
    refused(module, tmp_path / "a.pt", "do not carry the meta buffers 'grid'")


def test_loading_works_where_the_default_device_is_meta(tmp_path):
    (tmp_path / "a.pt").write_bytes(saved(without("bn.num_batches_tracked")))
    for data in (PLAIN["zip"](), PLAIN["old"](), ST, saved(without("bn.num_batches_tracked"))):
        (tmp_path / "a.pt").write_bytes(data)
        module = made()
        with torch.device("meta"):
            load_weights(module, tmp_path / "a.pt")
        assert same(module, made(1))


def test_weights_read_in_inference_mode_can_be_trained(tmp_path):
    torch.save(state(), tmp_path / "a.pt")
    with torch.device("meta"):
        empty = Net()
    for module in (made(), empty):
        with torch.inference_mode():
            load_weights(module, tmp_path / "a.pt")
        module.fc(torch.ones(1, 4)).sum().backward()
        assert module.fc.weight.grad is not None


@pytest.mark.parametrize("wrapper", weightfiles.WRAPPERS)
def test_wrappers_are_taken_off(tmp_path, wrapper):
    data = saved({"epoch": 3, wrapper: state(), "optimizer": {"state": {}}, "loss": torch.ones(1)})
    assert loads(tmp_path, data) == (f"took the entry {wrapper!r}", "9 of 9 tensors read")


def test_of_several_wrappers_the_first_is_taken_and_the_others_are_named(tmp_path):
    data = saved({"ema": state(width=9), "net": state(width=9), "model": state()})
    assert loads(tmp_path, data)[0] == "took the entry 'model' (also there: 'ema', 'net')"


def test_nested_wrappers_and_empty_ones(tmp_path):
    data = saved({"state_dict": {}, "model": {"net": {"params": state()}}, "ema": None})
    notes = loads(tmp_path, data)
    assert notes[:3] == ("took the entry 'model'", "took the entry 'net'", "took the entry 'params'")


def test_a_layer_named_like_a_wrapper_is_no_wrapper(tmp_path):
    module = nn.Module()
    module.model, module.weights = nn.Linear(2, 2), nn.Parameter(torch.zeros(3))
    want = {"weights": torch.ones(3), "model.weight": torch.ones(2, 2), "model.bias": torch.ones(2)}
    torch.save(want, tmp_path / "a.pt")
    assert load_weights(module, tmp_path / "a.pt") == ("3 of 3 tensors read",)
    assert all(torch.equal(module.state_dict()[k], v) for k, v in want.items())


@pytest.mark.parametrize(
    "prefix", [*checkpoints.PREFIXES, "module._orig_mod.", "_orig_mod.module.model.", "model." * 3]
)
@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_prefixes_are_stripped(tmp_path, prefix, wrapper):
    data = prefixed(prefix)
    notes = loads(tmp_path, saved({wrapper: data} if wrapper else data))
    assert notes[-2:] == (f"stripped the prefix {prefix!r} from 9 names", "9 of 9 tensors read")


def test_a_prefix_that_the_module_has_stays(tmp_path):
    torch.save(prefixed("model."), tmp_path / "a.pt")
    module = nn.ModuleDict({"model": made()})
    assert load_weights(module, tmp_path / "a.pt") == ("9 of 9 tensors read",)
    torch.save(prefixed("module.model."), tmp_path / "b.pt")
    assert load_weights(module, tmp_path / "b.pt")[0] == "stripped the prefix 'module.' from 9 names"


def test_names_without_the_prefix_of_most_are_kept(tmp_path):
    data = {(k if k.startswith("fc") else "backbone." + k): v for k, v in state().items()}
    assert "from 7 names" in loads(tmp_path, saved(data))[0]


def test_averaged_weights_of_torch(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(made(1))
    notes = loads(tmp_path, saved(averaged.state_dict()))
    assert notes[1] == "ignored the counter 'n_averaged' of averaged weights"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("write", [saved, safetensors_bytes])
def test_other_floats_are_cast(tmp_path, dtype, write):
    data = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state().items()}
    (tmp_path / "a.pt").write_bytes(write(data))
    module = made()
    notes = load_weights(module, tmp_path / "a.pt")
    assert notes[0] == f"cast 8 tensors from {dtype} to float32".replace("torch.", "")
    assert torch.equal(module.fc.weight, state()["fc.weight"].to(dtype).float())
    assert read_weights(tmp_path / "a.pt").tensors["fc.weight"].dtype == dtype


def test_a_large_half_tensor_is_no_infinity(tmp_path):
    torch.save(
        {"weight": torch.full((50, 50), 60000.0).half(), "bias": torch.full((50,), 3e38)}, tmp_path / "a.pt"
    )
    load_weights(module := nn.Linear(50, 50), tmp_path / "a.pt")
    assert module.weight[0, 0] == 60000
    assert module.bias[0] > 2e38


def test_values_too_large_for_the_module_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict() | {"bias": torch.tensor([1e6, 1.0])}, tmp_path / "a.pt")
    refused(
        nn.Linear(2, 2).half(), tmp_path / "a.pt", "values in 'bias' that are too large for torch.float16"
    )


def test_other_entries_of_a_flat_state_dict_are_ignored(tmp_path):
    notes = loads(tmp_path, saved({**state(), "epoch": 3, "optimizer": {"lr": 1}, 7: None}))
    assert notes[0] == "ignored 3 entries that are no tensors: 'epoch', 'optimizer', 7"


@pytest.mark.parametrize(
    "value", [np.float64(0.5), np.float32(0.5), np.int64(3), np.bool_(True), np.str_("a")]
)
@pytest.mark.parametrize("old", [False, True])
def test_numpy_numbers_are_read(tmp_path, value, old):
    before = set(torch.serialization.get_safe_globals())
    loads(tmp_path, saved({"state_dict": state(), "best": value}, old=old))
    assert set(torch.serialization.get_safe_globals()) == before


def test_numbers_of_numpy_1_are_read(tmp_path):
    def older(data):
        assert b"numpy._core.multiarray" in data
        return data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")

    loads(tmp_path, rezipped(saved({"state_dict": state(), "best": np.float64(0.5)}), data_pkl=older))


def test_what_the_user_allows_stays_allowed(tmp_path):
    data = saved({"state_dict": state(), "args": argparse.Namespace(a=np.float64(1))})
    with torch.serialization.safe_globals([argparse.Namespace, np.dtype]):
        loads(tmp_path, data)
        assert {argparse.Namespace, np.dtype} <= set(torch.serialization.get_safe_globals())


def test_missing_counters_are_created(tmp_path):
    module = made()
    module.bn.num_batches_tracked.fill_(5)
    notes = loads(tmp_path, saved(without("bn.num_batches_tracked")), module)
    assert notes == ("created 1 missing num_batches_tracked", "9 of 9 tensors read")


def test_metadata_of_safetensors(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(state(), {"arch": "tiny", "classes": "5"}))
    assert read_weights(tmp_path / "a.safetensors").metadata == {"arch": "tiny", "classes": "5"}
    torch.save(state(), tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt").metadata == {}


def test_a_stored_digest_is_verified(tmp_path):
    data = safetensors_bytes(state(), {weightfiles.DIGEST_KEY: digest(state())})
    assert loads(tmp_path, data)[0] == "verified the SHA-256 of the tensors"
    for place in (-1, -100, -300):
        damaged = bytearray(data)
        damaged[place] ^= 1
        (tmp_path / "b.pt").write_bytes(damaged)
        refused(made(), tmp_path / "b.pt", "do not match the SHA-256 stored with them")


def test_the_digest_depends_on_names_types_shapes_and_values():
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)}
    assert digest(one) == digest(dict(reversed(one.items())))
    others = [{"a": one["a"]}, {**one, "a": one["a"].view(2, 1)}, {**one, "a": one["a"].view(torch.int32)}]
    others += [{**one, "b": torch.tensor(4)}, {"c": one["a"], "b": one["b"]}]
    assert len({digest(t) for t in [one, *others]}) == 6


def test_the_digest_does_not_depend_on_the_layout_in_memory():
    turns = {k: turned(v) for k, v in state().items()}
    assert not turns["conv.weight"].is_contiguous()
    assert digest(turns) == digest(flat()) == digest(state())
    assert digest(made(1).state_dict(keep_vars=True)) == digest(state())


@pytest.mark.parametrize(
    "text",
    [
        "{h}",
        "{h}\n",
        "{H}  good.bin\n",
        "{h} *good.bin\n",
        "SHA256 (good.bin) = {h}\n",
        "{o}  other\n{h}  good.bin",
    ],
)
def test_a_sha256_file_is_verified(tmp_path, text):
    data = saved(state())
    right, other = hashlib.sha256(data).hexdigest(), hashlib.sha256(b"").hexdigest()
    side = tmp_path / "good.bin.sha256"
    side.write_text(text.format(h=right, H=right.upper(), o=other))
    assert loads(tmp_path, data)[0] == "verified the SHA-256 of the file"
    side.write_text(text.format(h=other, H=other.upper(), o=right))
    refused(made(), tmp_path / "good.bin", "does not match its .sha256 file")


def test_a_sha256_file_without_a_digest_is_an_error(tmp_path):
    torch.save(state(), tmp_path / "a.pt")
    (tmp_path / "a.pt.sha256").write_text("none")
    refused(made(), tmp_path / "a.pt", "holds no SHA-256")


def test_a_missing_file_is_a_usage_error_with_the_nearest_name(tmp_path):
    torch.save(state(), tmp_path / "resnet.pt")
    refused(made(), tmp_path / "resnt.pt", "no such file; did you mean 'resnet.pt'?", UsageError)
    refused(made(), tmp_path / "none" / "a.pt", "no such file", UsageError)
    refused(made(), tmp_path / "resnet.pt" / "a.pt", "no such file", UsageError)
    refused(made(), "a\0b", "a\\x00b: no such file", UsageError)
    refused(made(), tmp_path / ("a" * 300), "no such file", UsageError)
    (tmp_path / "dangling").symlink_to("nowhere")
    refused(made(), tmp_path / "dangling", "no such file", UsageError)


def test_a_folder_is_a_usage_error(tmp_path):
    refused(made(), tmp_path, "is a folder; name a weights file", UsageError)
    torch.save(state(), tmp_path / "resnet.pt")
    refused(made(), tmp_path, "such as 'resnet.pt' in it", UsageError)


def test_pipes_devices_and_link_loops_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    start = time.monotonic()
    refused(made(), tmp_path / "pipe", "no regular file")
    refused(made(), "/dev/zero", "no regular file")
    refused(made(), tmp_path / "loop", "cannot be read (Too many levels of symbolic links)")
    assert time.monotonic() - start < 5


def test_an_error_of_the_disk_names_the_file(tmp_path, monkeypatch):
    torch.save(state(), tmp_path / "a.pt")

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(weightfiles, "open", denied, raising=False)
    refused(made(), tmp_path / "a.pt", "a.pt: cannot be read (Permission denied)")


@pytest.mark.parametrize(
    "name", ["a b.pt", "-a.pt", "ü.pt", "a\nb.pt", "x.safetensors", "x.onnx", "none", os.fsdecode(b"\xff.pt")]
)
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_the_name_does_not_matter(tmp_path, name, kind):
    with open(tmp_path / name, "wb") as stream:
        stream.write(PLAIN[kind]())
    load_weights(module := made(), tmp_path / name)
    assert same(module, made(1))
    with open(tmp_path / name, "wb") as stream:
        stream.write(PLAIN[kind]()[:-20])
    refused(module, tmp_path / name, "cut")


def test_the_closest_architecture_is_named(tmp_path):
    torch.save(prefixed("_orig_mod.module.", without("fc.bias")), tmp_path / "a.pt")
    module = nn.Sequential(nn.Linear(2, 2))
    known = {"linear": module.state_dict(), "tiny": state(), "tiny2": {**state(), "x": 1}, "other": ["a"]}
    message = refused(
        module, tmp_path / "a.pt", "closest architecture: tiny (89%", name="resnet18", known=lambda: known
    )
    assert "does not fit resnet18: 2 of its 2 tensors are missing ('0.weight', '0.bias')" in message
    refused(module, tmp_path / "a.pt", "tiny or twin (", known=lambda: {"twin": state(), "tiny": state()})


def test_no_architecture_is_named_where_the_model_itself_is_closest(tmp_path):
    torch.save(without("fc.bias"), tmp_path / "a.pt")
    assert "closest" not in refused(
        made(), tmp_path / "a.pt", "1 of its 9", known=lambda: {"tiny": state(), "b": ["c"]}
    )


def test_known_architectures_are_asked_only_when_names_do_not_fit(tmp_path):
    def known():
        raise AssertionError("asked")

    loads(tmp_path, saved(state()), known=known)
    (tmp_path / "b.pt").write_bytes(saved(state(classes=7)))
    refused(made(), tmp_path / "b.pt", "has 7 classes, tiny 5", name="tiny", known=known)


def test_lazy_modules_and_extra_state_are_refused(tmp_path):
    class Extra(Net):
        def get_extra_state(self):
            return {"a": 1}

    torch.save(state(), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"keeps more than tensors in its state \('_extra_state'\)"):
        load_weights(Extra(), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="has lazy layers"):
        load_weights(nn.LazyLinear(3), tmp_path / "a.pt")


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_module_whose_own_code_fails_is_put_back(tmp_path, device, error):
    class Fails(Net):
        def _load_from_state_dict(self, *args, **kwargs):
            super()._load_from_state_dict(*args, **kwargs)

    class Late(nn.Linear):
        def _load_from_state_dict(self, *args, **kwargs):
            raise error("late")

    torch.save(state(), tmp_path / "a.pt")
    with torch.device(device):
        module = Fails()
        module.fc = Late(4, 5)
    before = image(module)
    with pytest.raises(WeightsError if error is RuntimeError else error, match="late"):
        load_weights(module, tmp_path / "a.pt")
    assert image(module) == before
    assert all(t.device.type == device for t in module.state_dict().values())


def test_modules_that_ask_for_their_version_load(tmp_path):
    class Versioned(Net):
        _version = 2

        def _load_from_state_dict(self, tensors, prefix, metadata, *args):
            assert metadata.get("version") == 2
            super()._load_from_state_dict(tensors, prefix, metadata, *args)

    (tmp_path / "a.safetensors").write_bytes(ST)
    load_weights(module := Versioned(), tmp_path / "a.safetensors")
    assert same(module, made(1))


def test_loading_keeps_parameters_hooks_modes_and_random_state(tmp_path):
    torch.save(state(), tmp_path / "a.pt")
    module = made().train()
    module.bn.eval()
    parameters, before = [id(p) for p in module.parameters()], torch.get_rng_state()
    load_weights(module, tmp_path / "a.pt")
    assert [id(p) for p in module.parameters()] == parameters
    assert (module.training, module.bn.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None and p.requires_grad for p in module.parameters())


def test_the_file_may_be_written_over_afterwards(tmp_path):
    for data in (PLAIN["zip"](), PLAIN["old"](), ST):
        (tmp_path / "a").write_bytes(data)
        loaded = read_weights(tmp_path / "a")
        (tmp_path / "a").write_bytes(b"")
        assert all(torch.equal(t, state()[k]) for k, t in loaded.tensors.items())


FORMATS = {"pt": PLAIN["zip"], "pth": PLAIN["old"], "safetensors": lambda: ST, "bare": PLAIN["no checksums"]}


def outcome(path, data):
    """The tensors, or None where the file was refused; any other exception fails the test."""
    path.write_bytes(data)
    try:
        return read_weights(path).tensors
    except WeightsError:
        return None


def unchanged(tensors):
    return list(tensors) == list(state()) and all(torch.equal(tensors[k], v) for k, v in state().items())


@pytest.mark.parametrize("extension", FORMATS)
def test_a_cut_file_is_never_read(tmp_path, extension):
    data, chance = FORMATS[extension](), random.Random(7)
    for _ in range(40):
        assert outcome(tmp_path / f"cut.{extension}", data[: chance.randrange(len(data))]) is None


@pytest.mark.parametrize("extension", FORMATS)
def test_a_mutated_file_is_read_or_refused(tmp_path, extension):
    data, chance = FORMATS[extension](), random.Random(11)
    refusals = 0
    for _ in range(300):
        mutant = bytearray(data)
        mutant[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        tensors = outcome(tmp_path / f"mutant.{extension}", bytes(mutant))
        refusals += tensors is None
        # Archives carry checksums: what is read is what was written.
        assert extension != "pt" or tensors is None or unchanged(tensors)
    assert 0 < refusals < 300


def test_nothing_is_printed_or_warned_under_w_error(tmp_path):
    paths = []
    for name in ("quantized", "protocol 4", "torchscript", "code", "raw"):
        data = pickle.dumps({}, 4) if name == "raw" else BAD[name][0]()
        paths.append(tmp_path / name.replace(" ", "_"))
        paths[-1].write_bytes(data)
    for kind in ("zip", "old", "safetensors"):
        paths.append(tmp_path / kind)
        paths[-1].write_bytes(PLAIN[kind]())
    program = (
        "import sys\nfrom vizkit.errors import WeightsError\n"
        "from vizkit.zoo.weightfiles import read_weights\n"
        "count = 0\nfor path in sys.argv[1:]:\n    try:\n        count += len(read_weights(path).tensors)\n"
        "    except WeightsError:\n        count += 100\nprint(count)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *paths], capture_output=True, text=True
    )
    assert (run.stdout, run.stderr) == ("527\n", "")
