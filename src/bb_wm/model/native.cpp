// What stands between matrix products, each in one pass over its rows: `bb_wm.model.native` builds
// this file with the machine's own compiler, and says what every function computes.
//
// Sums and results are float32, what a product gave is float32 or bfloat16 (`narrow`). Strides are
// from row to row, in numbers. Sixteen lanes at a time, which compilers split where registers are
// shorter. A row's result depends on that row alone (and a GRU's sums on fixed blocks of rows), so
// that no number of threads changes a bit. Not a number comes out as not a number: nothing here may
// be compiled with -ffast-math.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

// LANES, MOST_CLASSES and ROWS_PER_SUM (the rows of which a GRU's gradients of weight and bias are
// one sum) come from `bb_wm.model.native`, which makes room by them.
static_assert(LANES == 16, "a square is turned in four steps");

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef uint16_t bfloat16;

inline Floats all(float value) { return Floats{} + value; }

inline Floats load(const float* from) {
    Floats found;
    std::memcpy(&found, from, sizeof found);
    return found;
}

inline Floats load(const bfloat16* from) {
    Halves found;
    std::memcpy(&found, from, sizeof found);
    return (Floats)(__builtin_convertvector(found, Bits) << 16);
}

inline void store(float* to, Floats values) { std::memcpy(to, &values, sizeof values); }

// To the nearest, ties to the even one, as torch rounds.
inline void store(bfloat16* to, Floats values) {
    const Bits bits = (Bits)values;
    const Bits rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    const Bits kept = values == values ? rounded : (Bits{} + 0x7fc00000u);
    const Halves found = __builtin_convertvector(kept >> 16, Halves);
    std::memcpy(to, &found, sizeof found);
}

inline float one(const float* from) { return *from; }

inline float one(const bfloat16* from) {
    const uint32_t bits = static_cast<uint32_t>(*from) << 16;
    float found;
    std::memcpy(&found, &bits, sizeof found);
    return found;
}

inline float sum(Floats values) {
    float parts[LANES], found = 0.0f;
    std::memcpy(parts, &values, sizeof parts);
    for (int i = 0; i < LANES; ++i) found += parts[i];
    return found;
}

// e^x to 2 units in the last place (Cephes' polynomial on [-ln 2 / 2, ln 2 / 2]).
inline Floats exponential(Floats x) {
    x = x < -87.0f ? all(-87.0f) : x;
    x = x > 88.0f ? all(88.0f) : x;
    const Floats shifted = x * 1.44269504088896341f + 12582912.0f;  // the integer is in its bits
    const Floats whole = shifted - 12582912.0f;
    const Floats rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats y = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * rest + 8.3334519073e-3f;
    y = y * rest + 4.1665795894e-2f;
    y = y * rest + 1.6666665459e-1f;
    y = y * rest + 5.0000001201e-1f;
    y = y * rest * rest + rest + 1.0f;
    return y * (Floats)(((Ints)shifted - 0x4b400000 + 127) << 23);
}

// ln x for normal x > 0 to 2 units in the last place (Cephes' polynomial around 1).
inline Floats logarithm(Floats x) {
    const Ints bits = (Ints)x;
    Ints power = (bits >> 23) - 126;
    Floats part = (Floats)((bits & 0x007fffff) | 0x3f000000);  // [0.5, 1)
    const Ints low = part < 0.707106781186547524f;              // -1 where true
    power += low;
    part = (low ? part + part : part) - 1.0f;
    const Floats square = part * part;
    Floats y = part * 7.0376836292e-2f - 1.1514610310e-1f;
    y = y * part + 1.1676998740e-1f;
    y = y * part - 1.2420140846e-1f;
    y = y * part + 1.4249322787e-1f;
    y = y * part - 1.6668057665e-1f;
    y = y * part + 2.0000714765e-1f;
    y = y * part - 2.4999993993e-1f;
    y = y * part + 3.3333331174e-1f;
    const Floats exponent = __builtin_convertvector(power, Floats);
    y = y * part * square + exponent * -2.12194440e-4f - square * 0.5f;
    const Floats found = part + y + exponent * 0.693359375f;
    return x == x ? found : x;  // not a number stays not a number
}

// 1 / x to an unit in the last place for normal x, in a fifth of a division's time where there is
// an instruction that guesses it.
inline Floats reciprocal(Floats x) {
#ifdef __AVX512F__
    const Floats guess = (Floats)_mm512_rcp14_ps((__m512)x);
    return guess * (2.0f - x * guess);
#else
    return 1.0f / x;
#endif
}

