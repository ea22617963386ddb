"""Optimized models on every engine: the numbers of the models that they were made of."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import re
import subprocess
import sys
import threading
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, UnknownNameError
from classy_vision.engines import engine as engines
from classy_vision.engines import load_optimized, openvino, optimize, search
from classy_vision.engines.inductor import choose_options
from classy_vision.heads import FullyConnectedHead
from classy_vision.models import ClassyModel, build_model
from tests.models import small
from tests.models.small import FAMILIES, batch, build

needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="OpenVINO is not installed")
ENGINES = [pytest.param("openvino", marks=needs_openvino), "onnxruntime", "plain"]
FASTEST = "openvino" if find_spec("openvino") else "onnxruntime"


def worn(model: ClassyModel) -> ClassyModel:
    """Norms, biases and scales as training leaves them, some of them negative or zero."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            module.weight.data.normal_(0.5, 1.0)
            module.weight.data[:1] = 0
            module.bias.data.normal_()
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def example(family: str, size: int = 2, seed: int = 0) -> Tensor:
    x = batch(size, seed)
    # One frame alone makes oneDNN read beyond it on AMX, in bfloat16 and in plain torch 2.13 too.
    return x[:, :, None].repeat(1, 1, 4, 1, 1) if family in small.CLIPS else x


def agree(given: Any, wanted: Any, bound: float = 1e-5) -> None:
    assert list(given) == list(wanted)
    for name, output in given.items():
        assert output.dtype == wanted[name].dtype
        scale = wanted[name].abs().max()
        assert (output - wanted[name]).abs().max() <= bound * scale, name


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_same_numbers_for_any_batch(family: str, engine: str) -> None:
    model = worn(build(family))
    fast = optimize(model, example(family), engine=engine)
    assert fast.engine == engine
    with torch.no_grad():
        for x in (example(family, 5, seed=3), example(family, 1, seed=4)):
            agree(fast(x), model(x))


@pytest.mark.parametrize("engine", ENGINES)
def test_features_run_no_further_than_they_need(engine: str) -> None:
    model = worn(build("regnet"))
    late = next(head for heads in model.get_heads().values() for head in heads if head.unique_id == "late")
    late.fc.register_forward_hook(lambda *_: (_ for _ in ()).throw(AssertionError("a head ran")))
    model.set_heads({})
    fast = optimize(model, batch(), engine=engine)
    x = batch(3, seed=5)
    asked = ["block2", "stem", "block1-0", "block1"]
    last = [name for name in model.block_names if name.startswith("block1-")][-1]
    with torch.no_grad():
        agree(fast.features(x, asked), model.features(x, asked))
        # Two names of one step: engines do not write one value to two places.
        agree(fast.features(x, [last, "block1"]), model.features(x, [last, "block1"]))
    with pytest.raises(UnknownNameError, match="block9"):
        fast.features(x, ["block9"])
    with pytest.raises(ConfigError, match=r"a list of blocks: \['stem'\]"):
        fast.features(x, "stem")


@pytest.mark.parametrize("engine", ENGINES)
def test_arrays_other_sizes_and_streams(engine: str) -> None:
    model = worn(build("resnet"))
    fast = optimize(model, batch(1), engine=engine)
    with torch.no_grad():
        array = fast(batch(2).numpy())
        assert all(isinstance(output, np.ndarray) for output in array.values())
        agree({name: torch.from_numpy(output) for name, output in array.items()}, model(batch(2)))
        wide = torch.randn(2, 3, 40, 48)
        agree(fast(wide), model(wide))
        batches = [batch(size, seed) for seed, size in enumerate((4, 4, 4, 4, 1))]
        for x, given in zip(batches, fast.stream(iter(batches)), strict=True):
            agree(given, model(x))
        agree(fast(batch(2).double().requires_grad_()), model(batch(2)))
    assert list(fast.stream([])) == []
    with pytest.raises(ConfigError, match="images of one size"):
        list(fast.stream([batch(2), wide]))


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_several_streams_of_one_model(engine: str) -> None:
    """Each keeps its order, and one that is abandoned does not harm the others."""
    model = worn(build("regnet"))
    fast = optimize(model, batch(1), engine=engine)
    batches = [batch(1, seed) for seed in range(12)]
    abandoned, first, second = (fast.stream(iter(batches)) for _ in range(3))
    next(abandoned)
    abandoned.close()
    with torch.no_grad():
        for x, given, other in zip(batches, first, second, strict=True):
            agree(given, model(x))
            agree(other, model(x))


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_share_a_model(engine: str) -> None:
    fast = optimize(worn(build("densenet")), batch(), engine=engine)
    assert small.wrong_answers(fast, calls=20) == []


