// Energies of a few atoms' edges, their gradients by the edge vectors, and the tangents of their gradients by weights.
//
// With D = false a sweep forward and one back give energies and dE/dr. With D = true every number carries its tangent in
// the direction of given edge vectors; the tangents of what the sweep back finds for the weights are what training needs.
#pragma once
#include "activation.hpp"
#include "track.hpp"

namespace foundry {

struct Atoms {
    int64_t n_centres = 0;
    const int64_t* first = nullptr;           // edges of centre i: first[i] .. first[i + 1] - 1
    const int32_t* centre_types = nullptr;    // (n_centres)
    const int32_t* neighbour_types = nullptr; // (M)
    const int32_t* heads = nullptr;           // (n_centres), or null: head 0
    const double* scales = nullptr;           // (n_centres) eV; factor of the edge energies
    const double* vectors = nullptr;          // (M, 3) A
};

struct Wanted {
    double* energies = nullptr;   // (M) unscaled edge energies
    double* gradients = nullptr;  // (M, 3) d(sum of scaled energies)/dr, or null
    double* features = nullptr;   // (n_centres, WIDTH) sums of latents, or null
    T* latents = nullptr;         // (M, WIDTH), or null
    const double* tangents = nullptr;  // (M, 3), with D
    const double* seeds = nullptr;     // (M) tangents of the edge energies' adjoints, with D
    T* weights = nullptr;              // (Model::size) to add to, with D
};

constexpr int TENSOR = 0, ENVIRONMENT = TRACK;  // where they lie among the first layer's weights of an edge
constexpr int64_t TRACK_LD = padded(TRACK), BOTH_LD = padded(2 * TRACK), BASIS_LD = padded(BASIS);
constexpr T OLD[2] = {T(0.70710678118654752440), T(0.81649658092772603273)};  // sqrt(1/2), sqrt(2/3)

template <bool D>
class Sweep {
  public:
    using N = Number<D>;
    Sweep(const Model& model, const Atoms& atoms, const Wanted& wanted, Memory& memory)
        : model(model), atoms(atoms), wanted(wanted), memory(memory) {}

    void run(int64_t from, int64_t to) {
        begin = from;
        end = to;
        start = atoms.first[from];
        edges = atoms.first[to] - start;
        if (!edges) return;
        memory.begin();
        embed();
        perceive(model.two_body, N_TWO_BODY, embedded, two_body, joint[0]);
        first_layer();
        perceive_residual(0);
        if constexpr (N_LAYERS == 2) {
            second_layer();
            perceive_residual(1);
        }
        read_out();
        if (!D && !wanted.gradients) {
            memory.end();
            return;
        }
        Rows adjoint = rows(WIDTH_LD);
        back_from_energies(adjoint);
        fields_adjoint[0] = field();
        fields_adjoint[1] = field();
        both_adjoint = cleared(BOTH_LD);
        others_adjoint = cleared(TRACK_LD);
        if constexpr (!D) {
            harmonics_adjoint_ = memory.take(edges * COMPONENTS);
            std::fill_n(harmonics_adjoint_, edges * COMPONENTS, T(0));
        }
        if constexpr (N_LAYERS == 2) {
            Rows before = back_residual(1, adjoint);
            back_second_layer(before);
            adjoint = before;
        }
        Rows before = back_residual(0, adjoint);
        back_first_layer(before);
        Rows at_embedding = perceive_back(model.two_body, N_TWO_BODY, embedded, two_body, before, 0);
        back_embedding(at_embedding);
        memory.end();
    }

  private:
    struct Hidden {
        Rows active, slope, bend;
    };

    Rows rows(int64_t ld) {
        Rows made;
        made.rows = edges;
        made.ld = ld;
        made.data = memory.take((D ? 2 : 1) * edges * ld);
        return made;
    }
    Rows cleared(int64_t ld) {
        Rows made = rows(ld);
        std::memset(made.data, 0, sizeof(T) * size_t((D ? 2 : 1) * edges * ld));
        return made;
    }
    Rows values(int64_t ld) {
        Rows made;
        made.rows = edges;
        made.ld = ld;
        made.data = memory.take(edges * ld);
        return made;
    }
    // Fields of all centres, cleared.
    Field field() {
        const int64_t size = (end - begin) * field_size<D>();
        Field made{memory.take(size)};
        std::memset(made.data, 0, sizeof(T) * size_t(size));
        return made;
    }
    Field of(const Field& fields, int64_t centre) const { return {fields.data + (centre - begin) * field_size<D>()}; }
    int64_t planes() const { return D ? 2 * edges : edges; }
    T* tangent(const Rows& r, int64_t e) const { return D ? r.t(e) : nullptr; }
    template <class Work>
    void each_edge(Work work) const {
        for (int64_t i = begin; i < end; ++i)
            for (int64_t e = atoms.first[i]; e < atoms.first[i + 1]; ++e) work(i, e - start);
    }

