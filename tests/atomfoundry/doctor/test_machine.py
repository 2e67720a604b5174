"""Python, packages, settings, resources and GPUs."""

from __future__ import annotations

import resource
import sys
from types import SimpleNamespace

import pytest

from atomfoundry.doctor import gpus, python_packages, resources

SMI = "0, GPU-1a2b, NVIDIA H200, 143771, 4, {driver}, Default, Disabled"


def versions(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> None:
    """Let some packages have other versions."""
    real = python_packages.installed

    def fake(name: str) -> str | None:
        return changed[name.replace("-", "_")] if name.replace("-", "_") in changed else real(name)

    monkeypatch.setattr(python_packages, "installed", fake)
    monkeypatch.setattr(gpus, "installed", fake)


def test_this_environment_is_well(ask) -> None:
    assert [each.status for each in ask("packages")] == ["ok"]
    assert [each.status for each in ask("package-traps")] == ["ok"]


def test_a_package_out_of_range_and_one_missing(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, pymongo="4.20.0", tblite=None)
    found = {each.message: each.cure for each in ask("packages")}
    assert found == {
        "pymongo 4.20.0 is installed; Atomfoundry needs <=4.16.0,>=4.10.": 'pip install "pymongo<=4.16.0,>=4.10"',
        "tblite is not installed.": 'pip install "tblite>=0.8"',
    }


def test_mace_beside_our_e3nn_is_a_problem(one, monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, mace_torch="0.3.16", e3nn="0.6.0")
    found = one("package-traps")
    assert found.status == "problem"
    assert found.details["packages"] == {"mace-torch": "0.3.16", "e3nn": "0.6.0"}
    assert "pip uninstall mace-torch" in found.cure


def test_atomate2_beside_a_new_pymongo_is_a_problem(one, monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, pymongo="4.20.0")
    assert one("package-traps").cure == 'pip install "pymongo<=4.16.0"'


def test_an_old_python(one, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_packages.sys, "version_info", (3, 9, 18))
    found = one("python")
    assert found.status == "problem"
    assert "Python 3.9.18" in found.message
    assert "-m venv" in found.cure


def test_a_python_outside_of_an_environment(one, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    found = one("python")
    assert found.status == "warning"
    assert "python3 -m venv .venv" in found.cure


# -- settings -------------------------------------------------------------------------------------------------


def test_a_variable_that_nothing_reads_names_the_nearest(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOMFOUNDRY_EXPRESSO_COMMAND", "pw.x")
    monkeypatch.setenv("ATOMFOUNDRY_Q", "1")
    found = {each.details["variable"]: each for each in ask("variables")}
    assert found["ATOMFOUNDRY_EXPRESSO_COMMAND"].details["nearest"] == "ATOMFOUNDRY_ESPRESSO_COMMAND"
    assert found["ATOMFOUNDRY_EXPRESSO_COMMAND"].cure == (
        'export ATOMFOUNDRY_ESPRESSO_COMMAND="$ATOMFOUNDRY_EXPRESSO_COMMAND"; unset ATOMFOUNDRY_EXPRESSO_COMMAND'
    )
    assert found["ATOMFOUNDRY_Q"].cure == "unset ATOMFOUNDRY_Q"


def test_known_variables_are_fine(one, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ATOMFOUNDRY_PROJECT", "ATOMFOUNDRY_DEADLINE", "ATOMFOUNDRY_MONGODB_PASSWORD", "ATOMFOUNDRY_WORKERS"):
        monkeypatch.setenv(name, "1")
    assert one("variables").status == "ok"


def test_every_variable_that_the_package_reads_is_known() -> None:
    import re
    from pathlib import Path

    import atomfoundry
    from atomfoundry.doctor.configuration import OTHER_VARIABLES, PREFIX
    from atomfoundry.settings import AtomfoundrySettings

    known = {f"{PREFIX}{name.upper()}" for name in AtomfoundrySettings.model_fields} | OTHER_VARIABLES
    root = Path(atomfoundry.__file__).parents[1]
    for folder in ("atomfoundry", "makers", "models", "workflows"):
        for path in (root / folder).rglob("*.py"):
            read = set(re.findall(r"\"(ATOMFOUNDRY_[A-Z0-9_]*[A-Z0-9])\"", path.read_text()))
            assert read <= known, (path, read - known)


def test_a_setting_that_names_nothing(one, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOMFOUNDRY_ESPRESSO_PSEUDO_DIR", "/nowhere/upf")
    found = one("settings")
    assert found.status == "warning"
    assert "/nowhere/upf, which does not exist" in found.message
    assert "unset ATOMFOUNDRY_ESPRESSO_PSEUDO_DIR" in found.cure


def test_a_settings_file_that_is_not_there(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOMFOUNDRY_SETTINGS_FILE", "/nowhere/settings.yaml")
    assert ask("settings")[0].cure == "unset ATOMFOUNDRY_SETTINGS_FILE"


def test_a_wrong_value_in_a_variable(one, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOMFOUNDRY_WORKERS", "many")
    found = one("settings")
    assert found.status == "problem"
    assert "'workers'" in found.message


def test_a_key_in_a_settings_file_that_others_read(one, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("materials_project_key: abcdef123456\n")
    monkeypatch.setenv("ATOMFOUNDRY_SETTINGS_FILE", str(file))
    file.chmod(0o644)
    found = one("settings-mode")
    assert (found.status, found.cure) == ("problem", f"chmod 600 {file}")
    assert "abcdef" not in str(found)
    file.chmod(0o600)
    assert one("settings-mode").status == "ok"


# -- memory, cores, limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "available", "status", "cure"),
    [(2, 2, "warning", "--workers 1"), (16, 1, "warning", "ps aux"), (16, 12, "ok", "")],
)
def test_memory(one, monkeypatch: pytest.MonkeyPatch, total, available, status, cure) -> None:
    found = SimpleNamespace(total=total * 2**30, available=available * 2**30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: found)
    monkeypatch.setattr(resources, "CGROUP_LIMITS", ())
    answer = one("memory")
    assert answer.status == status
    assert cure in (answer.cure or "")


def test_a_container_s_memory_limit_counts(one, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    monkeypatch.setattr(resources, "CGROUP_LIMITS", (tmp_path / "memory.max", tmp_path / "absent"))
    assert one("memory").message.startswith("Only 1.0 GiB of memory")


@pytest.mark.parametrize(
    ("threads", "status", "cure"),
    [("999", "warning", "export OMP_NUM_THREADS="), ("two", "warning", "export OMP_NUM_THREADS=1"), ("1", "ok", None)],
)
def test_threads(one, monkeypatch: pytest.MonkeyPatch, threads, status, cure) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    found = one("cores")
    assert found.status == status
    assert (found.cure or "").startswith(cure or "")


def test_limits(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {resource.RLIMIT_NOFILE: (256, 4096), resource.RLIMIT_STACK: (2**20, -1)}
    monkeypatch.setattr(resources.resource, "getrlimit", given.__getitem__)
    assert [each.cure for each in ask("limits")] == ["ulimit -n 4096", "ulimit -s unlimited"]


# -- GPUs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def smi(program):
    def make(driver: str = "580.95.05", text: str | None = None, code: int = 0) -> None:
        program("nvidia-smi", f"cat <<'END'\n{text or SMI.format(driver=driver)}\nEND\nexit {code}")

    return make


def torch_says(monkeypatch: pytest.MonkeyPatch, program, text: str) -> None:
    monkeypatch.setattr(gpus.sys, "executable", str(program("fake-python", text)))


def test_no_gpu_is_no_problem(one, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus.shutil, "which", lambda name: None)
    assert one("gpu").status == "skipped"


def test_a_gpu_and_a_torch_that_fits(ask, smi, program, monkeypatch: pytest.MonkeyPatch) -> None:
    smi()
    versions(monkeypatch, torch="2.13.0+cu130")
    torch_says(monkeypatch, program, "echo True 1")
    found = ask("gpu")
    assert [each.status for each in found] == ["ok", "ok"]
    assert found[0].message == "0: NVIDIA H200 (140 GiB)"


def test_a_torch_for_processors_on_a_machine_with_a_gpu(ask, smi, monkeypatch: pytest.MonkeyPatch) -> None:
    smi()
    versions(monkeypatch, torch="2.13.0+cpu")
    found = ask("gpu")[-1]
    assert found.status == "warning"
    assert 'pip install --force-reinstall "torch==2.13.0"' in found.cure


def test_a_driver_too_old_for_torch(ask, smi, monkeypatch: pytest.MonkeyPatch) -> None:
    smi("535.104.05")
    versions(monkeypatch, torch="2.13.0+cu130")
    found = ask("gpu")[-1]
    assert found.status == "problem"
    assert "needs driver 580 or newer; here is 535.104.05" in found.message


def test_a_torch_that_does_not_see_the_gpu(ask, smi, program, monkeypatch: pytest.MonkeyPatch) -> None:
    smi()
    versions(monkeypatch, torch="2.13.0+cu130")
    torch_says(monkeypatch, program, "echo False 0")
    assert "torch 2.13.0+cu130 does not see the GPU: False 0." in ask("gpu")[-1].message


@pytest.mark.parametrize(
    ("value", "status", "cure"),
    [
        ("3", "problem", "export CUDA_VISIBLE_DEVICES=0"),
        ("", "warning", "unset CUDA_VISIBLE_DEVICES"),
        ("0", "ok", None),
        ("GPU-1a2b", "ok", None),
    ],
)
def test_cuda_visible_devices(ask, smi, program, monkeypatch: pytest.MonkeyPatch, value, status, cure) -> None:
    smi()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    versions(monkeypatch, torch="2.13.0+cu130")
    torch_says(monkeypatch, program, "echo True 1")
    found = ask("gpu")[0]
    assert (found.status, found.cure) == (status, cure)


def test_nvidia_smi_that_fails(one, smi) -> None:
    smi(text="Failed to initialize NVML: Driver/library version mismatch", code=18)
    found = one("gpu")
    assert found.status == "problem"
    assert "Driver/library version mismatch" in found.message
    assert "nvidia-smi" in found.cure


@pytest.mark.parametrize(("version", "major"), [("2.9.0+cu128", 12), ("2.9.0+cu118", 11), ("2.9.0+cpu", None)])
def test_which_cuda_torch_is_built_for(version, major) -> None:
    assert gpus.cuda_build(version) == major


def test_which_cuda_by_the_packages_beside_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, nvidia_cuda_runtime_cu13=None, nvidia_cuda_runtime=None, nvidia_cuda_runtime_cu12="12.8.90")
    assert gpus.cuda_build("2.9.0") == 12