inline Floats sigmoid(Floats x) { return reciprocal(1.0f + exponential(-x)); }

inline Floats silu_of(Floats x) { return x * sigmoid(x); }

inline Floats silu_slope(Floats slope, Floats x) {
    const Floats opened = sigmoid(x);
    return slope * opened * (1.0f + x * (1.0f - opened));
}

// Two rows with the lanes exchanged that differ in bit S of their number: a step of turning a square.
template <int S>
inline void exchange(Floats& upper, Floats& lower) {
#define FROM_UPPER(i) ((i) & S ? (i) - S + LANES : (i))
#define FROM_LOWER(i) ((i) & S ? (i) + LANES : (i) + S)
#define LANES_OF(pick)                                                                     \
    pick(0), pick(1), pick(2), pick(3), pick(4), pick(5), pick(6), pick(7), pick(8), pick(9), \
        pick(10), pick(11), pick(12), pick(13), pick(14), pick(15)
    const Floats first = __builtin_shufflevector(upper, lower, LANES_OF(FROM_UPPER));
    lower = __builtin_shufflevector(upper, lower, LANES_OF(FROM_LOWER));
    upper = first;
}

template <int S>
inline void exchange_all(Floats* rows) {
    for (int i = 0; i < LANES; ++i)
        if (!(i & S)) exchange<S>(rows[i], rows[i + S]);
}

// A square of 16 rows: columns become rows.
inline void turn(Floats* rows) {
    exchange_all<8>(rows);
    exchange_all<4>(rows);
    exchange_all<2>(rows);
    exchange_all<1>(rows);
}

// Sixteen groups of `classes` numbers, turned so that a lane is a group: what a softmax needs of
// a group is then one operation per class, and nothing is gathered across lanes.
struct Tile {
    Floats of[MOST_CLASSES];

    void read(const float* const* groups, int64_t classes) {
        for (int64_t c = 0; c < classes; c += LANES) {
            for (int g = 0; g < LANES; ++g) of[c + g] = load(groups[g] + c);
            turn(of + c);
        }
    }

    template <typename T>
    void read_sum(const float* const* groups, const T* const* others, int64_t classes) {
        for (int64_t c = 0; c < classes; c += LANES) {
            for (int g = 0; g < LANES; ++g) of[c + g] = load(groups[g] + c) + load(others[g] + c);
            turn(of + c);
        }
    }

    // Turns the tile back: it is not to be read again. `added` may be none.
    void write(float* const* groups, int64_t count, int64_t classes, const float* const* added) {
        for (int64_t c = 0; c < classes; c += LANES) {
            turn(of + c);
            for (int64_t g = 0; g < count; ++g)
                store(groups[g] + c, added ? of[c + g] + load(added[g] + c) : of[c + g]);
        }
    }

    void softmax(int64_t classes) {
        Floats most = of[0];
        for (int64_t c = 1; c < classes; ++c) most = of[c] > most ? of[c] : most;
        Floats total = all(0.0f);
        for (int64_t c = 0; c < classes; ++c) total += of[c] = exponential(of[c] - most);
        const Floats share = 1.0f / total;
        for (int64_t c = 0; c < classes; ++c) of[c] *= share;
    }
};

// Where sixteen groups from `first` on lie; past the last one the last one again.
template <typename T>
void places(T** to, T* rows, int64_t stride, int64_t first, int64_t all_groups, int64_t groups,
            int64_t classes) {
    int64_t row = first / groups, group = first % groups;
    for (int64_t i = 0; i < LANES; ++i) {
        to[i] = rows + row * stride + group * classes;
        if (first + i + 1 >= all_groups) continue;
        if (++group == groups) group = 0, ++row;
    }
}

inline int64_t fewer(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename T>
void silu_rows(const T* product, int64_t product_stride, const float* added, int64_t added_stride,
               float* before, void* after, int64_t after_stride, int narrow, int64_t rows,
               int64_t size, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < size; j += LANES) {
            const Floats x =
                load(product + i * product_stride + j) + load(added + i * added_stride + j);
            if (before) store(before + i * size + j, x);
            const Floats y = silu_of(x);
            if (narrow)
                store(static_cast<bfloat16*>(after) + i * after_stride + j, y);
            else
                store(static_cast<float*>(after) + i * after_stride + j, y);
        }
    }
}

template <typename T>
void add_rows(const T* product, const float* added, int64_t added_stride, float* found,
              int64_t found_stride, int64_t rows, int64_t size, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < size; j += LANES)
            store(found + i * found_stride + j,
                  load(product + i * size + j) + load(added + i * added_stride + j));
}

