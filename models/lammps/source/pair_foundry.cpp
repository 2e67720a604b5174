#include "pair_foundry.h"

#include <cmath>
#include <cstring>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "update.h"

namespace LAMMPS_NS {

// Two atoms nearer than this (A) are at the same place.
static constexpr double CLOSEST = 1e-6;

PairFoundry::PairFoundry(LAMMPS *lmp) : Pair(lmp) {
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  // Forces are no sums of pair forces along bonds: per-atom virials of centroid type differ, and are here.
  centroidstressflag = CENTROID_AVAIL;
}

PairFoundry::~PairFoundry() {
  close();
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
  }
}

void PairFoundry::close() {
  if (model) foundry_close(model);
  model = nullptr;
}

void PairFoundry::allocate() {
  allocated = 1;
  const int n = atom->ntypes + 1;
  memory->create(setflag, n, n, "pair:setflag");
  memory->create(cutsq, n, n, "pair:cutsq");
  map = new int[n];    // deleted by Pair
  for (int i = 0; i < n; i++) {
    map[i] = -1;
    for (int j = 0; j < n; j++) {
      setflag[i][j] = 0;
      cutsq[i][j] = 0.0;
    }
  }
}

void PairFoundry::settings(int narg, char **arg) {
  head_name.clear();
  if (narg == 0) return;
  if (narg != 2 || strcmp(arg[0], "head") != 0)
    error->all(FLERR, "pair_style foundry takes nothing or 'head NAME', not '" + std::string(arg[0]) +
                          "'. Write: pair_style foundry head ft");
  head_name = arg[1];
}

void PairFoundry::coeff(int narg, char **arg) {
  if (!allocated) allocate();
  const int ntypes = atom->ntypes;
  if (narg != 3 + ntypes || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
    error->all(FLERR, "pair_coeff of foundry takes '* * MODEL_FILE' and one element for each of the " +
                          std::to_string(ntypes) + " atom types; it got " + std::to_string(narg) +
                          " words. Write for example: pair_coeff * * model.foundry Si O");
  close();
  model_file = arg[2];
  char message[1024] = "";
  model = foundry_open(arg[2], message, sizeof(message));
  // All ranks stop together, also if only one of them cannot read the file.
  int opened = model != nullptr, all_opened = 0;
  MPI_Allreduce(&opened, &all_opened, 1, MPI_INT, MPI_MIN, world);
  if (!all_opened) {
    const std::string elsewhere = "Model file '" + model_file + "' cannot be read by another rank";
    error->all(FLERR, (opened ? elsewhere : std::string(message)) +
                          ". Give the file exported together with this plugin, by a path that every rank sees");
  }
  head = foundry_head(model, head_name.c_str());
  if (head < 0)
    error->all(FLERR, "Model file '" + model_file + "' has no head '" + head_name +
                          "'. Name one of its heads in pair_style foundry head NAME");
  cutoff = foundry_cutoff(model);

  for (int type = 1; type <= ntypes; type++) {
    const char *symbol = arg[2 + type];
    map[type] = -1;
    if (strcmp(symbol, "NULL") == 0) continue;
    map[type] = foundry_type(model, symbol);
    if (map[type] < 0)
      error->all(FLERR, "Model file '" + model_file + "' does not know the element '" + symbol + "' of atom type " +
                            std::to_string(type) + ". Use a model trained on it");
  }
  int n_pairs = 0;
  for (int i = 1; i <= ntypes; i++)
    for (int j = i; j <= ntypes; j++) {
      setflag[i][j] = map[i] >= 0 && map[j] >= 0;
      n_pairs += setflag[i][j];
    }
  if (n_pairs == 0) error->all(FLERR, "pair_coeff of foundry names no element. Name one for each atom type");
}

void PairFoundry::init_style() {
  if (!model) error->all(FLERR, "pair_style foundry has no model. Add: pair_coeff * * MODEL_FILE ELEMENT ...");
  if (strcmp(update->unit_style, "metal") != 0)
    error->all(FLERR, std::string("pair_style foundry computes in eV and A, but units are ") + update->unit_style +
                          ". Write 'units metal' at the top of the input");
  if (!force->newton_pair)
    error->all(FLERR, "pair_style foundry sends forces on ghost atoms home. Write 'newton on' before the box is made");
  // LAMMPS leaves bonded neighbours out of the list if both their factors are zero, as they are by default.
  if (atom->nbonds > 0)
    for (int k = 1; k <= 3; k++)
      if (force->special_lj[k] == 0.0 && force->special_coul[k] == 0.0)
        error->all(FLERR, "pair_style foundry needs every neighbour, but special_bonds leaves bonded ones out. "
                          "Write 'special_bonds lj/coul 1 1 1', or read the data without bonds");
  neighbor->add_request(this, NeighConst::REQ_FULL);
}

double PairFoundry::init_one(int, int) { return cutoff; }

// Fill the edges of this rank's own atoms; neighbours in the skin are left out.
void PairFoundry::find_edges() {
  const double *const *const x = atom->x;
  const int *const type = atom->type;
  const double longest = cutoff * cutoff;
  size_t capacity = 0;
  for (int ii = 0; ii < list->inum; ii++) capacity += list->numneigh[list->ilist[ii]];
  neighbours.resize(capacity);
  neighbour_types.resize(capacity);
  vectors.resize(3 * capacity);
  centres.clear();
  centre_types.clear();
  first.clear();

  size_t edge = 0;
  for (int ii = 0; ii < list->inum; ii++) {
    const int i = list->ilist[ii];
    if (map[type[i]] < 0) continue;
    centres.push_back(i);
    centre_types.push_back(map[type[i]]);
    first.push_back(static_cast<int64_t>(edge));
    const double xi = x[i][0], yi = x[i][1], zi = x[i][2];
    const int *const candidates = list->firstneigh[i];
    const int n = list->numneigh[i];
    for (int jj = 0; jj < n; jj++) {
      const int j = candidates[jj] & NEIGHMASK;
      const double dx = x[j][0] - xi, dy = x[j][1] - yi, dz = x[j][2] - zi;
      const double square = dx * dx + dy * dy + dz * dz;
      if (square >= longest || map[type[j]] < 0) continue;
      if (square < CLOSEST * CLOSEST)
        error->one(FLERR, "Atoms " + std::to_string(atom->tag[i]) + " and " + std::to_string(atom->tag[j]) +
                              " are at the same place. Remove one of them");
      neighbours[edge] = j;
      neighbour_types[edge] = map[type[j]];
      vectors[3 * edge] = dx;
      vectors[3 * edge + 1] = dy;
      vectors[3 * edge + 2] = dz;
      edge++;
    }
  }
  first.push_back(static_cast<int64_t>(edge));
  gradients.resize(3 * edge);
  energies.resize(centres.size());
}

void PairFoundry::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  find_edges();
  const int64_t n = static_cast<int64_t>(centres.size());
  foundry_evaluate(model, head, n, first.data(), centre_types.data(), neighbour_types.data(), vectors.data(),
                   energies.data(), gradients.data(), comm->nthreads);

  double *const *const f = atom->f;
  double sum = 0.0;
  for (int64_t c = 0; c < n; c++) {
    const int i = centres[c];
    const double energy = energies[c];
    if (!std::isfinite(energy))
      error->one(FLERR, "Model file '" + model_file + "' gives atom " + std::to_string(atom->tag[i]) +
                            " no finite energy at step " + std::to_string(update->ntimestep) +
                            ". Either its head has no isolated-atom energy of the element, or atoms came too close: " +
                            "use another head, or a smaller timestep");
    sum += energy;
    if (eflag_atom) eatom[i] += energy;
    double fx = 0.0, fy = 0.0, fz = 0.0;
    for (int64_t e = first[c]; e < first[c + 1]; e++) {
      const double *const g = &gradients[3 * e];
      double *const fj = f[neighbours[e]];
      fx += g[0];
      fy += g[1];
      fz += g[2];
      fj[0] -= g[0];
      fj[1] -= g[1];
      fj[2] -= g[2];
      if (vflag_either || cvflag_atom) tally(i, neighbours[e], &vectors[3 * e], g);
    }
    f[i][0] += fx;
    f[i][1] += fy;
    f[i][2] += fz;
  }
  if (eflag_global) eng_vdwl += sum;
  if (vflag_fdotr) virial_fdotr_compute();
}