    // ---------------------------------------------------------------------------------------- forward

    void embed() {
        y = reinterpret_cast<N*>(memory.take(edges * COMPONENTS * (D ? 2 : 1)));
        unit = memory.take(edges * 3);
        distance = memory.take(edges);
        basis = cleared(BASIS_LD);
        slopes = reinterpret_cast<N*>(memory.take(edges * BASIS * (D ? 2 : 1)));
        each_edge([&](int64_t i, int64_t e) {
            N r[3], by_distance[BASIS], by_frequency[BASIS], functions[BASIS];
            for (int a = 0; a < 3; ++a) {
                const T component = T(atoms.vectors[3 * (start + e) + a]);
                if constexpr (D)
                    r[a] = Dual(component, T(wanted.tangents[3 * (start + e) + a]));
                else
                    r[a] = component;
            }
            const N d = root(r[0] * r[0] + r[1] * r[1] + r[2] * r[2]);
            const N inverse = N(T(1)) / d;
            const N x = r[0] * inverse, yy = r[1] * inverse, z = r[2] * inverse;
            harmonics(x, yy, z, y + e * COMPONENTS);
            unit[3 * e] = value(x);
            unit[3 * e + 1] = value(yy);
            unit[3 * e + 2] = value(z);
            distance[e] = value(d);
            T r0 = 1;
            if constexpr (AGNESI)
                r0 = (model.radii[size_t(atoms.centre_types[i])] +
                      model.radii[size_t(atoms.neighbour_types[start + e])]) / 2;
            radial(d, r0, model.cutoff, model.at(model.frequencies), functions, by_distance, by_frequency);
            for (int n = 0; n < BASIS; ++n) {
                basis.v(e)[n] = value(functions[n]);
                if constexpr (D) {
                    basis.t(e)[n] = functions[n].t;
                    slopes[e * BASIS + n] = by_frequency[n];
                } else {
                    slopes[e * BASIS + n] = by_distance[n];
                }
            }
        });
        mixed = rows(model.mixing.forward.panels * PANEL);
        multiply<false>(planes(), basis.data, basis.ld, model.mixing.forward, mixed.data, mixed.ld);
        embedded = cleared(mixed.ld);
        each_edge([&](int64_t i, int64_t e) {
            const T *c = chemistry(model.centre, atoms.centre_types[i]);
            const T *n = chemistry(model.neighbour, atoms.neighbour_types[start + e]);
            for (int half = 0; half < 2; ++half) {
                const T* p = half ? n : c;
                const int at = half * HALF;
                for (int k = 0; k < HALF; ++k) embedded.v(e)[at + k] = p[k] * mixed.v(e)[at + k];
                if constexpr (D)
                    for (int k = 0; k < HALF; ++k) embedded.t(e)[at + k] = p[k] * mixed.t(e)[at + k];
            }
        });
        for (int layer = 0; layer < N_LAYERS; ++layer) joint[layer] = rows(JOINT_LD);
        latents = rows(WIDTH_LD);
    }

    static constexpr int HALF = TWO_BODY_DIMS[0] / 2;
    const T* chemistry(int64_t table, int32_t type) const { return model.at(table) + int64_t(type) * HALF; }

    // All matrices of a perceptron with SiLU between them; what it gives goes into (or, ADD, onto) the first columns.
    void perceive(const Matrix* matrices, int n, const Rows& input, Hidden* hidden, const Rows& result, bool add = false) {
        Rows in = input;
        for (int i = 0; i < n; ++i) {
            const bool last = i == n - 1;
            Rows out = last ? result : rows(matrices[i].forward.panels * PANEL);
            if (last && add)
                multiply<true>(planes(), in.data, in.ld, matrices[i].forward, out.data, out.ld);
            else
                multiply<false>(planes(), in.data, in.ld, matrices[i].forward, out.data, out.ld);
            if (last) break;
            hidden[i].active = out;
            hidden[i].slope = values(out.ld);
            if constexpr (D) hidden[i].bend = values(out.ld);
            activate<D>(out, hidden[i].slope, hidden[i].bend);
            in = out;
        }
    }

