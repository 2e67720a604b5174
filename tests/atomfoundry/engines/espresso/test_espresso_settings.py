"""Protocols, cutoffs, spin, U and dispersion: what they become, and which level of theory they are."""

from __future__ import annotations

import pytest
from ase import Atoms
from ase.build import bulk, molecule

from atomfoundry.engines import get_engine
from atomfoundry.engines.espresso.hubbard import default_shell, hubbard_input, named_shells
from atomfoundry.engines.espresso.inputs import pw_setup, species_labels
from atomfoundry.engines.espresso.magnetism import SEED_MOMENT, default_moment, spin_fractions, starting_moments
from atomfoundry.engines.espresso.protocols import PROTOCOLS
from atomfoundry.engines.espresso.pseudopotentials import MINIMUM_CUTOFFS, own_upf_files
from atomfoundry.engines.espresso.upf_header import UpfHeader, read_header
from atomfoundry.errors import ConfigurationError
from atomfoundry.units import RYDBERG


def level_id(**settings) -> str:
    return get_engine("espresso", **settings).level.id


def test_levels_of_old_settings_keep_their_ids(fresh_settings):
    fresh_settings.delenv("ATOMFOUNDRY_ESPRESSO_PSEUDO_DIR", raising=False)
    assert level_id() == "dd60004ccf751b25"
    old = {"ecutwfc": 300.0, "kpoint_shift": True, "input_data": {"system": {"nbnd": 9}}}
    assert level_id(**old) == "e4793db36c61ce78"


def test_settings_that_move_the_energy_move_the_level():
    u = {"hubbard_u": {"Fe": 4.0}}
    settings = [
        {},
        *[{"protocol": name, "elements": ["Si"]} for name in PROTOCOLS],
        {"smearing_kind": "cold"},
        {"smearing_kind": "mp"},
        {"smearing_kind": "fd"},
        {"smearing": 0.06},
        {"kpoints": [4, 4, 4]},
        {"kpoints": [4, 4, 3]},
        {"ecutrho": 2000.0},
        {"spin": "none"},
        {"spin": "collinear"},
        {"spin": "collinear", "magnetic_moments": {"Fe": 2.0}},
        {"spin": "collinear", "magnetic_orders": ["ferromagnetic", "antiferromagnetic"]},
        u,
        {"hubbard_u": {"Fe": 4.5}},
        u | {"hubbard_projectors": "atomic"},
        {"dispersion": "D3(BJ)"},
        {"dispersion": "D3(0)"},
    ]
    ids = [level_id(**one) for one in settings]
    assert len(set(ids)) == len(ids)


def test_settings_that_only_change_cost_do_not():
    costs = {"max_corrections": 0, "density_dir": "x", "timeout": 5.0, "mixing_beta": 0.3, "allow_low_cutoff": True}
    assert {level_id(**{key: value}) for key, value in costs.items()} == {level_id()}
    assert level_id(hubbard_u={"Fe": 4.0}) == level_id(hubbard_u={"Fe-3d": 4.0, "Ni": 0.0})
    assert level_id(smearing_kind="mv") == level_id(smearing_kind="cold")
    orders = [["ferromagnetic", "nonmagnetic"], ["nonmagnetic", "ferromagnetic"]]
    assert len({level_id(spin="collinear", magnetic_orders=order) for order in orders}) == 1
    fast = PROTOCOLS["fast"]
    same = {"kpoint_spacing": fast.kpoint_spacing, "smearing_kind": "cold", "smearing": fast.smearing}
    assert level_id(protocol="fast", elements=["Si"]) == level_id(ecutwfc=MINIMUM_CUTOFFS["Si"], **same)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_an_engine_is_rebuilt_from_its_settings(name):
    engine = get_engine("espresso", protocol=name, elements=["Si", "H"], kpoints=[2, 2, 1], hubbard_u={"Si-3p": 1.0})
    again = get_engine("espresso", **engine.settings())
    assert again == engine and again.level == engine.level
    assert engine.cutoff == pytest.approx(PROTOCOLS[name].cutoff_factor * MINIMUM_CUTOFFS["H"])
    assert engine.scf_tolerance == PROTOCOLS[name].scf_tolerance