// Virials of one edge: the neighbour feels -gradient at `vector` from the centre.
void PairFoundry::tally(int centre, int neighbour, const double *vector, const double *gradient) {
  double w[3][3];
  for (int a = 0; a < 3; a++)
    for (int b = 0; b < 3; b++) w[a][b] = -vector[a] * gradient[b];
  const double voigt[6] = {w[0][0], w[1][1], w[2][2], w[0][1], w[0][2], w[1][2]};
  if (vflag_global)
    for (int k = 0; k < 6; k++) virial[k] += voigt[k];
  if (vflag_atom)
    for (int k = 0; k < 6; k++) {
      vatom[centre][k] += 0.5 * voigt[k];
      vatom[neighbour][k] += 0.5 * voigt[k];
    }
  if (cvflag_atom) {
    // Position relative to the centre times force, all with the atom that feels it: what the heat flux of a
    // many-body potential needs (Phys. Rev. B 92, 094301, Eq. 20). LAMMPS's order: xx yy zz xy xz yz yx zx zy.
    const double full[9] = {w[0][0], w[1][1], w[2][2], w[0][1], w[0][2], w[1][2], w[1][0], w[2][0], w[2][1]};
    for (int k = 0; k < 9; k++) cvatom[neighbour][k] += full[k];
  }
}

double PairFoundry::memory_usage() {
  double bytes = Pair::memory_usage();
  bytes += (neighbours.capacity() + centres.capacity()) * sizeof(int) + first.capacity() * sizeof(int64_t);
  bytes += (centre_types.capacity() + neighbour_types.capacity()) * sizeof(int32_t);
  bytes += (vectors.capacity() + gradients.capacity() + energies.capacity()) * sizeof(double);
  return bytes;
}

}    // namespace LAMMPS_NS
