// Numbers with one tangent, and rows of numbers kept as two planes: all values first, then all tangents.
//
// A training step needs d/dw of an energy's gradient. Carrying a tangent along the edge vectors through the forward
// and the reverse sweep gives it without differentiating twice: the tangent of dE/dw in direction u is d(u . dE/dr)/dw.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "foundry_config.hpp"  // T and the sizes of the model, written by Python

namespace foundry {

using std::int32_t;
using std::int64_t;

struct Dual {
    T v, t;
    Dual() = default;
    Dual(T value) : v(value), t(0) {}
    Dual(T value, T tangent) : v(value), t(tangent) {}
};
inline Dual operator+(Dual a, Dual b) { return {a.v + b.v, a.t + b.t}; }
inline Dual operator-(Dual a, Dual b) { return {a.v - b.v, a.t - b.t}; }
inline Dual operator-(Dual a) { return {-a.v, -a.t}; }
inline Dual operator*(Dual a, Dual b) { return {a.v * b.v, a.v * b.t + a.t * b.v}; }
inline Dual operator/(Dual a, Dual b) {
    const T q = a.v / b.v;
    return {q, (a.t - q * b.t) / b.v};
}
inline Dual operator*(T a, Dual b) { return {a * b.v, a * b.t}; }
inline Dual operator*(Dual a, T b) { return {a.v * b, a.t * b}; }
inline Dual operator+(T a, Dual b) { return {a + b.v, b.t}; }
inline Dual operator-(T a, Dual b) { return {a - b.v, -b.t}; }
inline Dual& operator+=(Dual& a, Dual b) {
    a.v += b.v;
    a.t += b.t;
    return a;
}

inline T root(T a) { return std::sqrt(a); }
inline Dual root(Dual a) {
    const T s = std::sqrt(a.v);
    return {s, a.t / (2 * s)};
}
inline T power(T a, T e) { return std::pow(a, e); }
inline Dual power(Dual a, T e) {
    const T p = std::pow(a.v, e);
    return {p, a.t * e * p / a.v};
}
template <class N>
inline N whole_power(N a, int e) {
    N p = T(1);
    for (int i = 0; i < e; ++i) p = p * a;
    return p;
}
inline void sine_cosine(T a, T& s, T& c) {
    s = std::sin(a);
    c = std::cos(a);
}
inline void sine_cosine(Dual a, Dual& s, Dual& c) {
    s.v = std::sin(a.v);
    c.v = std::cos(a.v);
    s.t = c.v * a.t;
    c.t = -s.v * a.t;
}
inline T value(T a) { return a; }
inline T value(Dual a) { return a.v; }

template <bool D>
struct Choose {
    using type = T;
};
template <>
struct Choose<true> {
    using type = Dual;
};
template <bool D>
using Number = typename Choose<D>::type;

// Rows of width `ld`: values, then (if there are tangents) tangents, `rows` of them each.
struct Rows {
    T* data = nullptr;
    int64_t rows = 0, ld = 0;
    T* v(int64_t row) const { return data + row * ld; }
    T* t(int64_t row) const { return data + (rows + row) * ld; }
};

// Memory of one thread, given out in order and taken back at once.
class Memory {
  public:
    ~Memory() {
        end();
        std::free(data_);
    }
    Memory() = default;
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    void begin() { used_ = 0; }
    T* take(int64_t n) {
        const int64_t step = 64 / int64_t(sizeof(T));
        const int64_t size = (n + step - 1) / step * step;
        if (used_ + size > size_) {  // never moves what was given out: a new block, the old one kept until the next call
            spare_.emplace_back(data_);
            size_ = used_ + size > 2 * size_ ? used_ + size : 2 * size_;
            data_ = static_cast<T*>(std::aligned_alloc(64, size_t(size_) * sizeof(T)));
            if (!data_) throw std::bad_alloc();
        }
        T* given = data_ + used_;
        used_ += size;
        return given;
    }
    void end() {
        for (T* block : spare_) std::free(block);
        spare_.clear();
    }

  private:
    T* data_ = nullptr;
    int64_t size_ = 0, used_ = 0;
    std::vector<T*> spare_;
};

}  // namespace foundry
