from __future__ import annotations

import shlex
import subprocess
import warnings
from pathlib import Path

import pytest
from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter

from atomfoundry.errors import ConfigurationError
from atomfoundry.running.cluster.profiles import DEFAULTS, Profile, Profiles
from atomfoundry.running.cluster.queue_script import PBS_TEMPLATE
from atomfoundry.running.cluster.wall_time import format_wall_time, parse_wall_time

FULL = {
    "queue": "a100",
    "nodes": 1,
    "cores": 32,
    "threads": 8,
    "gpus": 4,
    "gpu_type": "a100",
    "memory_mb": 256000,
    "wall_time": "1-12:00:00",
    "signal_before": 300,
    "account": "mat-01",
    "modules": ["gcc/13.2", "cuda/12.4"],
    "environment": {"VASP_PP": "$HOME/potcar", "NOTE": 'a "b" `id` $(id) \\', "N": 3},
}


def render(scheduler: str, parameters: dict, folder: Path) -> str:
    """The batch script as FireWorks writes it; a key that the template lacks is an error."""
    if scheduler == "slurm":
        adapter = CommonAdapter("SLURM", rocket_launch="exec worker", **parameters)
    else:
        adapter = CommonAdapter("PBS", template_file=str(PBS_TEMPLATE), rocket_launch="exec worker", **parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        script = adapter.get_script_str(str(folder))
    file = folder / "job.sh"
    file.write_text(script)
    subprocess.run(["bash", "-n", str(file)], check=True)
    return script


def write(folder: Path, text: str) -> Path:
    path = folder / "profiles.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(90, 90), ("3600", 3600), ("04:00:00", 14400), ("2-00:00:01", 172801), ("12:30", 750), ("100:00:00", 360000)],
)
def test_wall_times(given, seconds):
    assert parse_wall_time(given) == seconds


@pytest.mark.parametrize("given", [0, -5, True, 1.5, "", "4h", "1:2:3", "00:60:00", "00:00:60", "1-30:00", "00:00:00"])
def test_bad_wall_times(given):
    with pytest.raises(ValueError, match="wall time"):
        parse_wall_time(given)


@pytest.mark.parametrize("seconds", [60, 3599, 86400, 360001])
def test_wall_times_are_read_as_written(seconds):
    assert parse_wall_time(format_wall_time(seconds)) == seconds


def test_missing_file_gives_the_defaults(tmp_path):
    profiles = Profiles.load(tmp_path / "none.yaml")
    assert {profile.name for profile in profiles} == set(DEFAULTS)
    assert [profiles[name].category for name in DEFAULTS] == list(DEFAULTS)
    assert profiles["light"].jobs_at_once == 4
    assert profiles["dft"].jobs_at_once == 1
    assert profiles["gpu"].gpus == 1
    assert profiles["gpu"].jobs_at_once == 1


def test_file_over_defaults(tmp_path):
    profiles = Profiles.load(
        write(tmp_path, "profiles:\n  gpu: {queue: a100, wall_time: 48:00:00}\n  big: {nodes: 2, cores: 64}\n")
    )
    assert profiles["gpu"].queue == "a100"
    assert profiles["gpu"].wall_time == 48 * 3600
    assert profiles["gpu"].gpus == 1  # a default that stays
    assert profiles["big"].category == "big"
    assert profiles["big"].jobs_at_once == 1


def test_overrides_by_job_name(tmp_path):
    text = """
profiles:
  big: {nodes: 2, cores: 64, environment: {A: 1}}
jobs:
  "label *": {wall_time: "01:00:00", environment: {B: 2}}
  "label supercell*": {profile: big, memory_mb: 1000}
"""
    profiles = Profiles.load(write(tmp_path, text))
    plain = profiles.for_job("label Si", "dft")
    assert (plain.name, plain.wall_time, plain.cores) == ("dft", 3600, 16)
    assert plain.environment == {"B": "2"}
    assert profiles.for_job("collect", "dft") == profiles["dft"]
    big = profiles.for_job("label supercell 3", "dft")
    assert (big.name, big.category, big.nodes, big.memory_mb) == ("big", "big", 2, 1000)
    assert profiles.for_job("Label supercell", "light").name == "light"