def test_what_is_given_comes_before_the_protocol():
    engine = get_engine("espresso", protocol="fast", ecutwfc=500.0, smearing=0.1, kpoint_spacing=0.2)
    assert (engine.cutoff, engine.smearing, engine.kpoint_spacing) == (500.0, 0.1, 0.2)
    assert engine.smearing_kind == "cold"


def test_a_protocol_needs_to_know_the_elements():
    engine = get_engine("espresso", protocol="balanced")
    with pytest.raises(ConfigurationError, match="Name all elements"):
        engine.level  # noqa: B018
    settings = engine.settings_for(["Si", "Si"])
    assert settings["ecutwfc"] == pytest.approx(1.2 * 16 * RYDBERG)
    assert get_engine("espresso", **settings).level.cutoff == settings["ecutwfc"]
    with pytest.raises(ConfigurationError, match="H is not among the elements Si"):
        get_engine("espresso", protocol="fast", elements=["Si"]).check_elements(["Si", "H"])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"protocol": "balance"}, "Did you mean 'balanced'"),
        ({"smearing_kind": "warm"}, "smearing_kind is 'warm'"),
        ({"spin": "colinear"}, "Did you mean 'collinear'"),
        ({"dispersion": "D4"}, "dispersion is 'D4'"),
        ({"kpoints": [4, 4]}, "three numbers"),
        ({"kpoints": [4, 4, 0]}, "three numbers"),
        ({"hubbard_u": {"Xx": 1.0}}, "hubbard_u names 'Xx'"),
        ({"hubbard_u": {"Si": 1.0}}, "'Fe-3d': 4.0"),
        ({"hubbard_u": {"Fe": 1.0, "Fe-4s": 2.0}}, "twice"),
        ({"magnetic_moments": {"Fe": 1.0}}, "Set spin to 'collinear'"),
        ({"spin": "collinear", "magnetic_orders": ["up"]}, "magnetic_orders is 'up'"),
        ({"spin": "collinear", "magnetic_orders": []}, "empty"),
        ({"ecutrho": -1.0}, "positive"),
    ],
)
def test_mistakes_are_named(wrong, match):
    with pytest.raises(ConfigurationError, match=match):
        get_engine("espresso", **wrong)


def test_headers(own_upf):
    path = own_upf(
        "Fe",
        z_valence="1.6000E+001",
        is_ultrasoft="T",
        functional=" SLA  PW   PBX  PBC",
        wfc_cutoff="6.4D1",
        rho_cutoff="7.8e2",
        orbitals=("4S", "3d"),
    )
    assert read_header(path) == UpfHeader(
        16.0, True, "PBE", pytest.approx(64 * RYDBERG), pytest.approx(780 * RYDBERG), frozenset({"4S", "3D"})
    )


def test_cutoffs_come_from_the_files(own_upf):
    own_upf("Fe", is_ultrasoft="T", wfc_cutoff=60.0, rho_cutoff=720.0)
    own_upf("O", is_paw="true", wfc_cutoff=40.0, rho_cutoff=300.0)
    own_upf("Si", wfc_cutoff=20.0, rho_cutoff=80.0)
    fast = get_engine("espresso", protocol="fast", elements=["Fe", "O"])
    assert fast.cutoff == pytest.approx(60 * RYDBERG) and fast.density_cutoff == pytest.approx(720 * RYDBERG)
    oxide = get_engine("espresso", protocol="fast", elements=["O", "Si"])
    assert oxide.density_cutoff == pytest.approx(300 * RYDBERG)
    silicon = get_engine("espresso", protocol="fast", elements=["Si"])
    assert silicon.density_cutoff == pytest.approx(80 * RYDBERG)
    assert "ecutrho" not in pw_setup(silicon, bulk("Si")).namelists["system"]
    assert pw_setup(oxide, bulk("Si")).namelists["system"]["ecutrho"] == pytest.approx(300)
    assert get_engine("espresso", ecutwfc=30 * RYDBERG).density_cutoff == pytest.approx(12 * 30 * RYDBERG)
    with pytest.raises(ConfigurationError, match="too low for O Si"):
        get_engine("espresso", ecutwfc=30 * RYDBERG).check_elements(["Si", "O"])
    get_engine("espresso", ecutwfc=30 * RYDBERG, allow_low_cutoff=True).check_elements(["Si", "O"])
    assert get_engine("espresso").settings_for(["Si", "O"])["ecutwfc"] == pytest.approx(40 * RYDBERG)