template <typename T>
inline Floats inverse_rms(const T* row, int64_t size) {
    Floats squares = all(0.0f);
    for (int64_t j = 0; j < size; j += LANES) squares += load(row + j) * load(row + j);
    return all(1.0f / std::sqrt(sum(squares) / size + 1e-3f));
}

template <typename T>
void gru_rows(const T* gates, const float* weight, const float* bias, const float* h,
              int64_t h_stride, float* next, int64_t next_stride, int64_t rows, int64_t size,
              int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < rows; ++i) {
        const T* mine = gates + i * 3 * size;
        const Floats inverse = inverse_rms(mine, 3 * size);
        for (int64_t j = 0; j < size; j += LANES) {
            Floats signal[3];
            for (int k = 0; k < 3; ++k) {
                const int64_t at = k * size + j;
                signal[k] = load(mine + at) * inverse * load(weight + at) + load(bias + at);
            }
            const Floats inner = sigmoid(signal[0]) * signal[1];
            const Floats candidate = 2.0f * sigmoid(inner + inner) - 1.0f;
            const Floats last = load(h + i * h_stride + j);
            store(next + i * next_stride + j, last + sigmoid(signal[2]) * (candidate - last));
        }
    }
}

template <typename T>
void gru_slope_rows(const T* gates, const float* weight, const float* bias, const float* h,
                    int64_t h_stride, const float* slope, T* by_gates, float* rest, float* sums,
                    int64_t rows, int64_t size, int threads) {
    const int64_t blocks = (rows + ROWS_PER_SUM - 1) / ROWS_PER_SUM, wide = 3 * size;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t block = 0; block < blocks; ++block) {
        std::vector<float> by_normal(wide);
        float* by_weight = sums + block * 2 * wide;
        float* by_bias = by_weight + wide;
        const int64_t end = fewer(rows, (block + 1) * ROWS_PER_SUM);
        for (int64_t i = block * ROWS_PER_SUM; i < end; ++i) {
            const T* mine = gates + i * wide;
            const Floats inverse = inverse_rms(mine, wide);
            Floats along = all(0.0f);
            for (int64_t j = 0; j < size; j += LANES) {
                Floats normal[3], signal[3];
                for (int k = 0; k < 3; ++k) {
                    const int64_t at = k * size + j;
                    normal[k] = load(mine + at) * inverse;
                    signal[k] = normal[k] * load(weight + at) + load(bias + at);
                }
                const Floats reset = sigmoid(signal[0]), update = sigmoid(signal[2]);
                const Floats inner = reset * signal[1];
                const Floats candidate = 2.0f * sigmoid(inner + inner) - 1.0f;
                const Floats last = load(h + i * h_stride + j);
                const Floats given = load(slope + i * size + j), through = given * update;
                const Floats by_inner = through * (1.0f - candidate * candidate);
                const Floats by_signal[3] = {by_inner * signal[1] * reset * (1.0f - reset),
                                             by_inner * reset,
                                             given * (candidate - last) * update * (1.0f - update)};
                store(rest + i * size + j, given - through);
                for (int k = 0; k < 3; ++k) {
                    const int64_t at = k * size + j;
                    store(by_weight + at, load(by_weight + at) + by_signal[k] * normal[k]);
                    store(by_bias + at, load(by_bias + at) + by_signal[k]);
                    const Floats scaled = by_signal[k] * load(weight + at);
                    store(by_normal.data() + at, scaled);
                    along += scaled * normal[k];
                }
            }
            const Floats shared = all(sum(along) / wide) * inverse;
            for (int64_t at = 0; at < wide; at += LANES) {
                const Floats normal_share = load(mine + at) * shared;
                store(by_gates + i * wide + at,
                      (load(by_normal.data() + at) - normal_share) * inverse);
            }
        }
    }
}

// Heads of one hidden layer of `size` and one output each: product holds their hidden layers side by
// side, then what their linear paths made; every head's output is one sum over its hidden row.
template <typename T>
void heads_rows(const T* product, const float* bias, const float* last, const float* last_bias,
                float* found, int64_t rows, int64_t heads, int64_t size, int threads) {
    const int64_t wide = heads * size + heads;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < rows; ++i) {
        const T* mine = product + i * wide;
        for (int64_t k = 0; k < heads; ++k) {
            Floats total = all(0.0f);
            for (int64_t j = k * size; j < (k + 1) * size; j += LANES)
                total += silu_of(load(mine + j) + load(bias + j)) * load(last + j);
            found[i * heads + k] =
                sum(total) + one(mine + heads * size + k) + last_bias[k] + bias[heads * size + k];
        }
    }
}

