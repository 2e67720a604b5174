// What LAMMPS's `plugin load` looks for in a shared object. LAMMPS installs no header of it, so that the
// declarations of its binary interface (unchanged since 2021) are here.
#include "lammps.h"
#include "pair_foundry.h"

#ifndef FOUNDRY_LAMMPS_VERSION
#define FOUNDRY_LAMMPS_VERSION nullptr
#endif

namespace {

struct Registration {
  const char *version, *style, *name, *info, *author;
  void *(*create)(void *);
  void *handle;
};

void *create_pair(void *lmp) {
  LAMMPS_NS::Pair *pair = new LAMMPS_NS::PairFoundry(static_cast<LAMMPS_NS::LAMMPS *>(lmp));
  return pair;
}

}    // namespace

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle, void *enlist) {
  Registration pair{FOUNDRY_LAMMPS_VERSION, "pair",      "foundry", "Allegro models of Atomfoundry, pair_style foundry",
                    "Atomfoundry",          create_pair, handle};
  if (!pair.version) pair.version = static_cast<LAMMPS_NS::LAMMPS *>(lmp)->version;
  reinterpret_cast<void (*)(Registration *, void *)>(enlist)(&pair, lmp);
}