    // x_new = old x + MLP([x, scalars]); the gain is in the last matrix.
    void perceive_residual(int layer) {
        const Rows out = layer + 1 < N_LAYERS ? joint[layer + 1] : latents;
        for (int64_t row = 0; row < planes(); ++row) {
            const T* __restrict from = joint[layer].data + row * JOINT_LD;
            T* __restrict to = out.data + row * out.ld;
            for (int k = 0; k < WIDTH_LD; ++k) to[k] = OLD[layer] * from[k];
        }
        perceive(model.latent[layer], N_LATENT, joint[layer], hidden[layer], out, true);
    }

    void first_layer() {
        both = rows(BOTH_LD);
        multiply<false>(planes(), joint[0].data, JOINT_LD, model.environment[0].forward, both.data, both.ld);
        fields[0] = field();
        each_edge([&](int64_t i, int64_t e) {
            add_to_field<D>(of(fields[0], i), y + e * COMPONENTS, both.v(e) + ENVIRONMENT,
                            D ? both.t(e) + ENVIRONMENT : nullptr);
        });
        others = cleared(TRACK_LD);
        const T* factor = model.at(model.scalars);
        each_edge([&](int64_t i, int64_t e) {
            T *ov = others.v(e), *ot = tangent(others, e);
            read_field<D>(of(fields[0], i), y + e * COMPONENTS, ov, ot);
            const T *bv = both.v(e), *bt = tangent(both, e);
            T *qv = joint[0].v(e) + WIDTH_LD, *qt = D ? joint[0].t(e) + WIDTH_LD : nullptr;
            for (int c = 0; c < CHANNELS; ++c) qv[c] = 0;
            if constexpr (D)
                for (int c = 0; c < CHANNELS; ++c) qt[c] = 0;
            for (int l = 0; l < DEGREES; ++l) {
                const T many = T(2 * l + 1), f = factor[l];
                const int at = l * CHANNELS;
                CHANNEL_LOOP {
                    const T o = ov[at + c] - many * bv[ENVIRONMENT + at + c];
                    ov[at + c] = o;
                    qv[c] += f * bv[at + c] * o;
                }
                if constexpr (D) CHANNEL_LOOP {
                    const T o = ot[at + c] - many * bt[ENVIRONMENT + at + c];
                    ot[at + c] = o;
                    qt[c] += f * (bt[at + c] * ov[at + c] + bv[at + c] * o);
                }
            }
        });
    }

