// The tensor track of one or two layers without tensors on edges: fields of the centre and weights of the edge.
//
// An environment's field is S_k = sum over edges of w_l(k) Y_k; an edge reads it as sum over k of degree l of Y_k S_k.
#pragma once
#include "geometry.hpp"

namespace foundry {

// A field (COMPONENTS, CHANNELS): values, then tangents.
struct Field {
    T* data = nullptr;
    T* v(int k) const { return data + k * CHANNELS; }
    T* t(int k) const { return data + (COMPONENTS + k) * CHANNELS; }
};

template <bool D>
constexpr int64_t field_size() {
    return (D ? 2 : 1) * COMPONENTS * CHANNELS;
}

#define CHANNEL_LOOP _Pragma("GCC ivdep") for (int c = 0; c < CHANNELS; ++c)

// field_k += Y_k w_l
template <bool D>
inline void add_to_field(const Field& field, const Number<D>* y, const T* wv, const T* wt) {
    for (int k = 0; k < COMPONENTS; ++k) {
        const T* __restrict v = wv + DEGREE_OF[k] * CHANNELS;
        T* __restrict out = field.v(k);
        const T yv = value(y[k]);
        CHANNEL_LOOP out[c] += yv * v[c];
        if constexpr (D) {
            const T* __restrict t = wt + DEGREE_OF[k] * CHANNELS;
            T* __restrict out_t = field.t(k);
            const T yt = y[k].t;
            CHANNEL_LOOP out_t[c] += yv * t[c] + yt * v[c];
        }
    }
}

// w_l += sum over k of degree l of Y_k field_k
template <bool D>
inline void read_field(const Field& field, const Number<D>* y, T* wv, T* wt) {
    for (int k = 0; k < COMPONENTS; ++k) {
        T* __restrict v = wv + DEGREE_OF[k] * CHANNELS;
        const T* __restrict in = field.v(k);
        const T yv = value(y[k]);
        CHANNEL_LOOP v[c] += yv * in[c];
        if constexpr (D) {
            T* __restrict t = wt + DEGREE_OF[k] * CHANNELS;
            const T* __restrict in_t = field.t(k);
            const T yt = y[k].t;
            CHANNEL_LOOP t[c] += yv * in_t[c] + yt * in[c];
        }
    }
}

// adjoint_k += w_l . field_k (values only: harmonics hold no weights, so tangents of their adjoints are not needed)
inline void harmonics_from(const Field& field, const T* w, T* adjoint) {
    for (int k = 0; k < COMPONENTS; ++k) {
        const T* v = w + DEGREE_OF[k] * CHANNELS;
        const T* in = field.v(k);
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int c = 0; c < CHANNELS; ++c) sum += v[c] * in[c];
        adjoint[k] += sum;
    }
}

// out_k += w_kab a_a b_b over the terms of the 3j tensor; `Turn` says which of the three is the result.
template <bool D, int Turn>
inline void contract(const T* weights, const Field& a, const Field& b, const Field& out) {
    for (int n = 0; n < N_TERMS; ++n) {
        constexpr int first = Turn == 0 ? 1 : 0, second = Turn == 2 ? 1 : 2;
        const int i = TERMS[n][first], j = TERMS[n][second], k = TERMS[n][Turn];
        const T w = weights[n];
        const T *__restrict x = a.v(i), *__restrict y = b.v(j);
        T* __restrict o = out.v(k);
        CHANNEL_LOOP o[c] += w * x[c] * y[c];
        if constexpr (D) {
            const T *__restrict xt = a.t(i), *__restrict yt = b.t(j);
            T* __restrict ot = out.t(k);
            CHANNEL_LOOP ot[c] += w * (x[c] * yt[c] + xt[c] * y[c]);
        }
    }
}

// Tangents of the terms' adjoints: += sum over channels of (adjoint_k a_a b_b)_t
inline void contract_weights(const Field& adjoint, const Field& a, const Field& b, T* gradient) {
    for (int n = 0; n < N_TERMS; ++n) {
        const T *g = adjoint.v(TERMS[n][0]), *gt = adjoint.t(TERMS[n][0]);
        const T *x = a.v(TERMS[n][1]), *xt = a.t(TERMS[n][1]), *y = b.v(TERMS[n][2]), *yt = b.t(TERMS[n][2]);
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int c = 0; c < CHANNELS; ++c) sum += gt[c] * x[c] * y[c] + g[c] * (xt[c] * y[c] + x[c] * yt[c]);
        gradient[n] += sum;
    }
}

// out_k += f a_i b_j over the triples of parallel harmonics, for rows of TRACK numbers; `scale` multiplies b_j.
template <bool D, int Turn>
inline void couple(const T* factors, const T* av, const T* at, const T* bv, const T* bt, T* ov, T* ot, bool minus) {
    for (int n = 0; n < N_TRIPLES; ++n) {
        constexpr int first = Turn == 0 ? 1 : 0, second = Turn == 2 ? 1 : 2;
        const int i = TRIPLES[n][first] * CHANNELS, j = TRIPLES[n][second] * CHANNELS;
        const int k = TRIPLES[n][Turn] * CHANNELS;
        const T f = minus ? -factors[n] : factors[n];
        const T *__restrict x = av + i, *__restrict y = bv + j;
        T* __restrict o = ov + k;
        CHANNEL_LOOP o[c] += f * x[c] * y[c];
        if constexpr (D) {
            const T *__restrict xt = at + i, *__restrict yt = bt + j;
            T* __restrict o_t = ot + k;
            CHANNEL_LOOP o_t[c] += f * (x[c] * yt[c] + xt[c] * y[c]);
        }
    }
}

// Tangents of the factors' adjoints.
inline void couple_factors(const T* gv, const T* gt, const T* av, const T* at, const T* bv, const T* bt, T* gradient) {
    for (int n = 0; n < N_TRIPLES; ++n) {
        const int k = TRIPLES[n][0] * CHANNELS, i = TRIPLES[n][1] * CHANNELS, j = TRIPLES[n][2] * CHANNELS;
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int c = 0; c < CHANNELS; ++c)
            sum += gt[k + c] * av[i + c] * bv[j + c] + gv[k + c] * (at[i + c] * bv[j + c] + av[i + c] * bt[j + c]);
        gradient[n] += sum;
    }
}

}  // namespace foundry
