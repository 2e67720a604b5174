// The weights of a model in the order that Python writes them, packed for products in both directions.
#pragma once
#include "matrices.hpp"

namespace foundry {

constexpr int WIDTH = LATENT_DIMS[0];
constexpr int TRACK = DEGREES * CHANNELS;          // weights of an edge's tensor, or of its environment
constexpr int N_TWO_BODY = int(sizeof(TWO_BODY_DIMS) / sizeof(int)) - 1;
constexpr int N_LATENT = int(sizeof(LATENT_DIMS) / sizeof(int)) - 1;
constexpr int64_t WIDTH_LD = padded(WIDTH), CHANNELS_LD = padded(CHANNELS);
constexpr int64_t JOINT_LD = WIDTH_LD + CHANNELS_LD;  // latents, then scalars: what a latent perceptron takes

// A matrix of the model: where its weights lie among all, and both packings.
struct Matrix {
    int64_t offset = 0;
    int inner = 0, outer = 0;
    Packed forward, backward;
};

class Model {
  public:
    int n_types = 0, n_heads = 0;
    double cutoff = 0;
    std::vector<T> weights;
    std::vector<T> radii;  // of the types, A; for the distance transform
    int64_t frequencies = 0, scalars = 0, terms = 0, triples = 0, centre = 0, neighbour = 0, heads = 0, size = 0;
    Matrix mixing, two_body[N_TWO_BODY], environment[N_LAYERS], latent[N_LAYERS][N_LATENT];

    Model(int n_types_, int n_heads_, double cutoff_, const double* radii_)
        : n_types(n_types_), n_heads(n_heads_), cutoff(cutoff_) {
        for (int i = 0; i < n_types; ++i) radii.push_back(T(radii_[i]));
        frequencies = next(BASIS);
        place(mixing, BASIS, TWO_BODY_DIMS[0]);
        for (int i = 0; i < N_TWO_BODY; ++i) place(two_body[i], TWO_BODY_DIMS[i], TWO_BODY_DIMS[i + 1]);
        for (int layer = 0; layer < N_LAYERS; ++layer) place(environment[layer], WIDTH, layer ? TRACK : 2 * TRACK);
        for (int layer = 0; layer < N_LAYERS; ++layer)
            for (int i = 0; i < N_LATENT; ++i)
                place(latent[layer][i], LATENT_DIMS[i] + (i ? 0 : CHANNELS), LATENT_DIMS[i + 1]);
        scalars = next(DEGREES);
        terms = next(N_TERMS);
        triples = next(N_TRIPLES);
        centre = next(int64_t(n_types) * TWO_BODY_DIMS[0] / 2);
        neighbour = next(int64_t(n_types) * TWO_BODY_DIMS[0] / 2);
        heads = next(int64_t(n_heads) * WIDTH);
    }

    void set(const T* values) {
        weights.assign(values, values + size);
        pack(mixing, BASIS);
        for (auto& matrix : two_body) pack(matrix, matrix.inner);
        for (auto& matrix : environment) pack(matrix, matrix.inner);
        for (auto& layer : latent)
            for (int i = 0; i < N_LATENT; ++i) pack(layer[i], i ? layer[i].inner : WIDTH);
    }

    const T* at(int64_t offset) const { return weights.data() + offset; }

  private:
    int64_t next(int64_t n) {
        const int64_t offset = size;
        size += n;
        return offset;
    }
    void place(Matrix& matrix, int inner, int outer) {
        matrix.offset = next(int64_t(inner) * outer);
        matrix.inner = inner;
        matrix.outer = outer;
    }
    // Rows from `split` on stand behind the padding of those before.
    void pack(Matrix& matrix, int split) {
        const int64_t behind = matrix.inner > split ? padded(split) : 0;
        const int64_t rows = behind ? behind + matrix.inner - split : matrix.inner;
        matrix.forward.reserve(rows, matrix.outer);
        matrix.backward.reserve(matrix.outer, rows);
        const T* from = at(matrix.offset);
        for (int i = 0; i < matrix.inner; ++i) {
            const int64_t row = i < split ? i : behind + i - split;
            for (int o = 0; o < matrix.outer; ++o) {
                const T w = from[int64_t(i) * matrix.outer + o];
                matrix.forward.at(row, o) = w;
                matrix.backward.at(o, row) = w;
            }
        }
    }
};

}  // namespace foundry
