// The whole plugin: pair style, the model's kernel, and what LAMMPS's `plugin load` looks for in a shared object.
// LAMMPS installs no header of the latter, so that the declarations of its binary interface (unchanged since 2021)
// are here.
#include "lammps.h"
#include "pair_foundry.cpp"
//
#include "exported.cpp"

#ifndef FOUNDRY_LAMMPS_VERSION
#if __has_include("version.h")    // in LAMMPS's source, not in an installation
#include "version.h"
#define FOUNDRY_LAMMPS_VERSION LAMMPS_VERSION
#else
#define FOUNDRY_LAMMPS_VERSION nullptr
#endif
#endif

// Of LAMMPS's C interface; a LAMMPS linked without it has no address here.
extern "C" __attribute__((weak)) int lammps_extract_setting(void *lmp, const char *name);

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
  if (lammps_extract_setting && lammps_extract_setting(lmp, "tagint") != sizeof(LAMMPS_NS::tagint))
    static_cast<LAMMPS_NS::LAMMPS *>(lmp)->error->all(
        FLERR, "The plugin was compiled for atom ids of another size (LAMMPS_SMALLBIG, LAMMPS_BIGBIG). "
               "Export the model for the headers of this LAMMPS");
  if (!pair.version) pair.version = static_cast<LAMMPS_NS::LAMMPS *>(lmp)->version;
  reinterpret_cast<void (*)(Registration *, void *)>(enlist)(&pair, lmp);
}
