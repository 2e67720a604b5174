// Products of tall matrices with the model's small ones, blocked for registers.
//
// A weight is packed into panels of PANEL columns, so that the innermost loop reads it from one stream.
#pragma once
#include <cstring>

#include "numbers.hpp"

namespace foundry {

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif
typedef T Vector __attribute__((vector_size(BYTES), aligned(BYTES)));
typedef T Loose __attribute__((vector_size(BYTES), aligned(sizeof(T))));
constexpr int LANES = BYTES / int(sizeof(T));
constexpr int PANEL = 2 * LANES;
constexpr int TALL = BYTES == 64 ? 12 : (BYTES == 32 ? 6 : 4);  // rows at a time: accumulators fill the registers

constexpr int64_t padded(int64_t n) { return (n + PANEL - 1) / PANEL * PANEL; }

// A matrix (inner, outer) in panels [panel][inner][PANEL], zero beyond `outer`.
struct Packed {
    std::vector<T> data;
    int64_t inner = 0, panels = 0;
    const T* panel(int64_t p) const { return start + p * inner * PANEL; }
    T* start = nullptr;

    void reserve(int64_t inner_, int64_t outer) {
        inner = inner_;
        panels = padded(outer) / PANEL;
        data.assign(size_t(inner * panels * PANEL + PANEL), T(0));
        const auto address = reinterpret_cast<std::uintptr_t>(data.data());
        start = data.data() + (BYTES - address % BYTES) % BYTES / sizeof(T);
    }
    T& at(int64_t i, int64_t o) { return start[(o / PANEL * inner + i) * PANEL + o % PANEL]; }
};

template <int M, bool ADD>
inline void block(const T* a, int64_t lda, int64_t inner, const T* b, T* c, int64_t ldc) {
    Vector sum[M][2];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
        if (ADD) {
            sum[m][0] = *reinterpret_cast<const Vector*>(c + m * ldc);
            sum[m][1] = *reinterpret_cast<const Vector*>(c + m * ldc + LANES);
        } else {
            sum[m][0] = Vector{};
            sum[m][1] = Vector{};
        }
    }
    for (int64_t k = 0; k < inner; ++k) {
        const Vector left = *reinterpret_cast<const Vector*>(b + k * PANEL);
        const Vector right = *reinterpret_cast<const Vector*>(b + k * PANEL + LANES);
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            const T x = a[m * lda + k];
            sum[m][0] += x * left;
            sum[m][1] += x * right;
        }
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
        *reinterpret_cast<Vector*>(c + m * ldc) = sum[m][0];
        *reinterpret_cast<Vector*>(c + m * ldc + LANES) = sum[m][1];
    }
}

template <bool ADD, int M>
inline void rest(int64_t rows, const T* a, int64_t lda, int64_t inner, const T* b, T* c, int64_t ldc) {
    if constexpr (M > 0) {
        if (rows == M)
            block<M, ADD>(a, lda, inner, b, c, ldc);
        else
            rest<ADD, M - 1>(rows, a, lda, inner, b, c, ldc);
    }
}

// c (rows, panels * PANEL) = or += a (rows, inner) . b; c's rows are aligned.
template <bool ADD>
inline void multiply(int64_t rows, const T* a, int64_t lda, const Packed& b, T* c, int64_t ldc) {
    for (int64_t p = 0; p < b.panels; ++p) {
        const T* panel = b.panel(p);
        T* out = c + p * PANEL;
        int64_t m = 0;
        for (; m + TALL <= rows; m += TALL) block<TALL, ADD>(a + m * lda, lda, b.inner, panel, out + m * ldc, ldc);
        rest<ADD, TALL - 1>(rows - m, a + m * lda, lda, b.inner, panel, out + m * ldc, ldc);
    }
}

template <int M>
inline void outer_block(int64_t rows, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc, int64_t columns) {
    Vector sum[M][2] = {};
    for (int64_t r = 0; r < rows; ++r) {
        const Vector left = *reinterpret_cast<const Vector*>(b + r * ldb);
        const Vector right = *reinterpret_cast<const Vector*>(b + r * ldb + LANES);
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            const T x = a[r * lda + m];
            sum[m][0] += x * left;
            sum[m][1] += x * right;
        }
    }
    if (columns >= PANEL) {
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            *reinterpret_cast<Loose*>(c + m * ldc) += sum[m][0];
            *reinterpret_cast<Loose*>(c + m * ldc + LANES) += sum[m][1];
        }
    } else {
        for (int m = 0; m < M; ++m) {
            T line[PANEL];
            std::memcpy(line, &sum[m][0], BYTES);
            std::memcpy(line + LANES, &sum[m][1], BYTES);
            for (int64_t o = 0; o < columns; ++o) c[m * ldc + o] += line[o];
        }
    }
}

template <int M>
inline void outer_rest(int64_t some, int64_t rows, const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc,
                       int64_t columns) {
    if constexpr (M > 0) {
        if (some == M)
            outer_block<M>(rows, a, lda, b, ldb, c, ldc, columns);
        else
            outer_rest<M - 1>(some, rows, a, lda, b, ldb, c, ldc, columns);
    }
}

// c (inner, outer) += a^T . b over rows of a (rows, inner) and b (rows, outer padded); c is not padded.
inline void add_outer(int64_t rows, const T* a, int64_t lda, int64_t inner, const T* b, int64_t ldb, int64_t outer, T* c) {
    for (int64_t o = 0; o < outer; o += PANEL) {
        const int64_t columns = outer - o;
        int64_t i = 0;
        for (; i + TALL <= inner; i += TALL)
            outer_block<TALL>(rows, a + i, lda, b + o, ldb, c + i * outer + o, outer, columns);
        outer_rest<TALL - 1>(inner - i, rows, a + i, lda, b + o, ldb, c + i * outer + o, outer, columns);
    }
}

// The tangent of a^T . b where both carry one: c += a_t^T b_v + a_v^T b_t.
inline void add_outer_tangent(const Rows& a, int64_t from, int64_t inner, const Rows& b, int64_t outer, T* c) {
    add_outer(a.rows, a.t(0) + from, a.ld, inner, b.v(0), b.ld, outer, c);
    add_outer(a.rows, a.v(0) + from, a.ld, inner, b.t(0), b.ld, outer, c);
}

}  // namespace foundry
