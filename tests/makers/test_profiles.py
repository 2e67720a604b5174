"""Which resources the jobs of the Makers ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from jobflow import Maker

from atomfoundry import makers
from atomfoundry.makers.job import foundry_job
from atomfoundry.makers.profiles import profile_of_engine, profile_of_job
from atomfoundry.running.cluster.profiles import DEFAULTS
from atomfoundry.running.identity import prepare

EMT = {"calculator_class": "ase.calculators.emt.EMT"}

JOBS: list[tuple[str, Maker, tuple, str]] = [
    ("train", makers.TrainMaker(), ({},), "gpu"),
    ("fine-tune", makers.FineTuneMaker(), (None, None, None), "gpu"),
    ("train on a CPU", makers.TrainMaker(device="cpu"), ({},), "md"),
    ("fine-tune on a GPU", makers.FineTuneMaker(device="cuda:0"), (None, None, None), "gpu"),
    ("explore", makers.ExploreMaker(), (None, None, None, None), "md"),
    ("benchmark", makers.BenchmarkMaker(), (None, None, None), "md"),
    ("uncertainty", makers.UncertaintyMaker(), (None, {}), "md"),
    ("md snapshots", makers.MDSnapshotsMaker(engine="ase", settings=EMT), (None,), "md"),
    ("normal modes", makers.NormalModesMaker(engine="ase", settings=EMT), (None,), "md"),
    ("first-principles md", makers.MDSnapshotsMaker(engine="pyscf"), (None,), "dft"),
    ("first-principles md, but a model", makers.MDSnapshotsMaker(engine="pyscf"), (None, "a model"), "md"),
    ("forgetting", makers.ForgettingMaker(), (None,) * 5, "light"),
    ("report", makers.ReportMaker(), (None,) * 7, "light"),
    ("select", makers.SelectMaker(), (None,), "light"),
    ("selected structures", makers.SelectedStructuresMaker(), (None,), "light"),
    ("label", makers.LabelMaker(), (None,), "light"),
]


@pytest.mark.parametrize(("maker", "arguments", "profile"), [job[1:] for job in JOBS], ids=[job[0] for job in JOBS])
def test_profiles_of_makers(maker: Any, arguments: tuple, profile: str) -> None:
    (entry,) = prepare(maker.make(*arguments)).entries
    assert entry.profile == profile
    assert profile in DEFAULTS


@dataclass
class Sized(Maker):
    """Large ones need another profile."""

    name: str = "sized"
    large: bool = False

    @foundry_job(profile=lambda maker, *_, **__: "dft" if maker.large else "light")
    def make(self, model: Any) -> int:
        return 1


def test_a_calculator_that_asks_for_more_wins() -> None:
    assert profile_of_job([EMT], None) == "light"
    assert profile_of_job([EMT], "md") == "md"
    assert profile_of_job([{**EMT, "profile": "gpu"}], "md") == "gpu"
    assert profile_of_job([3], "md") == "md"
    assert profile_of_job([3], None) is None
    heavy = {**EMT, "profile": "gpu"}
    assert makers.BenchmarkMaker().make(heavy, None, None).metadata == {"profile": "gpu"}
    assert makers.BenchmarkMaker().make(EMT, None, None).metadata == {"profile": "md"}
    assert Sized(large=True).make(EMT).metadata == {"profile": "dft"}
    assert Sized().make(EMT).metadata == {"profile": "light"}
    assert Sized(large=True).make(heavy).metadata == {"profile": "gpu"}


def test_it_is_the_job_s_alone() -> None:
    """jobflow would hand updates of metadata on to all that the job makes."""
    assert makers.TrainMaker().make({}).metadata_updates == []
    assert makers.BenchmarkMaker().make({**EMT, "profile": "gpu"}, None, None).metadata_updates == []


def test_a_user_s_own_profile_wins() -> None:
    job = makers.TrainMaker().make({})
    job.update_metadata({"profile": "big_gpu"})
    assert prepare(job).entries[0].profile == "big_gpu"


def test_engines_that_cannot_be_made() -> None:
    assert profile_of_engine("no such engine", {}, least="md") == "md"
    assert profile_of_engine("ase", {"no_such_setting": 1}, least="md") == "md"
    assert profile_of_engine("ase", {**EMT, "profile": "gpu"}, least="md") == "gpu"
