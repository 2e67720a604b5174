/* An exported model as the pair style sees it; what implements it is compiled together with the pair style. */
#ifndef FOUNDRY_MODEL_H
#define FOUNDRY_MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct FoundryModel FoundryModel;

/* Read an exported model; NULL, and a text of at most `size` bytes in `message`, if it cannot be. */
FoundryModel *foundry_open(const char *path, char *message, int size);
void foundry_close(FoundryModel *model);

/* Radius within which the energy of an atom depends on others, A. */
double foundry_cutoff(const FoundryModel *model);

/* Index of an element or of a readout head ("" is the default one); -1 if there is none. */
int foundry_type(const FoundryModel *model, const char *symbol);
int foundry_head(const FoundryModel *model, const char *name);

/* Energies of atoms (n, eV) and their derivatives by the edge vectors (M x 3, eV/A).
 * Edges are sorted by centre; those of centre i are first[i] .. first[i + 1] - 1. All are within the cutoff.
 * vectors: r_neighbour - r_centre, M x 3, A. */
void foundry_evaluate(const FoundryModel *model, int head, int64_t n_centres, const int64_t *first,
                      const int32_t *centre_types, const int32_t *neighbour_types, const double *vectors,
                      double *atomic_energies, double *edge_gradients, int n_threads);

#ifdef __cplusplus
}
#endif

#endif