    // q = sum over l of w_V joint - own later / (2 l + 1) - other w, with
    // joint = Y . (W S S'), later = Y . S', own = w_V (x) w_E and other = w_V (x) (others / (2 l + 1)), parallel.
    void second_layer() {
        const T* terms = model.at(model.terms);
        const T* factors = model.at(model.triples);
        weights1 = rows(TRACK_LD);
        multiply<false>(planes(), joint[1].data, JOINT_LD, model.environment[1].forward, weights1.data, weights1.ld);
        fields[1] = field();
        fields[2] = field();
        each_edge([&](int64_t i, int64_t e) {
            add_to_field<D>(of(fields[1], i), y + e * COMPONENTS, weights1.v(e), tangent(weights1, e));
        });
        for (int64_t i = begin; i < end; ++i)
            contract<D, 0>(terms, of(fields[0], i), of(fields[1], i), of(fields[2], i));
        together = cleared(TRACK_LD);
        later = cleared(TRACK_LD);
        own = cleared(TRACK_LD);
        other = cleared(TRACK_LD);
        each_edge([&](int64_t i, int64_t e) {
            const N* ye = y + e * COMPONENTS;
            read_field<D>(of(fields[2], i), ye, together.v(e), tangent(together, e));
            read_field<D>(of(fields[1], i), ye, later.v(e), tangent(later, e));
            const T *bv = both.v(e), *bt = tangent(both, e);
            couple<D, 0>(factors, bv, bt, bv + ENVIRONMENT, D ? bt + ENVIRONMENT : nullptr, own.v(e), tangent(own, e), false);
            T scaled[2 * TRACK];
            scale_others(e, scaled);
            couple<D, 0>(factors, bv, bt, scaled, scaled + TRACK, other.v(e), tangent(other, e), false);
            T *qv = joint[1].v(e) + WIDTH_LD, *qt = D ? joint[1].t(e) + WIDTH_LD : nullptr;
            for (int c = 0; c < CHANNELS; ++c) qv[c] = 0;
            if constexpr (D)
                for (int c = 0; c < CHANNELS; ++c) qt[c] = 0;
            const T *jv = together.v(e), *lv = later.v(e), *nv = own.v(e), *xv = other.v(e), *wv = weights1.v(e);
            for (int l = 0; l < DEGREES; ++l) {
                const T part = 1 / T(2 * l + 1);
                const int at = l * CHANNELS;
                CHANNEL_LOOP {
                    const int k = at + c;
                    qv[c] += bv[k] * jv[k] - part * nv[k] * lv[k] - xv[k] * wv[k];
                }
                if constexpr (D) {
                    const T *jt = together.t(e), *lt = later.t(e), *nt = own.t(e), *xt = other.t(e), *wt = weights1.t(e);
                    CHANNEL_LOOP {
                        const int k = at + c;
                        qt[c] += bt[k] * jv[k] + bv[k] * jt[k] - part * (nt[k] * lv[k] + nv[k] * lt[k]) -
                                 (xt[k] * wv[k] + xv[k] * wt[k]);
                    }
                }
            }
        });
    }

    void scale_others(int64_t e, T* scaled) const {
        for (int l = 0; l < DEGREES; ++l)
            for (int c = 0; c < CHANNELS; ++c) {
                const int k = l * CHANNELS + c;
                scaled[k] = others.v(e)[k] / T(2 * l + 1);
                if constexpr (D) scaled[TRACK + k] = others.t(e)[k] / T(2 * l + 1);
            }
    }

    const T* head_of(int64_t i) const {
        return model.at(model.heads) + (atoms.heads ? int64_t(atoms.heads[i]) * WIDTH : 0);
    }

    void read_out() {
        if constexpr (!D) {
            each_edge([&](int64_t i, int64_t e) {
                const T *x = latents.v(e), *w = head_of(i);
                T sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int k = 0; k < WIDTH; ++k) sum += x[k] * w[k];
                wanted.energies[start + e] = sum;
                if (wanted.features)
                    for (int k = 0; k < WIDTH; ++k) wanted.features[i * WIDTH + k] += x[k];
                if (wanted.latents) std::memcpy(wanted.latents + (start + e) * WIDTH, x, sizeof(T) * WIDTH);
            });
        }
    }

    // ---------------------------------------------------------------------------------------- back

    void back_from_energies(const Rows& adjoint) {
        each_edge([&](int64_t i, int64_t e) {
            const T* w = head_of(i);
            const T s = T(atoms.scales[i]);
            T* av = adjoint.v(e);
            for (int k = 0; k < WIDTH; ++k) av[k] = s * w[k];
            for (int k = WIDTH; k < WIDTH_LD; ++k) av[k] = 0;
            if constexpr (D) {
                const T seed = T(wanted.seeds[start + e]);
                T* at = adjoint.t(e);
                for (int k = 0; k < WIDTH; ++k) at[k] = seed * w[k];
                for (int k = WIDTH; k < WIDTH_LD; ++k) at[k] = 0;
                T* out = wanted.weights + (w - model.at(0));
                const T *xv = latents.v(e), *xt = latents.t(e);
                for (int k = 0; k < WIDTH; ++k) out[k] += s * xt[k] + seed * xv[k];
            }
        });
    }

