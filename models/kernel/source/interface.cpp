// What Python calls: a model made once, energies and gradients, gradients by weights.
#include <algorithm>
#include <string>

#include "allegro.hpp"
#include "threads.hpp"

namespace foundry {

// Consecutive atoms with about so many edges are swept together: their numbers stay in the cache.
constexpr int64_t EDGES_TOGETHER = 48;
// Gradients by weights are summed in so many parts, in a fixed order: the same bits with any number of threads.
constexpr int PARTS = 16;

static std::vector<int64_t> pieces(const Atoms& atoms) {
    std::vector<int64_t> starts{0};
    for (int64_t i = 0; i < atoms.n_centres; ++i)
        if (i > starts.back() && atoms.first[i + 1] - atoms.first[starts.back()] > EDGES_TOGETHER) starts.push_back(i);
    if (atoms.n_centres) starts.push_back(atoms.n_centres);
    return starts;
}

// work(next) takes numbers 0 .. n - 1 from `next` until there is none left, in several threads.
template <class Work>
static void in_threads(int64_t n, int n_threads, Work work) {
    std::atomic<int64_t> next{0};
    Threads::run(int(std::min<int64_t>(n_threads, n)) - 1, [&] { work(next); });
}

static void evaluate(const Model& model, const Atoms& atoms, const Wanted& wanted, int n_threads) {
    const auto starts = pieces(atoms);
    const int64_t n = int64_t(starts.size()) - 1;
    if (wanted.features) std::fill_n(wanted.features, atoms.n_centres * WIDTH, 0.0);
    const int64_t stride = 2;
    in_threads((n + stride - 1) / stride, n_threads, [&](std::atomic<int64_t>& next) {
        thread_local Memory memory;
        Sweep<false> sweep(model, atoms, wanted, memory);
        for (int64_t group; (group = next++) * stride < n;)
            for (int64_t p = group * stride; p < std::min(n, (group + 1) * stride); ++p)
                sweep.run(starts[size_t(p)], starts[size_t(p) + 1]);
    });
}

static void differentiate(const Model& model, const Atoms& atoms, const Wanted& wanted, int n_threads) {
    const auto starts = pieces(atoms);
    const int64_t n = int64_t(starts.size()) - 1;
    const int64_t parts = std::min<int64_t>(PARTS, n);
    // Kept from call to call: memory that is fresh from the system costs more than the sums.
    thread_local std::vector<T> memory_of_sums;
    memory_of_sums.assign(size_t(parts * model.size), T(0));
    T* const sums = memory_of_sums.data();
    in_threads(parts, n_threads, [&](std::atomic<int64_t>& next) {
        thread_local Memory memory;
        for (int64_t part; (part = next++) < parts;) {
            Wanted mine = wanted;
            mine.weights = sums + part * model.size;
            Sweep<true> sweep(model, atoms, mine, memory);
            for (int64_t p = part * n / parts; p < (part + 1) * n / parts; ++p)
                sweep.run(starts[size_t(p)], starts[size_t(p) + 1]);
        }
    });
    std::fill_n(wanted.weights, model.size, T(0));
    for (int64_t part = 0; part < parts; ++part)
        for (int64_t k = 0; k < model.size; ++k) wanted.weights[k] += sums[part * model.size + k];
}

}  // namespace foundry

using foundry::Atoms;
using foundry::Model;
using foundry::Wanted;

extern "C" {

int64_t foundry_kernel_size(int n_types, int n_heads) {
    std::vector<double> radii(static_cast<size_t>(n_types), 1.0);
    return Model(n_types, n_heads, 1.0, radii.data()).size;
}

void* foundry_kernel_new(int n_types, int n_heads, double cutoff, const double* radii, const void* weights) {
    auto* model = new Model(n_types, n_heads, cutoff, radii);
    model->set(static_cast<const T*>(weights));
    return model;
}

void foundry_kernel_free(void* model) { delete static_cast<Model*>(model); }

// 0, or 1 if memory ran out.
int foundry_kernel_evaluate(const void* model, int64_t n_centres, const int64_t* first, const int32_t* centre_types,
                            const int32_t* neighbour_types, const int32_t* heads, const double* scales,
                            const double* vectors, double* energies, double* gradients, double* features, void* latents,
                            int n_threads) {
    Atoms atoms{n_centres, first, centre_types, neighbour_types, heads, scales, vectors};
    Wanted wanted;
    wanted.energies = energies;
    wanted.gradients = gradients;
    wanted.features = features;
    wanted.latents = static_cast<T*>(latents);
    try {
        foundry::evaluate(*static_cast<const Model*>(model), atoms, wanted, n_threads);
    } catch (const std::exception&) {
        return 1;
    }
    return 0;
}

int foundry_kernel_differentiate(const void* model, int64_t n_centres, const int64_t* first, const int32_t* centre_types,
                                 const int32_t* neighbour_types, const int32_t* heads, const double* scales,
                                 const double* vectors, const double* tangents, const double* seeds, void* weights,
                                 int n_threads) {
    Atoms atoms{n_centres, first, centre_types, neighbour_types, heads, scales, vectors};
    Wanted wanted;
    wanted.tangents = tangents;
    wanted.seeds = seeds;
    wanted.weights = static_cast<T*>(weights);
    try {
        foundry::differentiate(*static_cast<const Model*>(model), atoms, wanted, n_threads);
    } catch (const std::exception&) {
        return 1;
    }
    return 0;
}
}