// What came back through the GRU's one product [x, h]: through x's SiLU, and to h.
template <typename T>
void gru_entry_rows(const T* product, const float* before, const float* rest, float* by_entered,
                    float* by_h, int64_t rows, int64_t entry, int64_t size, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < rows; ++i) {
        const T* mine = product + i * (entry + size);
        for (int64_t j = 0; j < entry; j += LANES)
            store(by_entered + i * entry + j,
                  silu_slope(load(mine + j), load(before + i * entry + j)));
        for (int64_t j = 0; j < size; j += LANES)
            store(by_h + i * size + j, load(mine + entry + j) + load(rest + i * size + j));
    }
}

template <typename T>
void silu_slope_rows(const T* slope, const float* before, T* found, int64_t rows, int64_t size,
                     int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = i * size; j < (i + 1) * size; j += LANES)
            store(found + j, silu_slope(load(slope + j), load(before + j)));
}

template <typename T>
void draw_slope_rows(const float* logits, int64_t stride, const float* slope, int64_t slope_stride,
                     const T* after, const float* added, int64_t added_stride, float share,
                     float* found, int64_t found_stride, int64_t rows, int64_t groups,
                     int64_t classes, int threads) {
    const int64_t count = rows * groups;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < count; first += LANES) {
        const float *from[LANES], *wanted[LANES], *others[LANES];
        const T* later[LANES];
        float* to[LANES];
        places(from, logits, stride, first, count, groups, classes);
        places(wanted, slope, slope_stride, first, count, groups, classes);
        places(later, after, groups * classes, first, count, groups, classes);
        places(others, added, added_stride, first, count, groups, classes);
        places(to, found, found_stride, first, count, groups, classes);
        Tile soft, by_soft;
        soft.read(from, classes);
        by_soft.read_sum(wanted, later, classes);
        soft.softmax(classes);
        Floats along = all(0.0f);
        for (int64_t c = 0; c < classes; ++c) along += soft.of[c] * by_soft.of[c];
        for (int64_t c = 0; c < classes; ++c)
            by_soft.of[c] = share * soft.of[c] * (by_soft.of[c] - along);
        by_soft.write(to, fewer(LANES, count - first), classes, others);
    }
}

}  // namespace

extern "C" {

void bb_draw(const float* logits, int64_t stride, const float* level, float uniform, float* hot,
             int64_t hot_stride, int64_t* index, int64_t rows, int64_t groups, int64_t classes,
             int threads) {
    const int64_t count = rows * groups;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < count; first += LANES) {
        const float* from[LANES];
        places(from, logits, stride, first, count, groups, classes);
        Tile tile;
        tile.read(from, classes);
        Ints chosen = Ints{};
        if (level) {
            Floats levels = all(0.0f);
            const int64_t here = fewer(LANES, count - first);
            std::memcpy(&levels, level + first, here * sizeof(float));
            tile.softmax(classes);
            Floats reached = all(0.0f);
            for (int64_t c = 0; c + 1 < classes; ++c) {
                reached += tile.of[c] * (1.0f - uniform) + uniform / classes;
                chosen -= (Ints)(reached < levels);
            }
        } else {
            Floats most = tile.of[0];
            for (int64_t c = 1; c < classes; ++c) {
                const Ints more = tile.of[c] > most;
                most = more ? tile.of[c] : most;
                chosen = more ? Ints{} + static_cast<int32_t>(c) : chosen;
            }
        }
        float* to[LANES];
        places(to, hot, hot_stride, first, count, groups, classes);
        for (int64_t i = 0; i < LANES && first + i < count; ++i) {
            for (int64_t c = 0; c < classes; c += LANES) store(to[i] + c, all(0.0f));
            to[i][chosen[i]] = 1.0f;
            index[first + i] = (first + i) % groups * classes + chosen[i];
        }
    }
}

