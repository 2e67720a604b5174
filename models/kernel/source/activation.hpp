// SiLU with its first and second derivative, on rows.
#pragma once
#include "matrices.hpp"

namespace foundry {

inline Vector exponential(Vector x) {
    if constexpr (sizeof(T) == 4) {
        typedef int32_t Integers __attribute__((vector_size(BYTES)));
        // 2^n 2^f with |f| <= 1/2; the integer n is read from the bits of a sum with 1.5 * 2^23.
        const Vector low = Vector{} - T(87.3), high = Vector{} + T(88.3);
        x = x < low ? low : x;
        x = x > high ? high : x;
        const Vector shifted = x * T(1.44269504088896341) + T(12582912);
        const Vector n = shifted - T(12582912);
        Vector f = x - n * T(0.693359375);
        f = f + n * T(2.12194440e-4);
        Vector p = f * T(1.9875691500e-4) + T(1.3981999507e-3);
        p = p * f + T(8.3334519073e-3);
        p = p * f + T(4.1665795894e-2);
        p = p * f + T(1.6666665459e-1);
        p = p * f + T(5.0000001201e-1);
        p = p * f * f + f + T(1);
        return (Vector)((Integers)p + ((Integers)shifted << 23));
    } else {
        typedef int64_t Integers __attribute__((vector_size(BYTES)));
        const Vector low = Vector{} - T(708), high = Vector{} + T(709);
        x = x < low ? low : x;
        x = x > high ? high : x;
        const Vector shifted = x * T(1.44269504088896340736) + T(6755399441055744.0);  // 1.5 * 2^52
        const Vector n = shifted - T(6755399441055744.0);
        Vector f = x - n * T(6.93147180369123816490e-01);
        f = f - n * T(1.90821492927058770002e-10);
        // Taylor's series: the first term left out is below 5e-18.
        Vector p = Vector{} + T(1.0 / 6227020800.0);
        constexpr double factorials[] = {479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0,
                                         720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0};
#pragma GCC unroll 16
        for (double factorial : factorials) p = p * f + T(1 / factorial);
        return (Vector)((Integers)p + ((Integers)shifted << 52));
    }
}

// h becomes SiLU(h); `slope` gets SiLU'(h), `bend` (with tangents) SiLU''(h) times the tangent of h.
template <bool D>
inline void activate(const Rows& h, const Rows& slope, const Rows& bend) {
    for (int64_t row = 0; row < h.rows; ++row) {
        auto* hv = reinterpret_cast<Vector*>(h.v(row));
        auto* ht = reinterpret_cast<Vector*>(h.t(row));
        auto* s1 = reinterpret_cast<Vector*>(slope.v(row));
        auto* s2 = D ? reinterpret_cast<Vector*>(bend.v(row)) : nullptr;
        for (int64_t j = 0; j < h.ld / LANES; ++j) {
            const Vector x = hv[j];
            const Vector sigmoid = T(1) / (T(1) + exponential(-x));
            const Vector y = x * sigmoid;
            const Vector first = sigmoid + y * (T(1) - sigmoid);
            hv[j] = y;
            s1[j] = first;
            if constexpr (D) {
                s2[j] = (T(1) - sigmoid) * (sigmoid * (T(1) - y) + first) * ht[j];
                ht[j] = first * ht[j];
            }
        }
    }
}

// The adjoint of SiLU(h) becomes that of h.
template <bool D>
inline void turn_back(const Rows& adjoint, const Rows& slope, const Rows& bend) {
    for (int64_t row = 0; row < adjoint.rows; ++row) {
        auto* v = reinterpret_cast<Vector*>(adjoint.v(row));
        auto* t = reinterpret_cast<Vector*>(adjoint.t(row));
        auto* s1 = reinterpret_cast<Vector*>(slope.v(row));
        auto* s2 = D ? reinterpret_cast<Vector*>(bend.v(row)) : nullptr;
        for (int64_t j = 0; j < adjoint.ld / LANES; ++j) {
            if constexpr (D) t[j] = t[j] * s1[j] + v[j] * s2[j];
            v[j] = v[j] * s1[j];
        }
    }
}

}  // namespace foundry