@needs_openvino
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_rewritten_for_openvino(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them takes the route by which torch traces the program again."""
    from classy_vision.engines import openvino_graph

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", None)
    assert openvino_graph.RULES
    optimize(worn(build(family)), example(family), engine="openvino")


@needs_openvino
def test_signals_are_handled_after_a_model_went_in_another_thread(tmp_path: Path) -> None:
    optimize(build("mlp"), batch(), engine="openvino").save(tmp_path / "fast")
    code = (
        "import os, signal, threading\n"
        "import numpy as np\n"
        "from classy_vision.engines import load_optimized\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled', flush=True))\n"
        f"held = [load_optimized({str(tmp_path / 'fast')!r})]\n"
        "held[0](np.ones((1, 3, 32, 32), np.float32))\n"
        "thread = threading.Thread(target=held.clear)\n"
        "thread.start()\n"
        "thread.join()\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@needs_openvino
def test_no_usage_data_is_sent(tmp_path: Path) -> None:
    """Where OpenVINO finds this package, it starts processes that send what is imported and converted."""
    (tmp_path / "openvino_telemetry.py").write_text("raise SystemExit('would send')")
    code = (
        "import sys\n"
        "from classy_vision.engines.openvino_package import load_openvino, no_telemetry\n"
        "print(callable(load_openvino().convert_model))\n"
        "with no_telemetry(): import nncf\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
    )
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.stdout == "True\n", done.stderr


@needs_openvino
def test_openvino_pads_as_it_is_told() -> None:
    """Blur pools reflect the border."""
    config = {"name": "resnext", "num_blocks": [1, 1], "init_planes": 8, "anti_alias": "blur", "heads": []}
    torch.manual_seed(0)
    model = worn(build_model(config))
    fast = optimize(model, batch(), engine="openvino")
    with torch.no_grad():
        agree({"": fast(batch(3, seed=5))}, {"": model(batch(3, seed=5))})


@needs_openvino
def test_openvino_takes_other_operators_by_its_own_route() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            z = y.view(y.shape[0], -1)
            y.add_(1)  # a view reads it
            return nn.functional.adaptive_avg_pool2d(y, 3) + nn.functional.group_norm(y, 3).mean() + z.sum()

    model = ClassyModel.from_model(nn.Sequential(Odd()), blocks=["0"], input_shape=(3, 8, 8)).eval()
    x = torch.randn(2, 3, 8, 8)
    fast = optimize(model, x, engine="openvino")
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


@needs_openvino
def test_many_batch_sizes_take_one_network_for_all() -> None:
    fast = optimize(build("mlp"), batch(), engine="openvino")
    model = build("mlp").eval()
    for size in range(1, openvino.STATIC_SIZES + 4):
        agree(fast(batch(size)), model(batch(size)))


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
@pytest.mark.parametrize("engine", [ENGINES[0], ENGINES[2]])
def test_half_precision(engine: str, dtype: Any) -> None:
    model = build("regnet").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a processor without it says so
        fast = optimize(model, batch(), engine=engine, dtype=dtype, tolerance=0.1)
    agree(fast(batch(3)), model(batch(3)), 0.1)


def test_a_dtype_that_the_processor_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx512_bf16": False})
    with pytest.warns(UserWarning, match="no arithmetic in bfloat16, which makes it slower than float32"):
        fast = optimize(build("mlp"), batch(), engine="plain", dtype="bfloat16", tolerance=0.5)
    assert "no arithmetic in bfloat16" in str(fast.report)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimize(build("mlp"), batch(), engine="plain")


@needs_openvino
def test_openvino_keeps_what_it_compiled(tmp_path: Path) -> None:
    fast = optimize(build("mlp"), batch(), engine="openvino", cache_dir=tmp_path / "cache")
    kept = set((tmp_path / "cache").iterdir())
    assert kept
    fast.save(tmp_path / "fast")
    again = load_optimized(tmp_path / "fast", cache_dir=tmp_path / "cache", threads=torch.get_num_threads())
    agree(again(batch()), fast(batch()))


def test_a_saved_model_keeps_its_dtype(tmp_path: Path) -> None:
    """torch's, too, whose file holds the arithmetic."""
    model = build("mlp").eval()
    fast = optimize(model, batch(), engine="plain", dtype="bfloat16", tolerance=0.5)
    fast.save(tmp_path / "fast")
    again = load_optimized(tmp_path / "fast", trust=True)
    for head, output in again(batch()).items():
        assert torch.equal(output, fast(batch())[head])
        assert not torch.equal(output, model(batch())[head])
    with pytest.raises(ConfigError, match="read from a file: copy that file"):
        again.save(tmp_path / "other")


def test_auto_says_what_it_tried() -> None:
    fast = optimize(build("regnet"), batch(), time_budget=59)
    report = fast.report
    assert report is not None
    assert [attempt.engine for attempt in report.attempts] == list(engines.NAMES)
    timed = {a.engine: a.milliseconds for a in report.attempts if a.milliseconds is not None}
    assert {"onnxruntime", "plain"} <= set(timed)
    assert fast.engine == report.chosen == min(timed, key=timed.__getitem__)
    assert "as it compiles for over a minute: time_budget=179 tries it" in str(report)
    assert f"> {fast.engine}" in str(report)
    assert "2x3x32x32, float32, " in str(report)


def test_auto_goes_without_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    fast = optimize(build("mlp"), batch())
    assert fast.engine == "plain"
    assert "is not installed, and is often the fastest: pip install 'classy-vision-models[openvino]'" in str(
        fast.report
    )
    with pytest.raises(ConfigError, match=r"'onnxruntime' is not installed: pip install '.*\[onnx\]'"):
        optimize(build("mlp"), batch(), engine="onnxruntime")


def test_auto_goes_without_what_cannot_run_the_model() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    for odd, said in ((Odd(), "bessel_j0"), (Branching(), "ModelAdapter cannot be exported: .*ata-dependent")):
        model = ClassyModel.from_model(nn.Sequential(odd), blocks=["0"], input_shape=(4,)).eval()
        fast = optimize(model, torch.ones(2, 4))
        assert fast.engine == "plain"
        assert re.search(rf"{FASTEST} .*{said}", str(fast.report))
        torch.testing.assert_close(fast(-torch.ones(2, 4)), model(-torch.ones(2, 4)))
        with pytest.raises(ConfigError, match=f"the engine '{FASTEST}' .*{said}"):
            optimize(model, torch.ones(2, 4), engine=FASTEST)


def test_a_batch_that_a_model_keeps_is_not_traced() -> None:
    class Kept(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.zeros(x.shape[0], 4)

    model = ClassyModel.from_model(nn.Sequential(Kept()), blocks=["0"], input_shape=(4,)).eval()
    fast = optimize(model, torch.ones(2, 4), engine="onnxruntime")
    assert fast(torch.ones(5, 4)).shape == (5, 4)


def test_the_budget_bounds_what_is_tried() -> None:
    report = optimize(build("mlp"), batch(), time_budget=1e-9).report
    assert report is not None
    assert len([a for a in report.attempts if a.milliseconds is not None]) == 1
    assert "the time budget of 1e-09 s would not suffice: a larger time_budget tries it" in str(report)
    assert re.match(r"2x3x32x32, float32, 1 thread, exported in \d", str(report)), "only once for all engines"


def test_threads_of_torch_are_one_number_for_all() -> None:
    more = torch.get_num_threads() + 1
    with pytest.raises(ConfigError, match=rf"'plain' runs with .* call torch.set_num_threads\({more}\) before"):
        optimize(build("mlp"), batch(), engine="plain", threads=more)


def test_engines_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU gets, as far as a CPU can tell."""
    assert choose_options(torch.device("cuda", 0)) == {"mode": "reduce-overhead"}
    program = dataclasses.replace(
        search._prepare(build("mlp"), batch(), "float32", None, None, None)[0], example=batch().to("meta")
    )
    for name in ("openvino", "onnxruntime"):
        said = search._find_reason_against(name, program)
        assert said == "does not run on meta, where the model is (it runs on cpu)"
    assert all("cuda" in engines.find_engine(name).devices for name in ("torch", "plain"))


def test_the_model_stays_as_it_was() -> None:
    model = build("regnet")
    state = copy.deepcopy(model.state_dict())
    model.blocks["block1-0"].eval()
    optimize(model, batch(), engine="onnxruntime")
    with pytest.raises(ConfigError, match=r"'plain' differs from the model by .* tolerance = 1e-12"):
        optimize(model, batch(), dtype="bfloat16", tolerance=1e-12, engine="plain")
    assert model.training
    assert not model.blocks["block1-0"].training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    model.train()(batch())["early"].sum().backward()


def test_other_modules_and_one_output() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), nn.Flatten())
    model = ClassyModel.from_model(net, ["0", "1"], input_shape=(3, 32, 32))
    fast = optimize(worn(model), batch(), engine="onnxruntime")
    torch.testing.assert_close(fast(batch(3)), model(batch(3)))
    model.set_heads({"0": [FullyConnectedHead("a", 3)]})
    fast = optimize(worn(model), batch(), engine="onnxruntime")
    with torch.no_grad():
        wanted = model(batch(3))
    torch.testing.assert_close(fast(batch(3)), wanted, rtol=1e-4, atol=1e-5)


def test_refuses_what_makes_no_sense() -> None:
    model = build("regnet")
    with pytest.raises(TypeError, match="optimize takes a ClassyModel"):
        optimize(nn.Linear(3, 3))  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="'bfloat61'.*bfloat16"):
        optimize(model, dtype="bfloat61")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="'opnvino'; did you mean 'openvino'"):
        optimize(model, engine="opnvino")
    with pytest.raises(ConfigError, match=r"a batch is needed.* \(0, 3, 32, 32\)"):
        optimize(model, batch()[:0])
    with pytest.raises(ConfigError, match="as a tensor, not ndarray"):
        optimize(model, batch().numpy())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tolerance = -1: give a number above 0"):
        optimize(model, batch(), tolerance=-1)
    with pytest.raises(ConfigError, match="threads = 0: give a whole number above 0"):
        optimize(model, batch(), threads=0)
    with pytest.raises(ConfigError, match="no convolutions in bfloat16"):
        optimize(model, batch(), dtype="bfloat16", engine="onnxruntime")
    with pytest.raises(ValueError, match="takes images"):
        optimize(model, torch.randn(2, 4, 32, 32))
    fast = optimize(model, batch(), engine="plain")
    with pytest.raises(
        ConfigError, match=r"input of shape \(2, 4, 32, 32\): this model takes \(n, 3, 32, 32\)"
    ):
        fast(torch.randn(2, 4, 32, 32))
    with pytest.raises(ConfigError, match=r"input of shape \(0, 3, 32, 32\)"):
        fast(batch()[:0])
    with pytest.raises(TypeError, match=r"cannot be pickled or copied: save\(path\) writes it"):
        pickle.dumps(fast)
    model.get_heads()["block1"][0].fc.bias.data.fill_(torch.nan)
    with pytest.raises(ConfigError, match="output 'early' of the model itself is not finite"):
        optimize(model, batch())
    model.lock = threading.Lock()
    with pytest.raises(ConfigError, match="RegNet cannot be copied: cannot pickle"):
        optimize(model)


def test_old_arguments_still_work() -> None:
    with pytest.warns(DeprecationWarning, match="torch.export takes the model as it is"):
        optimize(build("mlp"), batch(), pack=False, engine="plain")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["regnet", "vision_transformer"])
def test_inductor(family: str, tmp_path: Path) -> None:
    model = worn(build(family))
    fast = optimize(model, batch(), engine="torch")
    with torch.no_grad():
        agree(fast(batch(3)), model(batch(3)))
    fast.save(tmp_path / "fast")
    with torch.no_grad():
        agree(load_optimized(tmp_path / "fast", trust=True)(batch(3)), model(batch(3)))


# -- saved


@pytest.mark.parametrize("engine", ENGINES)
def test_saved_models(engine: str, tmp_path: Path) -> None:
    model = worn(build("regnet"))
    fast = optimize(model, batch(), engine=engine)
    fast.features(batch(), ["stem"])
    path = tmp_path / "fast"
    fast.save(path)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ConfigError, match="exists"):
        fast.save(path)
    fast.save(path, force=True)
    if engine == "plain":
        with pytest.raises(ConfigError, match="can run code that is in it: pass trust=True"):
            load_optimized(path)
    again = load_optimized(path, trust=engine == "plain")
    assert again.engine == engine
    with torch.no_grad():
        agree(again(batch(5)), model(batch(5)))
        agree(again.features(batch(3), ["stem"]), model.features(batch(3), ["stem"]))
    with pytest.raises(
        ConfigError, match="does not hold features of block1 for .*; it holds the outputs for inputs 3x32x32"
    ):
        again.features(batch(), ["block1"])


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_a_saved_model_runs_without_torch(engine: str, tmp_path: Path) -> None:
    optimize(build("mlp"), batch(), engine=engine).save(tmp_path / "fast")
    code = (
        "import sys, numpy as np\n"
        "from classy_vision.engines import load_optimized\n"
        f"fast = load_optimized({str(tmp_path / 'fast')!r})\n"
        "print({head: output.shape for head, output in fast(np.ones((5, 3, 32, 32), np.float32)).items()})\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "{'early': (5, 3), 'late': (5, 3)}\n", done.stderr


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_damaged_files(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "fast"
    with pytest.raises(ConfigError, match="there is no file"):
        load_optimized(path)
    optimize(build("mlp"), batch(), engine=engine).save(path)
    whole = path.read_bytes()
    for part in (0.0, 0.3, 0.9, 0.999):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(ConfigError, match="is damaged, or not an optimized model"):
            load_optimized(path)
