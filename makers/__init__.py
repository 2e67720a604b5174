"""Jobflow Makers, one module a stage: thin shells over plain functions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.makers.active_learning import ExploreMaker, SelectedStructuresMaker
    from atomfoundry.makers.align import AlignDatasetsMaker, AlignMaker
    from atomfoundry.makers.benchmark import BenchmarkMaker, BenchmarkStructuresMaker
    from atomfoundry.makers.curation import CoverageMaker, CurateMaker
    from atomfoundry.makers.databases import MaterialsProjectMaker, MoleculesMaker, OptimadeMaker, PrototypesMaker
    from atomfoundry.makers.dataset import DatasetMaker
    from atomfoundry.makers.dataset_work import ImportDatasetMaker, MergeMaker, SelectMaker, SplitMaker
    from atomfoundry.makers.defects import DefectsMaker, SlabsMaker
    from atomfoundry.makers.dynamics import MDSnapshotsMaker, NormalModesMaker
    from atomfoundry.makers.finetune import FineTuneMaker, ForgettingMaker
    from atomfoundry.makers.harvest import HarvestMaker
    from atomfoundry.makers.job import foundry_job
    from atomfoundry.makers.label import LabelMaker
    from atomfoundry.makers.report import ReportMaker
    from atomfoundry.makers.sampling import (
        DimersMaker,
        IsolatedAtomsMaker,
        MonteCarloRattleMaker,
        RandomStructuresMaker,
        SampleMaker,
        StrainMaker,
    )
    from atomfoundry.makers.sources import StructuresMaker
    from atomfoundry.makers.train import TrainMaker
    from atomfoundry.makers.uncertainty import UncertaintyMaker
    from atomfoundry.makers.vasp import MatPesLabelMaker

_HOMES = {
    "AlignDatasetsMaker": "align",
    "AlignMaker": "align",
    "BenchmarkMaker": "benchmark",
    "BenchmarkStructuresMaker": "benchmark",
    "CoverageMaker": "curation",
    "CurateMaker": "curation",
    "DatasetMaker": "dataset",
    "DefectsMaker": "defects",
    "DimersMaker": "sampling",
    "ExploreMaker": "active_learning",
    "FineTuneMaker": "finetune",
    "ForgettingMaker": "finetune",
    "HarvestMaker": "harvest",
    "ImportDatasetMaker": "dataset_work",
    "IsolatedAtomsMaker": "sampling",
    "LabelMaker": "label",
    "MDSnapshotsMaker": "dynamics",
    "MatPesLabelMaker": "vasp",
    "MaterialsProjectMaker": "databases",
    "MergeMaker": "dataset_work",
    "MoleculesMaker": "databases",
    "MonteCarloRattleMaker": "sampling",
    "NormalModesMaker": "dynamics",
    "OptimadeMaker": "databases",
    "PrototypesMaker": "databases",
    "RandomStructuresMaker": "sampling",
    "ReportMaker": "report",
    "SampleMaker": "sampling",
    "SelectMaker": "dataset_work",
    "SelectedStructuresMaker": "active_learning",
    "SlabsMaker": "defects",
    "SplitMaker": "dataset_work",
    "StrainMaker": "sampling",
    "StructuresMaker": "sources",
    "TrainMaker": "train",
    "UncertaintyMaker": "uncertainty",
    "foundry_job": "job",
}

__all__ = [
    "AlignDatasetsMaker",
    "AlignMaker",
    "BenchmarkMaker",
    "BenchmarkStructuresMaker",
    "CoverageMaker",
    "CurateMaker",
    "DatasetMaker",
    "DefectsMaker",
    "DimersMaker",
    "ExploreMaker",
    "FineTuneMaker",
    "ForgettingMaker",
    "HarvestMaker",
    "ImportDatasetMaker",
    "IsolatedAtomsMaker",
    "LabelMaker",
    "MDSnapshotsMaker",
    "MatPesLabelMaker",
    "MaterialsProjectMaker",
    "MergeMaker",
    "MoleculesMaker",
    "MonteCarloRattleMaker",
    "NormalModesMaker",
    "OptimadeMaker",
    "PrototypesMaker",
    "RandomStructuresMaker",
    "ReportMaker",
    "SampleMaker",
    "SelectMaker",
    "SelectedStructuresMaker",
    "SlabsMaker",
    "SplitMaker",
    "StrainMaker",
    "StructuresMaker",
    "TrainMaker",
    "UncertaintyMaker",
    "foundry_job",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
