// pair_style foundry: a strictly local model as a LAMMPS pair style.
#ifndef LMP_PAIR_FOUNDRY_H
#define LMP_PAIR_FOUNDRY_H

#include <cstdint>
#include <string>
#include <vector>

#include "foundry_model.h"
#include "pair.h"

namespace LAMMPS_NS {

// pair_style foundry [head NAME]
// pair_coeff * * MODEL_FILE ELEMENT ...      one element, or NULL (hybrid styles), per atom type
//
// A centre's energy depends on the edges to its neighbours alone, so that one halo of the cutoff is enough:
// forces on ghosts go home by LAMMPS's own reverse communication, and nothing else is communicated.
class PairFoundry : public Pair {
 public:
  explicit PairFoundry(class LAMMPS *lmp);
  ~PairFoundry() override;

  void settings(int narg, char **arg) override;
  void coeff(int narg, char **arg) override;
  void init_style() override;
  double init_one(int i, int j) override;
  void compute(int eflag, int vflag) override;
  double memory_usage() override;

 private:
  FoundryModel *model = nullptr;
  std::string model_file, head_name;
  int head = -1;
  double cutoff = 0.0;

  // Edges within the cutoff, made anew at every step; capacity is kept.
  std::vector<int> centres, neighbours;    // local index of the centre (n), local or ghost index of the neighbour (M)
  std::vector<int64_t> first;              // n + 1
  std::vector<int32_t> centre_types, neighbour_types;
  std::vector<double> vectors, gradients, energies;

  void allocate();
  void close();
  void find_edges();
  void tally(int centre, int neighbour, const double *vector, const double *gradient);
};

}    // namespace LAMMPS_NS

#endif