    // Adjoint of what a perceptron took (all columns of its padded input) from that of what it gave.
    Rows perceive_back(const Matrix* matrices, int n, const Rows& input, Hidden* hidden, Rows adjoint, int split) {
        for (int i = n - 1; i >= 0; --i) {
            const Rows& in = i ? hidden[i - 1].active : input;
            const Matrix& matrix = matrices[i];
            if constexpr (D) {
                T* gradient = wanted.weights + matrix.offset;
                if (i == 0 && split) {  // latents, then scalars behind their padding
                    add_outer_tangent(in, 0, split, adjoint, matrix.outer, gradient);
                    add_outer_tangent(in, padded(split), matrix.inner - split, adjoint, matrix.outer,
                                      gradient + int64_t(split) * matrix.outer);
                } else {
                    add_outer_tangent(in, 0, matrix.inner, adjoint, matrix.outer, gradient);
                }
            }
            Rows before = rows(matrix.backward.panels * PANEL);
            multiply<false>(planes(), adjoint.data, adjoint.ld, matrix.backward, before.data, before.ld);
            if (i) turn_back<D>(before, hidden[i - 1].slope, hidden[i - 1].bend);
            adjoint = before;
        }
        return adjoint;
    }

    // Adjoint of [x, scalars] from that of old x + MLP([x, scalars]).
    Rows back_residual(int layer, const Rows& adjoint) {
        Rows before = perceive_back(model.latent[layer], N_LATENT, joint[layer], hidden[layer], adjoint, WIDTH);
        for (int64_t row = 0; row < planes(); ++row) {
            const T* __restrict from = adjoint.data + row * adjoint.ld;
            T* __restrict to = before.data + row * before.ld;
            for (int k = 0; k < WIDTH_LD; ++k) to[k] += OLD[layer] * from[k];
        }
        return before;
    }

    // Onto the adjoint of the latents that made weights by a matrix, and onto the matrix.
    void back_weights(const Matrix& matrix, const Rows& took, const Rows& adjoint, const Rows& before) {
        if constexpr (D) add_outer_tangent(took, 0, WIDTH, adjoint, matrix.outer, wanted.weights + matrix.offset);
        multiply<true>(planes(), adjoint.data, adjoint.ld, matrix.backward, before.data, before.ld);
    }

