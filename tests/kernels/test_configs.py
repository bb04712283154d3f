"""Which configuration a kernel gets: forced, interpreted, from a measured table, or chosen; and that one can see which."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tinyflow.kernels import configs as module
from tinyflow.kernels import tuned
from tinyflow.kernels.configs import Config, Configs, planned_for_gpu, problem_class

ROOT = Path(__file__).resolve().parents[2]
SMALL, LARGE, OTHER = Config({"BLOCK": 4}), Config({"BLOCK": 8}, num_warps=8), Config({"BLOCK": 16})


@pytest.fixture
def configs() -> Iterator[Configs]:
    yield Configs("_test_configs_kernel", (SMALL, LARGE), lambda n: SMALL, lambda n: Config({"BLOCK": 1024}))
    del Configs.registry["_test_configs_kernel"]


def entry(config: Config) -> dict[str, object]:
    return {"blocks": dict(config.blocks), "num_warps": config.num_warps, "num_stages": config.num_stages}


def write_table(path: Path, **problems: Config) -> None:
    kernels = {"_test_configs_kernel": {name.replace("__", " n="): entry(c) for name, c in problems.items()}}
    tuned.write(path, "a GPU", {"triton": "3.9"}, kernels)


def test_the_name_of_a_problem() -> None:
    problem = {"m": 4000, "n": 64, "k": 0, "wide": True, "sizes": (3, 5), "views": [(1, 0), (-2, 9)]}
    expected = "bfloat16 m=4096 n=64 k=0 wide=True sizes=(4,8) views=((1,0),(-2,16))"
    assert problem_class(torch.bfloat16, problem) == expected
    assert problem_class(None, {"n": 1}) == "any n=1"


def test_float64_gets_tiles_of_its_own(configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs.float64 = OTHER, LARGE
    assert list(configs.declared) == [SMALL, LARGE, OTHER]
    assert list(configs.shipped_for((9, 0))) == [SMALL, LARGE, OTHER]
    write_table(tmp_path / "a-gpu.json", float64__64=OTHER, float32__64=OTHER)
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    with planned_for_gpu("A GPU"):
        assert configs(torch.float64, n=65) is OTHER  # in place of the one that the heuristic chooses
        assert configs(torch.float32, n=65) is SMALL
        assert configs(n=65) is SMALL
        assert configs(torch.float32, n=64) == OTHER  # may be measured for any dtype


def test_a_measured_table_goes_before_the_heuristic(
    configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "a-gpu.json", float32__64=LARGE, bfloat16__64=OTHER)
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    with planned_for_gpu("A GPU"):
        assert configs(torch.float32, n=64) is not SMALL and configs(torch.float32, n=64) == LARGE
        assert configs(torch.float32, n=33) == LARGE  # of the same class
        assert configs(torch.float32, n=65) == SMALL
        assert configs(torch.float16, n=64) == SMALL
        assert configs(torch.bfloat16, n=64) == SMALL  # the table's is none of those that ship
        with configs.forced(OTHER):
            assert configs(torch.float32, n=64) is OTHER
    with planned_for_gpu("another GPU"):
        assert configs(torch.float32, n=64) == SMALL
    if module.INTERPRETING:
        assert configs(torch.float32, n=64).blocks["BLOCK"] == 1024


def test_another_table_can_be_named(configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "mine.json", float32__64=LARGE)
    monkeypatch.setenv("TINYFLOW_TUNED", str(tmp_path / "mine.json"))
    with planned_for_gpu("any GPU"):
        assert configs(torch.float32, n=64) == LARGE
    configs.forget_tables()
    monkeypatch.setenv("TINYFLOW_TUNED", str(tmp_path / "none.json"))
    with planned_for_gpu("any GPU"), pytest.raises(ValueError, match=r"TINYFLOW_TUNED: .*none.json is no table"):
        configs(torch.float32, n=64)


def test_a_table_grows_and_is_one_devices(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    write_table(path, float32__64=LARGE)
    write_table(path, float32__32=SMALL)
    table = json.loads(path.read_text())
    assert list(table["kernels"]["_test_configs_kernel"]) == ["float32 n=32", "float32 n=64"]
    assert table["device"] == "a GPU" and table["versions"] == {"triton": "3.9"} and table["time"]
    with pytest.raises(ValueError, match="is the table of 'a GPU', not of 'b'"):
        tuned.write(path, "b", {}, {})
    path.write_text("{}")
    with pytest.raises(ValueError, match="is no table of configurations"):
        tuned.write(path, "a GPU", {}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def test_file_names() -> None:
    assert tuned.file_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3.json"


def test_shipped_tables_hold_what_ships() -> None:
    """Else an entry would never be used."""
    from tests.compile import launches  # noqa: F401  every kernel's configurations

    for path in tuned.FOLDER.glob("*.json"):
        table = json.loads(path.read_text())
        assert tuned.file_name(table["device"]) == path.name
        for kernel, entries in table["kernels"].items():
            for problem, found in entries.items():
                config = Config(found["blocks"], found["num_warps"], found["num_stages"])
                assert config in Configs.registry[kernel].shipped, f"{path.name}: {kernel} {problem}"


def test_options_are_all_named() -> None:
    assert LARGE.options == {"num_warps": 8, "num_stages": 2, "enable_fp_fusion": True}
    assert LARGE.key != Config({"BLOCK": 8}).key and LARGE.key == Config({"BLOCK": 8}, num_warps=8).key


def test_launches_can_be_watched() -> None:
    program = "import tinyflow; (tinyflow.ones(3, 4) @ tinyflow.ones(4, 2)).sum()"
    environment = {**os.environ, "TINYFLOW_LOG": "launch", "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    lines = [line for line in run.stderr.splitlines() if line.startswith("launch: ")]
    (product,) = (line for line in lines if "_matmul_kernel" in line)
    assert "float32[3, 2] float32[3, 4] float32[4, 2]" in product
    assert "BLOCK_M=16" in product and "num_warps=4" in product and product.endswith("from interpreter | interpreter")