def test_names_of_files(own_upf):
    first = own_upf("Ag_ONCV_PBE-1.0.oncvpsp", wfc_cutoff=40.0)
    own_upf("Si-old", z_valence=3.0)
    dotted = own_upf("Si")
    found = own_upf_files()
    assert found is not None and (found["Ag"], found["Si"]) == (first, dotted)


def test_files_that_do_not_tell(own_upf):
    path = own_upf("Si", is_ultrasoft="T", wfc_cutoff=0.0)
    with pytest.raises(ConfigurationError, match=f"{path.name} does not say which cutoff"):
        get_engine("espresso", protocol="fast", elements=["Si"]).level  # noqa: B018
    assert get_engine("espresso", ecutwfc=400.0).density_cutoff == 8 * 400.0


def test_the_functional_is_the_files(own_upf):
    own_upf("Si", functional="PBESOL")
    assert get_engine("espresso").level.method == "PBEsol"
    own_upf("O", functional="PBE")
    with pytest.raises(ConfigurationError, match="O PBE, Si PBEsol"):
        get_engine("espresso").level  # noqa: B018
    assert get_engine("espresso", elements=["Si"], ecutwfc=400.0).level.method == "PBEsol"


def test_starting_moments():
    assert (default_moment("Fe"), default_moment("Ni"), default_moment("O")) == (4.0, 2.0, SEED_MOMENT)
    assert default_moment("Zn") == SEED_MOMENT
    oxide = bulk("NiO", "rocksalt", a=4.2) * (2, 1, 1)
    assert starting_moments(oxide, None) == [2.0, SEED_MOMENT, 2.0, SEED_MOMENT]
    assert starting_moments(oxide, {"Ni": 1.0}, order="antiferromagnetic") == [1.0, 0.0, -1.0, 0.0]
    assert starting_moments(oxide, None, order="nonmagnetic") == [0.0] * 4
    oxide.set_initial_magnetic_moments([1, 0, -1, 0])
    assert starting_moments(oxide, {"Ni": 5.0}) == [1.0, 0.0, -1.0, 0.0]
    assert spin_fractions([4.0, -4.0, 20.0], [16.0, 8.0, 10.0]) == [0.25, -0.5, 1.0]


def test_spins_of_the_input(own_upf):
    own_upf("Fe", z_valence=16.0)
    own_upf("O", z_valence=6.0)
    iron, atom, oxygen = bulk("Fe", a=2.87), Atoms("Fe"), molecule("O2")
    assert iron.get_initial_magnetic_moments().any() and oxygen.get_initial_magnetic_moments().any()

    def system(atoms: Atoms, **settings):
        return pw_setup(get_engine("espresso", **settings), atoms).namelists["system"]

    for atoms in (iron, oxygen):
        auto = pw_setup(get_engine("espresso"), atoms)
        assert not auto.polarised and not auto.structure.get_initial_magnetic_moments().any()
    assert system(atom)["tot_magnetization"] == 4
    assert "nspin" not in system(atom, spin="none") and system(atom, spin="none")["occupations"] == "smearing"
    free = pw_setup(get_engine("espresso", spin="collinear"), iron)
    assert free.polarised and "tot_magnetization" not in free.namelists["system"]
    assert free.structure.get_initial_magnetic_moments() == pytest.approx([2.3 / 16])
    assert system(atom, spin="collinear")["tot_magnetization"] == 4
    assert system(oxygen, spin="collinear")["nbnd"] == 9
    oxygen.info["spin_multiplicity"] = 1
    assert system(oxygen, spin="collinear")["tot_magnetization"] == 0
    iron.set_initial_magnetic_moments(None)
    assert not pw_setup(get_engine("espresso", spin="collinear"), iron, order="nonmagnetic").polarised
    assert system(atom, smearing_kind="cold")["smearing"] == "gaussian"
    assert system(iron, smearing_kind="fd")["smearing"] == "fd"


