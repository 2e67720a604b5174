// An exported model: one file, read here, evaluated by the kernel. Compiled together with a program for molecular dynamics.
//
// The file has lines of text ("key value ..."), a line "end", then numbers of this machine's byte order: radii (n_types),
// charges (n_types), scales (n_heads, n_types), isolated energies (n_heads, n_types), all float64, and the kernel's weights.
#include "foundry_model.h"

#include <cstdio>
#include <fstream>
#include <sstream>

#include "interface.cpp"

namespace {

// Screened Coulomb repulsion, half of it to each directed edge (J. Chem. Phys. 163, 184110, Eqs. 1-2).
double repulsion(double r, double z1, double z2, double r_max, double& slope) {
    constexpr double factors[] = {0.1818, 0.5099, 0.2802, 0.02817}, decays[] = {3.2, 0.9423, 0.4028, 0.2016};
    constexpr int p = 6;
    slope = 0;
    if (!(r < r_max)) return 0;
    const double inverse = (std::pow(z1, 0.300) + std::pow(z2, 0.300)) / (0.529 * 0.4543);
    double screening = 0, screening_slope = 0;
    for (int k = 0; k < 4; ++k) {
        const double part = factors[k] * std::exp(-decays[k] * r * inverse);
        screening += part;
        screening_slope -= decays[k] * inverse * part;
    }
    const double x = r / r_max, before = std::pow(x, p - 1);
    const double a = (p + 1) * (p + 2) / 2.0, b = p * (p + 2), c = p * (p + 1) / 2.0;
    const double u = 1 - x * before * (a - x * (b - c * x));
    const double u_slope = -before * (a * p - x * (b * (p + 1) - c * (p + 2) * x)) / r_max;
    const double front = 0.5 * 14.3996 * z1 * z2 / r;
    slope = front * (screening_slope * u + screening * u_slope - screening * u / r);
    return front * screening * u;
}

}  // namespace

struct FoundryModel {
    std::vector<std::string> types, heads;
    int default_head = 0;
    bool zbl = false;
    double cutoff = 0;
    std::vector<double> radii, charges, scales, isolated;
    Model* model = nullptr;
    ~FoundryModel() { delete model; }
};

static std::string read_exported(std::ifstream& file, FoundryModel& read) {
    std::string line, shape;
    std::getline(file, line);
    if (line != "foundry-model 1") return "it is not an exported model (of this version)";
    int64_t n_weights = -1;
    while (std::getline(file, line) && line != "end") {
        std::istringstream words(line);
        std::string key, word;
        words >> key;
        if (key == "shape") words >> shape;
        if (key == "types") while (words >> word) read.types.push_back(word);
        if (key == "heads") while (words >> word) read.heads.push_back(word);
        if (key == "default") words >> read.default_head;
        if (key == "zbl") words >> read.zbl;
        if (key == "cutoff") words >> read.cutoff;
        if (key == "weights") words >> n_weights;
    }
    if (shape != FOUNDRY_SHAPE) return "it has another shape than this library was compiled for; export it again";
    const int n_types = int(read.types.size()), n_heads = int(read.heads.size());
    if (!n_types || !n_heads || !(read.cutoff > 0) || read.default_head < 0 || read.default_head >= n_heads)
        return "its beginning is damaged; export it again";
    auto numbers = [&](std::vector<double>& into, int n) {
        into.resize(size_t(n));
        file.read(reinterpret_cast<char*>(into.data()), std::streamsize(sizeof(double)) * n);
    };
    numbers(read.radii, n_types);
    numbers(read.charges, n_types);
    numbers(read.scales, n_heads * n_types);
    numbers(read.isolated, n_heads * n_types);
    read.model = new Model(n_types, n_heads, read.cutoff, read.radii.data());
    if (n_weights != read.model->size) return "it has another number of weights than its shape; export it again";
    std::vector<T> weights(static_cast<size_t>(n_weights));
    file.read(reinterpret_cast<char*>(weights.data()), std::streamsize(sizeof(T)) * n_weights);
    if (!file || file.peek() != std::ifstream::traits_type::eof()) return "it is cut short or too long; export it again";
    read.model->set(weights.data());
    return "";
}

extern "C" {

FoundryModel* foundry_open(const char* path, char* message, int size) {
    auto* read = new FoundryModel;
    std::ifstream file(path, std::ios::binary);
    std::string reason;
    try {
        reason = file ? read_exported(file, *read) : "it cannot be opened";
    } catch (const std::exception& error) {
        reason = error.what();
    }
    if (reason.empty()) return read;
    std::snprintf(message, size_t(size), "Cannot read model '%s': %s", path, reason.c_str());
    delete read;
    return nullptr;
}

void foundry_close(FoundryModel* model) { delete model; }

double foundry_cutoff(const FoundryModel* model) { return model->cutoff; }

static int place_of(const std::vector<std::string>& names, const char* name) {
    for (size_t i = 0; i < names.size(); ++i)
        if (names[i] == name) return int(i);
    return -1;
}

int foundry_type(const FoundryModel* model, const char* symbol) { return place_of(model->types, symbol); }

int foundry_head(const FoundryModel* model, const char* name) {
    return *name ? place_of(model->heads, name) : model->default_head;
}

void foundry_evaluate(const FoundryModel* model, int head, int64_t n_centres, const int64_t* first,
                      const int32_t* centre_types, const int32_t* neighbour_types, const double* vectors,
                      double* atomic_energies, double* edge_gradients, int n_threads) {
    const size_t n_types = model->types.size(), row = size_t(head) * n_types;
    std::vector<double> scales(static_cast<size_t>(n_centres)), energies(static_cast<size_t>(first[n_centres]));
    std::vector<int32_t> heads(static_cast<size_t>(n_centres), head);
    for (int64_t i = 0; i < n_centres; ++i) scales[size_t(i)] = model->scales[row + size_t(centre_types[i])];
    Atoms atoms{n_centres, first, centre_types, neighbour_types, heads.data(), scales.data(), vectors};
    Wanted wanted;
    wanted.energies = energies.data();
    wanted.gradients = edge_gradients;
    foundry::evaluate(*model->model, atoms, wanted, n_threads);
    for (int64_t i = 0; i < n_centres; ++i) {
        double sum = 0, repelled = 0;
        for (int64_t e = first[i]; e < first[i + 1]; ++e) {
            sum += energies[size_t(e)];
            if (!model->zbl) continue;
            const size_t a = size_t(centre_types[i]), b = size_t(neighbour_types[e]);
            const double* v = vectors + 3 * e;
            const double r = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
            double slope;
            repelled += repulsion(r, model->charges[a], model->charges[b],
                                  std::min(model->radii[a] + model->radii[b], model->cutoff), slope);
            for (int k = 0; k < 3; ++k) edge_gradients[3 * e + k] += slope * v[k] / r;
        }
        atomic_energies[i] = model->isolated[row + size_t(centre_types[i])] + scales[size_t(i)] * sum + repelled;
    }
}
}
