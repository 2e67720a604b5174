// Distances, radial functions and spherical harmonics of an edge.
#pragma once
#include "foundry_harmonics.hpp"  // harmonics and harmonics_adjoint, written by Python
#include "model.hpp"

namespace foundry {

// u(x), 1 at 0 and 0 from 1 on with two vanishing derivatives, and u'(x).
template <class N>
inline void envelope(N x, N& u, N& slope) {
    constexpr T p = POLYNOMIAL_P;
    constexpr T a = (p + 1) * (p + 2) / 2, b = p * (p + 2), c = p * (p + 1) / 2;
    if (!(value(x) < 1)) {
        u = slope = N(T(0));
        return;
    }
    const N before = whole_power(x, POLYNOMIAL_P - 1);
    u = T(1) - x * before * (a - x * (b - c * x));
    slope = -before * (a * p - x * (b * (p + 1) - (c * (p + 2)) * x));
}

// y in (0, 1], falling with the distance, and dy/dr (J. Chem. Phys. 163, 184110, Eq. 3).
template <class N>
inline void agnesi(N r, T r0, N& y, N& slope) {
    constexpr T a = T(1.0805), q = T(0.9183), p = T(4.5791);
    const N x = r * (1 / r0);
    const N up = power(x, q), down = power(x, q - p);
    const N below = T(1) + down;
    const N g = (a * up) / below;
    y = N(T(1)) / (T(1) + g);
    const N change = (a * up) * (q * below - (q - p) * down) / (x * below * below);
    slope = -(y * y) * change * (1 / r0);
}

// Basis functions R_n(r), their derivatives by r and by the frequencies.
template <class N>
inline void radial(N r, T r0, double cutoff, const T* frequencies, N* basis, N* by_distance, N* by_frequency) {
    constexpr T pi = T(3.14159265358979323846), sqrt2 = T(1.41421356237309504880);
    const T inverse = T(1 / cutoff);
    const N x = r * inverse;
    N u, u_slope, y = r, y_slope = N(T(1)), front, front_slope;
    envelope(x, u, u_slope);
    if constexpr (AGNESI) {
        agnesi(r, r0, y, y_slope);
        front = sqrt2 * (u / y);
        front_slope = sqrt2 * ((inverse * u_slope - u * y_slope / y) / y);
    } else {
        front = u / (pi * x);
        front_slope = inverse * ((u_slope - u / x) / (pi * x));
    }
    for (int n = 0; n < BASIS; ++n) {
        N s, c;
        sine_cosine(y * frequencies[n], s, c);
        basis[n] = front * s;
        by_distance[n] = front_slope * s + front * c * y_slope * frequencies[n];
        by_frequency[n] = front * c * y;
    }
}

}  // namespace foundry
