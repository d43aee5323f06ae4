// Chooses a token of each row of logits as `model::llm::output::sample` does, so that logits need not leave the device.
//
// Likelihoods are summed as integers: a sum is then the same in whatever order threads add to it, and so is the token.
// Nothing is sorted. The order of a sort, the likeliest first and of two that are alike the one of the lower index, is
// only looked up at places: candidates are counted and summed by the leading bits of their weights, and of those that
// share the bits that the place has, the few that there are as a rule are ranked one by one.

#include "common.cuh"

// One row's choice.
struct Draw {
    // The random number, of 2^64.
    u64 number;
    // The nucleus, of 2^64: `WHOLE` keeps all.
    u64 share;
    // Which of the rows.
    u32 row;
    // Its edits, from the first on, and how many of them forbid.
    u32 first, edits, forbidden;
    // The likeliest that are kept; 0 keeps all.
    u32 keep;
    // What differences of logits are multiplied with; below 0 the largest is chosen.
    float scale;
    // The least weight there is, the likeliest token's being 1; at least that of the lowest code.
    float floor;
    float repetition;
};

// What is done to one token's logit; no two edits of a row are of one token.
struct Edit {
    u32 token;
    float bias, less;
    u32 what;
};

constexpr u32 REPEATED = 1, FORBIDDEN = 2;
constexpr u64 WHOLE = ~u64(0);

// A weight's code is its bits as a float, less those of 2^-29: 28 bits, of which three digits are looked at in turn.
constexpr u32 LOWEST_BITS = 0x31000000;
constexpr u32 DIGITS = 3;
constexpr u32 BINS = 2048, FINE_BINS = 512;
// Candidates that are ranked one by one.
constexpr u32 LISTED = 256;

// Bits below the digits up to this one.
DEVICE u32 below(u32 digit) { return digit == 0 ? 17 : digit == 1 ? 8 : 0; }

// A weight as a share of 2^44, cut off: 2^19 of them are within 64 bits.
DEVICE u64 fixed(u32 code) { return u64(float_of(code + LOWEST_BITS) * 17592186044416.0f); }

// e^x for x from -21 to 0, nearly always the float that is nearest to it.
DEVICE float power(float x) {
    const float n = float(nearest(product(x, 1.44269504f)));
    // x = n ln 2 + r, with what r lacks of it in `rest`.
    const float whole = fused(n, -0.693359375f, x), low = product(n, -2.12194440e-4f);
    const float r = whole - low;
    float rest = (whole - r) - low;
    float p = 2.48015873e-5f;
    p = fused(p, r, 1.98412698e-4f);
    p = fused(p, r, 1.38888889e-3f);
    p = fused(p, r, 8.33333333e-3f);
    p = fused(p, r, 4.16666667e-2f);
    p = fused(p, r, 1.66666667e-1f);
    p = fused(p, r, 0.5f);
    const float sum = 1.0f + r;
    rest += (1.0f - sum) + r;
    return product(sum + (product(product(r, r), p) + rest), float_of(u32(127 + int(n)) << 23));
}

// Counts and sums by a digit, the sums in two halves: not every card adds 64 bits at once.
template <u32 N>
struct Histogram {
    u32 counts[N], low[N], high[N];

    DEVICE void clear() {
        for (u32 i = threadIdx.x; i < N; i += blockDim.x) counts[i] = low[i] = high[i] = 0;
    }

    DEVICE void add(u32 bin, u64 weight) {
        add_to(&counts[bin], 1);
        const u32 before = add_to(&low[bin], u32(weight));
        const u32 more = u32(weight >> 32) + (before + u32(weight) < before);
        if (more) add_to(&high[bin], more);
    }

    DEVICE u64 sum(u32 bin) const { return u64(high[bin]) << 32 | low[bin]; }
};

// A place in the order of candidates, the likeliest first.
struct Standing {
    // What it is behind the first of those that share its digits, in candidates or in weight, and the digits.
    u64 left;
    u32 digits, sharing;
    // The weight of all that are before it.
    u64 before;
    // The candidate that is there, once it is found.
    u32 code, at;
};

struct Listed {
    u32 code, at;
};

// What the threads of a block share.
struct Shared {
    Histogram<BINS> coarse;
    Histogram<FINE_BINS> fine;
    u64 sums[32];
    u32 counts[32];
    Largest largest[32];
    Listed list[LISTED];
    u32 listed;
    Standing standing;
};

// A block's row. From `weigh` on it holds codes: 0 for what is no candidate.
struct Chooser {
    Shared& s;
    float* logits;
    u32 width;