    void back_second_layer(const Rows& before) {
        const T* terms = model.at(model.terms);
        const T* factors = model.at(model.triples);
        Rows weights_adjoint = cleared(TRACK_LD);
        Field together_adjoint = field();
        each_edge([&](int64_t i, int64_t e) {
            const T *gv = before.v(e) + WIDTH_LD, *gt = D ? before.t(e) + WIDTH_LD : nullptr;
            const T *bv = both.v(e), *bt = tangent(both, e);
            T *av = both_adjoint.v(e), *at = tangent(both_adjoint, e);
            T *wa = weights_adjoint.v(e), *wat = tangent(weights_adjoint, e);
            T product[2 * TRACK], by_later[2 * TRACK], by_own[2 * TRACK], by_other[2 * TRACK];
            const T *jv = together.v(e), *lv = later.v(e), *nv = own.v(e), *xv = other.v(e), *wv = weights1.v(e);
            for (int l = 0; l < DEGREES; ++l) {
                const T part = 1 / T(2 * l + 1);
                const int from = l * CHANNELS;
                CHANNEL_LOOP {
                    const int k = from + c;
                    const T g = gv[c];
                    av[k] += g * jv[k];
                    product[k] = g * bv[k];
                    by_later[k] = -part * g * nv[k];
                    by_own[k] = -part * g * lv[k];
                    by_other[k] = -g * wv[k];
                    wa[k] -= g * xv[k];
                }
                if constexpr (D) {
                    const T *jt = together.t(e), *lt = later.t(e), *nt = own.t(e), *xt = other.t(e), *wt = weights1.t(e);
                    CHANNEL_LOOP {
                        const int k = from + c;
                        const T g = gv[c], h = gt[c];
                        at[k] += g * jt[k] + h * jv[k];
                        product[TRACK + k] = g * bt[k] + h * bv[k];
                        by_later[TRACK + k] = -part * (g * nt[k] + h * nv[k]);
                        by_own[TRACK + k] = -part * (g * lt[k] + h * lv[k]);
                        by_other[TRACK + k] = -(g * wt[k] + h * wv[k]);
                        wat[k] -= g * xt[k] + h * xv[k];
                    }
                }
            }
            const N* ye = y + e * COMPONENTS;
            add_to_field<D>(of(together_adjoint, i), ye, product, product + TRACK);
            add_to_field<D>(of(fields_adjoint[1], i), ye, by_later, by_later + TRACK);
            if constexpr (!D) {
                harmonics_from(of(fields[2], i), product, harmonics_adjoint_ + e * COMPONENTS);
                harmonics_from(of(fields[1], i), by_later, harmonics_adjoint_ + e * COMPONENTS);
            }
            // own = tensor (x) environment
            couple<D, 1>(factors, by_own, by_own + TRACK, bv + ENVIRONMENT, D ? bt + ENVIRONMENT : nullptr, av, at, false);
            couple<D, 2>(factors, by_own, by_own + TRACK, bv, bt, av + ENVIRONMENT, D ? at + ENVIRONMENT : nullptr, false);
            // other = tensor (x) others / (2 l + 1)
            T scaled[2 * TRACK], scaled_adjoint[2 * TRACK] = {};
            scale_others(e, scaled);
            couple<D, 1>(factors, by_other, by_other + TRACK, scaled, scaled + TRACK, av, at, false);
            couple<D, 2>(factors, by_other, by_other + TRACK, bv, bt, scaled_adjoint, scaled_adjoint + TRACK, false);
            T *oa = others_adjoint.v(e), *oat = tangent(others_adjoint, e);
            for (int l = 0; l < DEGREES; ++l)
                for (int c = 0; c < CHANNELS; ++c) {
                    const int k = l * CHANNELS + c;
                    oa[k] += scaled_adjoint[k] / T(2 * l + 1);
                    if constexpr (D) oat[k] += scaled_adjoint[TRACK + k] / T(2 * l + 1);
                }
            if constexpr (D) {
                T* gradient = wanted.weights + model.triples;
                couple_factors(by_own, by_own + TRACK, bv, bt, bv + ENVIRONMENT, bt + ENVIRONMENT, gradient);
                couple_factors(by_other, by_other + TRACK, bv, bt, scaled, scaled + TRACK, gradient);
            }
        });
        for (int64_t i = begin; i < end; ++i) {
            contract<D, 1>(terms, of(together_adjoint, i), of(fields[1], i), of(fields_adjoint[0], i));
            contract<D, 2>(terms, of(together_adjoint, i), of(fields[0], i), of(fields_adjoint[1], i));
            if constexpr (D)
                contract_weights(of(together_adjoint, i), of(fields[0], i), of(fields[1], i), wanted.weights + model.terms);
        }
        each_edge([&](int64_t i, int64_t e) {
            read_field<D>(of(fields_adjoint[1], i), y + e * COMPONENTS, weights_adjoint.v(e), tangent(weights_adjoint, e));
            if constexpr (!D)
                harmonics_from(of(fields_adjoint[1], i), weights1.v(e), harmonics_adjoint_ + e * COMPONENTS);
        });
        back_weights(model.environment[1], joint[1], weights_adjoint, before);
    }

    void back_first_layer(const Rows& before) {
        const T* factor = model.at(model.scalars);
        each_edge([&](int64_t i, int64_t e) {
            const T *gv = before.v(e) + WIDTH_LD, *gt = D ? before.t(e) + WIDTH_LD : nullptr;
            const T *bv = both.v(e), *bt = tangent(both, e), *ov = others.v(e), *ot = tangent(others, e);
            T *av = both_adjoint.v(e), *at = tangent(both_adjoint, e);
            T *oa = others_adjoint.v(e), *oat = tangent(others_adjoint, e);
            for (int l = 0; l < DEGREES; ++l) {
                const T f = factor[l], many = T(2 * l + 1);
                const int from = l * CHANNELS;
                CHANNEL_LOOP {
                    const int k = from + c;
                    const T g = gv[c];
                    av[k] += f * g * ov[k];
                    oa[k] += f * g * bv[k];
                    av[ENVIRONMENT + k] -= many * oa[k];
                }
                if constexpr (D) {
                    T sum = 0;
                    CHANNEL_LOOP {
                        const int k = from + c;
                        const T g = gv[c], h = gt[c];
                        at[k] += f * (g * ot[k] + h * ov[k]);
                        oat[k] += f * (g * bt[k] + h * bv[k]);
                        at[ENVIRONMENT + k] -= many * oat[k];
                    }
#pragma omp simd reduction(+ : sum)
                    for (int c = 0; c < CHANNELS; ++c) {
                        const int k = from + c;
                        sum += gt[c] * bv[k] * ov[k] + gv[c] * (bt[k] * ov[k] + bv[k] * ot[k]);
                    }
                    wanted.weights[model.scalars + l] += sum;
                }
            }
            add_to_field<D>(of(fields_adjoint[0], i), y + e * COMPONENTS, oa, oat);
            if constexpr (!D) harmonics_from(of(fields[0], i), oa, harmonics_adjoint_ + e * COMPONENTS);
        });
        each_edge([&](int64_t i, int64_t e) {
            read_field<D>(of(fields_adjoint[0], i), y + e * COMPONENTS, both_adjoint.v(e) + ENVIRONMENT,
                          D ? both_adjoint.t(e) + ENVIRONMENT : nullptr);
            if constexpr (!D)
                harmonics_from(of(fields_adjoint[0], i), both.v(e) + ENVIRONMENT, harmonics_adjoint_ + e * COMPONENTS);
        });
        back_weights(model.environment[0], joint[0], both_adjoint, before);
    }