def test_one_grid_for_all_strained_cells():
    engine = get_engine("espresso", kpoints=[4, 4, 3])
    assert engine.level.kpoint_spacing is None and engine.level.extra["kpoints"] == "4 4 3"
    slab = bulk("Si", cubic=True)
    slab.pbc = (True, True, False)
    from atomfoundry.engines.espresso.inputs import _grid

    assert _grid(engine, bulk("Si", a=7.0)) == (4, 4, 3)
    assert _grid(engine, slab) == (4, 4, 1) and _grid(engine, molecule("H2")) == (1, 1, 1)


def test_shells_of_u():
    shells = [default_shell(s) for s in ("Ti", "Zr", "Hf", "Ce", "U", "O", "Zn", "Cd", "Si", "La")]
    assert shells == ["3d", "4d", "5d", "4f", "5f", "2p", "3d", "4d", None, "4f"]
    assert named_shells({"Ni-3d": 5, "Fe": 4, "O": 0}) == {"Fe-3d": 4.0, "Ni-3d": 5.0}


def test_both_ways_to_write_u():
    values = named_shells({"Fe": 4.25, "O-2p": 1.0})
    labels = ["Fe", "Si", "Fe1", "O"]
    system, cards = hubbard_input(values, labels, projectors="ortho-atomic", version=(7, 1))
    assert system == {} and cards == ["HUBBARD (ortho-atomic)", "U Fe-3d 4.25", "U Fe1-3d 4.25", "U O-2p 1"]
    system, cards = hubbard_input(values, labels, projectors="atomic", version=(6, 7))
    assert cards == [] and system == {
        "lda_plus_u": True,
        "U_projection_type": "atomic",
        "Hubbard_U(1)": 4.25,
        "Hubbard_U(3)": 4.25,
        "Hubbard_U(4)": 1.0,
    }
    assert hubbard_input(values, ["Si"], projectors="atomic", version=(7, 2)) == ({}, [])
    with pytest.raises(ConfigurationError, match=r"6\.7 cannot have U on Fe-4s"):
        hubbard_input({"Fe-4s": 1.0}, ["Fe"], projectors="atomic", version=(6, 7))


def test_u_needs_the_wave_functions(own_upf):
    own_upf("Fe", z_valence=16.0, orbitals=("4S",))
    engine = get_engine("espresso", hubbard_u={"Fe": 4.0})
    with pytest.raises(ConfigurationError, match=r"U on Fe-3d needs this wave function, which Fe\.upf"):
        pw_setup(engine, bulk("Fe"))
    own_upf("Fe", z_valence=16.0, orbitals=("4S", "3D"), comment="longer, so that it is read anew")
    assert pw_setup(engine, bulk("Fe")).cards == ["HUBBARD (ortho-atomic)", "U Fe-3d 4"]


def test_species_are_those_ase_writes(own_upf, tmp_path):
    from atomfoundry.engines.espresso.inputs import write_input

    for element in ("Fe", "O"):
        own_upf(element, z_valence=8.0, orbitals=("3D",))
    atoms = Atoms("FeOFeFe", positions=[[i, 0, 0] for i in range(4)], cell=[8, 8, 8], pbc=True)
    atoms.set_initial_magnetic_moments([2, 0, -2, 2])
    engine = get_engine("espresso", spin="collinear", hubbard_u={"Fe": 3.0})
    setup = pw_setup(engine, atoms, version=(7, 2))
    assert species_labels(setup.structure, polarised=True) == ["Fe", "O", "Fe1"]
    write_input(setup, tmp_path / "in")
    text = (tmp_path / "in").read_text()
    species = text.split("ATOMIC_SPECIES")[1].split("K_POINTS")[0].split("\n")
    assert [line.split()[0] for line in species if line.strip()] == ["Fe", "O", "Fe1"]
    assert "starting_magnetization(3) = -0.25" in text and text.rstrip().endswith("U Fe1-3d 3")


def test_dispersion_of_the_input(own_upf):
    own_upf("Si")
    system = pw_setup(get_engine("espresso", dispersion="D3(BJ)"), bulk("Si")).namelists["system"]
    assert (system["vdw_corr"], system["dftd3_version"], system["dftd3_threebody"]) == ("grimme-d3", 4, False)