def test_an_override_need_not_fit_every_profile(tmp_path):
    """Two threads do not go with the one core that a light job has."""
    profiles = Profiles.load(write(tmp_path, "jobs: {'train *': {threads: 2}}"))
    assert profiles.for_job("train base", "gpu").threads == 2
    with pytest.raises(ConfigurationError, match=r"job 'train \*'.*cores_per_job"):
        profiles.for_job("train base", "light")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile: {}", "unknown key 'profile'.*Did you mean 'profiles'"),
        ("profiles: {gpu: {patition: a}}", "profile 'gpu'.*'patition'"),
        ("profiles: {gpu: {memory: 3}}", "Did you mean 'memory_mb'"),
        ("profiles: {gpu: {cores: 0}}", "profile 'gpu', cores"),
        ("profiles: {gpu: {wall_time: 4h}}", "gpu', wall_time: '4h' is no wall time"),
        ("profiles: {gpu: {queue: 'a; rm'}}", "gpu', queue"),
        ("profiles: {gpu: {modules: ['a b']}}", "gpu', modules.0"),
        ("profiles: {gpu: {environment: {A: 'x$$y'}}}", "environment.A.*without"),
        ("profiles: {gpu: {environment: {'A B': 'x'}}}", "is no name of a variable"),
        ("profiles: {gpu: {threads: 3}}", r"threads \(3\) must divide cores \(8\)"),
        ("profiles: {dft: {cores_per_job: 17}}", "at most cores"),
        ("profiles: {dft: {nodes: 2, cores_per_job: 4}}", "several nodes"),
        ("profiles: {dft: {gpu_type: a100}}", "gpu_type needs gpus"),
        ("profiles: {dft: {wall_time: 100}}", "signal_before"),
        ("profiles: {dft: {name: x}}", "sets 'name'"),
        ("profiles: {'a b': {}}", "profile 'a b', name"),
        ("profiles: {dft: 3}", "profile 'dft' must be a mapping"),
        ("profiles: [", "is not YAML"),
        ("[1]", "must be a mapping"),
        ("jobs: {'x*': {profile: gup}}", "no resource profile 'gup'.*Did you mean 'gpu'"),
        ("jobs: {'x*': {profil: gpu}}", "job 'x\\*'.*Did you mean 'profile'"),
        ("jobs: {'x*': {cores: -1}}", "job 'x\\*', cores"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        Profiles.load(path)
    assert str(path) in str(caught.value)


def test_two_profiles_of_one_category(tmp_path):
    """Each one's launcher would send allocations for the same jobs."""
    text = "profiles:\n  long: {category: dft, cores: 2}\n"
    with pytest.raises(ConfigurationError, match=r"'dft' and 'long' have the same category 'dft'") as caught:
        Profiles.load(write(tmp_path, text))
    assert "queue: first,second" in caught.value.remedy
    assert "profiles.yaml" in caught.value.message
    swapped = Profiles({"dft": {"category": "labels"}, "long": {"category": "dft"}})
    assert swapped["long"].category == "dft"
    assert Profiles({"dft": {"queue": "cpu,long"}})["dft"].queue == "cpu,long"


def test_unknown_profile_and_scheduler():
    with pytest.raises(ConfigurationError, match="Did you mean 'light'"):
        Profiles().for_job("x", "ligth")
    with pytest.raises(ConfigurationError, match="Did you mean 'slurm'"):
        Profiles()["gpu"].queue_parameters("slrum")


def test_jobs_at_once():
    assert Profile(name="a", cores=32, cores_per_job=5).jobs_at_once == 6
    assert Profile(name="a", cores=32, gpus=4).jobs_at_once == 4
    assert Profile(name="a", cores=32, gpus=4, cores_per_job=16).jobs_at_once == 2
    assert Profile(name="a", cores=32, nodes=4).jobs_at_once == 1


def test_slurm_script(tmp_path):
    profile = Profile(name="gpu", **FULL)
    script = render("slurm", profile.queue_parameters("slurm"), tmp_path)
    options = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert options == [
        "--nodes=1",
        "--ntasks-per-node=4",
        "--cpus-per-task=8",
        "--gres=gpu:a100:4",
        "--time=36:00:00",
        "--partition=a100",
        "--account=mat-01",
        "--job-name=foundry-gpu",
        "--output=foundry-gpu-%j.out",
        "--error=foundry-gpu-%j.error",
        "--signal=B:USR1@300",
        "--mem=256000M",
    ]
    assert "module load cuda/12.4 || exit 1" in script
    assert '[ -n "$SLURM_JOB_END_TIME" ] || export ATOMFOUNDRY_DEADLINE=$(( $(date +%s) + 129600 ))' in script
    assert "\nexec worker\n" in script


def test_pbs_script(tmp_path):
    profile = Profile(name="gpu", **FULL)
    script = render("pbs", profile.queue_parameters("pbs"), tmp_path)
    options = [line.removeprefix("#PBS ") for line in script.splitlines() if line.startswith("#PBS")]
    assert options == [
        "-N foundry-gpu",
        "-q a100",
        "-A mat-01",
        "-l select=1:ncpus=32:mpiprocs=4:ompthreads=8:mem=256000mb:ngpus=4:gpu_type=a100",
        "-l walltime=36:00:00",
        "-o FW_job.out",
        "-e FW_job.error",
    ]
    assert "ATOMFOUNDRY_DEADLINE=$(( $(date +%s) + 129600 ))" in script


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
@pytest.mark.parametrize("name", list(DEFAULTS))
def test_default_profiles_render(tmp_path, scheduler, name):
    assert "None" not in render(scheduler, Profiles()[name].queue_parameters(scheduler), tmp_path)


def test_extra_keys_of_the_template(tmp_path):
    slurm = Profile(name="x", memory_mb=10, extra={"qos": "long", "mem": None, "exclude_nodes": "n1"})
    script = render("slurm", slurm.queue_parameters("slurm"), tmp_path)
    assert "--qos=long" in script
    assert "--mem=" not in script
    torque = Profile(name="x", cores=4, extra={"select": None, "nnodes": 1, "ppnode": 4, "array": "1-5"})
    script = render("pbs", torque.queue_parameters("pbs"), tmp_path)
    assert "#PBS -l nodes=1:ppn=4\n" in script
    assert "#PBS -J 1-5\n" in script
    assert "select" not in script
    with pytest.raises(ConfigurationError, match=r"'qoss'\. Did you mean 'qos'"):
        Profile(name="x", extra={"qoss": "long"}).queue_parameters("slurm")


def test_variables_expand_and_nothing_is_executed(tmp_path):
    profile = Profile(name="gpu", **{**FULL, "modules": []})
    script = render("slurm", profile.queue_parameters("slurm", environment={"ROOM": "/a b", "N": "9"}), tmp_path)
    exports = "\n".join(line for line in script.splitlines() if line.startswith("export"))
    shown = subprocess.run(
        ["bash", "-c", exports + '\nprintf \'%s|\' "$VASP_PP" "$NOTE" "$ROOM" "$N" $OMP_NUM_THREADS'],
        env={"HOME": "/home/me", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown == '/home/me/potcar|a "b" `id` $(id) \\|/a b|3|8|'
    assert shlex.split(exports)  # balanced quotes


def test_the_manual_s_profiles(tmp_path):
    manual = (Path(__file__).parents[4] / "docs" / "cluster.md").read_text()
    block = manual.split("```yaml\n")[1].split("```")[0]
    profiles = Profiles.load(write(tmp_path, block))
    assert profiles["dft"].jobs_at_once == 8
    assert profiles["gpu"].jobs_at_once == 4
    large = profiles.for_job("label supercell 7", "dft")
    assert "mpirun -np 96 pw.x" in render("slurm", large.queue_parameters("slurm"), tmp_path)