    void back_embedding(const Rows& adjoint) {
        Rows by_mixed = cleared(adjoint.ld);
        each_edge([&](int64_t i, int64_t e) {
            for (int half = 0; half < 2; ++half) {
                const int32_t type = half ? atoms.neighbour_types[start + e] : atoms.centre_types[i];
                const int64_t table = half ? model.neighbour : model.centre;
                const T* p = chemistry(table, type);
                const int at = half * HALF;
                const T *zv = adjoint.v(e) + at, *mv = mixed.v(e) + at;
                for (int k = 0; k < HALF; ++k) by_mixed.v(e)[at + k] = p[k] * zv[k];
                if constexpr (D) {
                    const T *zt = adjoint.t(e) + at, *mt = mixed.t(e) + at;
                    T* out = wanted.weights + table + int64_t(type) * HALF;
                    for (int k = 0; k < HALF; ++k) {
                        by_mixed.t(e)[at + k] = p[k] * zt[k];
                        out[k] += zt[k] * mv[k] + zv[k] * mt[k];
                    }
                }
            }
        });
        if constexpr (D)
            add_outer_tangent(basis, 0, BASIS, by_mixed, model.mixing.outer, wanted.weights + model.mixing.offset);
        Rows by_basis = rows(model.mixing.backward.panels * PANEL);
        multiply<false>(planes(), by_mixed.data, by_mixed.ld, model.mixing.backward, by_basis.data, by_basis.ld);
        if constexpr (D) {
            T* out = wanted.weights + model.frequencies;
            for (int64_t e = 0; e < edges; ++e)
                for (int n = 0; n < BASIS; ++n) {
                    const Dual s = slopes[e * BASIS + n];
                    out[n] += by_basis.t(e)[n] * s.v + by_basis.v(e)[n] * s.t;
                }
        } else {
            for (int64_t e = 0; e < edges; ++e) {
                T along = 0, by_unit[3];
                for (int n = 0; n < BASIS; ++n) along += by_basis.v(e)[n] * slopes[e * BASIS + n];
                const T* u = unit + 3 * e;
                harmonics_adjoint(u[0], u[1], u[2], harmonics_adjoint_ + e * COMPONENTS, by_unit);
                const T radial_part = u[0] * by_unit[0] + u[1] * by_unit[1] + u[2] * by_unit[2];
                for (int a = 0; a < 3; ++a)
                    wanted.gradients[3 * (start + e) + a] = (by_unit[a] - u[a] * radial_part) / distance[e] + along * u[a];
            }
        }
    }

    const Model& model;
    const Atoms& atoms;
    const Wanted& wanted;
    Memory& memory;
    int64_t begin = 0, end = 0, start = 0, edges = 0;
    N* y = nullptr;       // (edges, COMPONENTS)
    N* slopes = nullptr;  // (edges, BASIS): dR/dr, or with tangents dR/dfrequency
    T *unit = nullptr, *distance = nullptr, *harmonics_adjoint_ = nullptr;
    Rows basis, mixed, embedded, joint[N_LAYERS], latents, both, others, weights1, together, later, own, other;
    Rows both_adjoint, others_adjoint;
    Hidden two_body[N_TWO_BODY], hidden[N_LAYERS][N_LATENT];
    Field fields[3], fields_adjoint[2];  // S, S', W S S'
};

}  // namespace foundry