// KL of groups [count, classes] if `found`, else the gradients that are asked, from its own slope.
void bb_mixed_kl(const float* q, const float* p, float uniform, float* found, const float* slope,
                 float share_q, float* by_q, float share_p, float* by_p, int64_t count,
                 int64_t classes, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < count; first += LANES) {
        const float *from_q[LANES], *from_p[LANES];
        places(from_q, q, 0, first, count, count, classes);
        places(from_p, p, 0, first, count, count, classes);
        Tile soft_q, soft_p;
        soft_q.read(from_q, classes);
        soft_p.read(from_p, classes);
        soft_q.softmax(classes);
        soft_p.softmax(classes);
        const float share = 1.0f - uniform, least = uniform / classes;
        Tile log, ratio;
        Floats total = all(0.0f), along_q = all(0.0f), along_p = all(0.0f);
        for (int64_t c = 0; c < classes; ++c) {
            const Floats mixed = soft_q.of[c] * share + least;
            ratio.of[c] = mixed * reciprocal(soft_p.of[c] * share + least);
            along_p += soft_p.of[c] * ratio.of[c];
            if (!found && !by_q) continue;
            log.of[c] = logarithm(ratio.of[c]);
            total += mixed * log.of[c];
            along_q += soft_q.of[c] * log.of[c];
        }
        const int64_t here = fewer(LANES, count - first);
        if (found) {
            std::memcpy(found + first, &total, here * sizeof(float));
            continue;
        }
        Floats wide = all(0.0f);
        std::memcpy(&wide, slope + first, here * sizeof(float));
        wide *= share;
        float* to[LANES];
        if (by_q) {
            places(to, by_q, 0, first, count, count, classes);
            for (int64_t c = 0; c < classes; ++c)
                log.of[c] = wide * share_q * soft_q.of[c] * (log.of[c] - along_q);
            log.write(to, here, classes, nullptr);
        }
        if (by_p) {
            places(to, by_p, 0, first, count, count, classes);
            for (int64_t c = 0; c < classes; ++c)
                ratio.of[c] = wide * share_p * soft_p.of[c] * (along_p - ratio.of[c]);
            ratio.write(to, here, classes, nullptr);
        }
    }
}

// Products' results come in float32 or, `narrow`, in bfloat16.
#define EITHER(function, ...)                       \
    if (narrow) {                                   \
        typedef bfloat16 T;                         \
        function(__VA_ARGS__);                      \
    } else {                                        \
        typedef float T;                            \
        function(__VA_ARGS__);                      \
    }
#define IN(pointer) static_cast<const T*>(pointer)
#define OUT(pointer) static_cast<T*>(pointer)

void bb_silu(const void* product, int64_t product_stride, int narrow, const float* added,
             int64_t added_stride, float* before, void* after, int64_t after_stride,
             int after_narrow, int64_t rows, int64_t size, int threads) {
    EITHER(silu_rows, IN(product), product_stride, added, added_stride, before, after,
           after_stride, after_narrow, rows, size, threads)
}

void bb_add(const void* product, int narrow, const float* added, int64_t added_stride,
            float* found, int64_t found_stride, int64_t rows, int64_t size, int threads) {
    EITHER(add_rows, IN(product), added, added_stride, found, found_stride, rows, size, threads)
}

void bb_heads(const void* product, int narrow, const float* bias, const float* last,
              const float* last_bias, float* found, int64_t rows, int64_t heads, int64_t size,
              int threads) {
    EITHER(heads_rows, IN(product), bias, last, last_bias, found, rows, heads, size, threads)
}

void bb_gru(const void* gates, int narrow, const float* weight, const float* bias, const float* h,
            int64_t h_stride, float* next, int64_t next_stride, int64_t rows, int64_t size,
            int threads) {
    EITHER(gru_rows, IN(gates), weight, bias, h, h_stride, next, next_stride, rows, size, threads)
}

void bb_gru_slope(const void* gates, int narrow, const float* weight, const float* bias,
                  const float* h, int64_t h_stride, const float* slope, void* by_gates,
                  float* rest, float* sums, int64_t rows, int64_t size, int threads) {
    EITHER(gru_slope_rows, IN(gates), weight, bias, h, h_stride, slope, OUT(by_gates), rest, sums,
           rows, size, threads)
}

void bb_gru_entry(const void* product, int narrow, const float* before, const float* rest,
                  float* by_entered, float* by_h, int64_t rows, int64_t entry, int64_t size,
                  int threads) {
    EITHER(gru_entry_rows, IN(product), before, rest, by_entered, by_h, rows, entry, size, threads)
}

void bb_draw_slope(const float* logits, int64_t stride, const float* slope, int64_t slope_stride,
                   const void* later, int narrow, const float* added, int64_t added_stride,
                   float share, float* found, int64_t found_stride, int64_t rows, int64_t groups,
                   int64_t classes, int threads) {
    EITHER(draw_slope_rows, logits, stride, slope, slope_stride, IN(later), added, added_stride,
           share, found, found_stride, rows, groups, classes, threads)
}

void bb_silu_slope(const void* slope, int narrow, const float* before, void* found, int64_t rows,
                   int64_t size, int threads) {
    EITHER(silu_slope_rows, IN(slope), before, OUT(found), rows, size, threads)
}
}