    DEVICE u32 code(u32 i) const { return bits_of(logits[i]); }

    // For every thread.
    DEVICE u64 total(u64 mine) {
        mine = warp_sum(mine);
        if (threadIdx.x % 32 == 0) s.sums[threadIdx.x / 32] = mine;
        barrier();
        u64 sum = 0;
        for (u32 warp = 0; warp < blockDim.x / 32; warp++) sum += s.sums[warp];
        barrier();
        return sum;
    }

    // Whether anything is possible besides what is forbidden.
    DEVICE bool leaves_any(const Draw& draw, const Edit* edits) {
        const float none = nothing().value;
        u64 possible = 0;
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) possible += !(logits[i] == none);
        for (u32 i = threadIdx.x; i < draw.edits; i += blockDim.x)
            possible -= (edits[i].what & FORBIDDEN) && !(logits[edits[i].token] == none);
        return total(possible) > 0;
    }

    DEVICE void edit(const Draw& draw, const Edit* edits) {
        const bool forbids = draw.forbidden > 0 && leaves_any(draw, edits);
        for (u32 i = threadIdx.x; i < draw.edits; i += blockDim.x) {
            const Edit edit = edits[i];
            float logit = logits[edit.token];
            if (forbids && (edit.what & FORBIDDEN)) logit = nothing().value;
            logit += edit.bias;
            if (edit.what & REPEATED)
                logit = logit > 0 ? quotient(logit, draw.repetition) : product(logit, draw.repetition);
            logits[edit.token] = logit - edit.less;
        }
        barrier();
    }

    // Puts codes in the place of logits; the number of candidates and their weight. `ordered`: they are looked up in
    // order later.
    DEVICE u64 weigh(const Draw& draw, float top, bool ordered, u64& count) {
        if (ordered) s.coarse.clear();
        barrier();
        u64 sum = 0;
        count = 0;
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
            const float x = product(logits[i] - top, draw.scale);
            // What is no number is neither.
            const float weight = x >= -21.0f ? power(x) : 0.0f;
            const bool kept = weight >= draw.floor;
            const u32 code = kept ? bits_of(weight) - LOWEST_BITS : 0;
            logits[i] = float_of(code);
            if (!kept) continue;
            count++;
            sum += fixed(code);
            if (ordered) s.coarse.add(code >> below(0), fixed(code));
        }
        count = total(count);
        return total(sum);
    }

    // Goes on to the bin that a standing's place is in, from the last on; a digit has so many values.
    template <u32 N>
    DEVICE void narrow(const Histogram<N>& h, u32 values, bool by_count) {
        constexpr u32 PART = N / 32;
        if (threadIdx.x < 32) {
            u32 count = 0;
            u64 sum = 0;
            for (u32 i = 0; i < PART; i++) {
                // Turned, so that lanes read from different banks.
                const u32 bin = threadIdx.x * PART + (i + threadIdx.x) % PART;
                count += h.counts[bin];
                sum += h.sum(bin);
            }
            s.counts[threadIdx.x] = count;
            s.sums[threadIdx.x] = sum;
        }
        barrier();
        if (threadIdx.x == 0) {
            Standing& at = s.standing;
            auto passes = [&](u32 count, u64 sum) {
                const u64 size = by_count ? count : sum;
                if (at.left < size) return false;
                at.left -= size;
                at.before += sum;
                return true;
            };
            u32 part = 31;
            while (part > 0 && passes(s.counts[part], s.sums[part])) part--;
            u32 bin = part * PART + PART - 1;
            while (bin > part * PART && passes(h.counts[bin], h.sum(bin))) bin--;
            at.sharing = h.counts[bin];
            at.digits = at.digits * values + bin;
        }
        barrier();
    }

    // Ranks those that share a standing's digits.
    DEVICE void rank(u32 digit, bool by_count) {
        if (threadIdx.x == 0) s.listed = 0;
        barrier();
        const Standing at = s.standing;
        for (u32 i = threadIdx.x; i < width; i += blockDim.x)
            if (code(i) && code(i) >> below(digit) == at.digits) s.list[add_to(&s.listed, 1)] = {code(i), i};
        barrier();
        for (u32 i = threadIdx.x; i < at.sharing; i += blockDim.x) {
            const Listed mine = s.list[i];
            u64 count = 0, weight = 0;
            for (u32 j = 0; j < at.sharing; j++) {
                const Listed other = s.list[j];
                const bool first = other.code > mine.code || (other.code == mine.code && other.at < mine.at);
                count += first;
                weight += first ? fixed(other.code) : 0;
            }
            const u64 from = by_count ? count : weight, size = by_count ? 1 : fixed(mine.code);
            if (at.left >= from && at.left - from < size) {
                s.standing.before = at.before + weight;
                s.standing.code = mine.code;
                s.standing.at = mine.at;
            }
        }
        barrier();
    }

    // The candidate at a place, which is counted in candidates or in weight and is less than all there are.
    DEVICE Standing standing(u64 place, bool by_count) {
        if (threadIdx.x == 0) s.standing = {place, 0, 0, 0, 0, 0};
        barrier();
        narrow(s.coarse, BINS, by_count);
        for (u32 digit = 0;; digit++) {
            const Standing at = s.standing;
            if (at.sharing <= LISTED) {
                rank(digit, by_count);
                break;
            }
            if (digit + 1 == DIGITS) {
                // All of them are alike, so the lower index is before.
                const u64 rank = by_count ? at.left : at.left / fixed(at.digits);
                const u32 found = walk(rank, [&](u32 i) { return u64(code(i) == at.digits); });
                if (threadIdx.x == 0) s.standing = {0, 0, 0, at.before + rank * fixed(at.digits), at.digits, found};
                barrier();
                break;
            }
            const u32 shift = below(digit + 1), values = 1 << (below(digit) - shift);
            s.fine.clear();
            barrier();
            for (u32 i = threadIdx.x; i < width; i += blockDim.x)
                if (code(i) && code(i) >> below(digit) == at.digits)
                    s.fine.add((code(i) >> shift) % values, fixed(code(i)));
            barrier();
            narrow(s.fine, values, by_count);
        }
        const Standing found = s.standing;
        barrier();
        return found;
    }

    // In the order of indices, where the sum of measures passes `left`; it is less than their sum.
    template <class M>
    DEVICE u32 walk(u64 left, M measure) {
        const u32 warp = threadIdx.x / 32, warps = blockDim.x / 32;
        u32 from = 0, end = width;
        while (end - from > 32) {
            const u32 span = (end - from + 32 * warps - 1) / (32 * warps) * 32;
            const u32 begin = from + warp * span;
            u64 sum = 0;
            for (u32 i = begin + threadIdx.x % 32; i < min(begin + span, end); i += 32) sum += measure(i);
            sum = warp_sum(sum);
            if (threadIdx.x % 32 == 0) s.sums[warp] = sum;
            barrier();
            u32 part = 0;
            while (part + 1 < warps && left >= s.sums[part]) left -= s.sums[part++];
            barrier();
            from += part * span;
            end = min(from + span, end);
        }
        for (; from + 1 < end && left >= measure(from); from++) left -= measure(from);
        return from;
    }

    DEVICE u32 choose(const Draw& draw, const Edit* edits) {
        edit(draw, edits);
        const Largest top = block_largest(logits, width, s.largest);
        if (draw.scale < 0) return top.at == nothing().at ? 0 : top.at;
        u64 count;
        u64 sum = weigh(draw, top.value, draw.keep > 0 || draw.share != WHOLE, count);
        if (count == 0) return 0;
        // The last that is kept.
        u32 last = 0, last_at = width;
        if (draw.keep > 0 && draw.keep < count) {
            const Standing at = standing(draw.keep - 1, true);
            last = at.code;
            last_at = at.at;
            sum = at.before + fixed(at.code);
        }
        if (draw.share == WHOLE) {
            return walk(high_product(draw.number, sum), [&](u32 i) {
                const u32 c = code(i);
                return c > last || (c == last && c && i <= last_at) ? fixed(c) : 0;
            });
        }
        // Kept is what has less than the share before it. The draw goes through them in order too.
        const u64 reached = high_product(draw.share, sum) + (draw.share * sum != 0);
        const Standing end = standing(reached > 0 ? reached - 1 : 0, false);
        return standing(high_product(draw.number, end.before + fixed(end.code)), false).at;
    }
};

// A block a draw, of at least two warps. Logits are (rows, width) with at most 2^19 columns, and scratch afterwards in the
// rows that are drawn from.
KERNEL(1024) sample(float* logits, u32 width, const Draw* draws, const Edit* edits, u32* out) {
    follow();
    SHARED Shared s;
    const Draw draw = draws[blockIdx.x];
    Chooser chooser{s, logits + u64(draw.row) * width, width};
    const u32 token = chooser.choose(draw, edits + draw.first);
    if (threadIdx.x == 0) out[blockIdx.x] = token;
}
