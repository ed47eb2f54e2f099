/* Reads a buffer on large pages with some threads, again and again, and tells how long the fastest pass took. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { LANES = 16, MOST_THREADS = 1024 };

typedef struct {
    const uint64_t *words;
    size_t count;
    uint64_t sum;
} Share;

/* Sixteen sums side by side, so that reading is all that takes time. */
static void *read_share(void *argument) {
    Share *share = argument;
    uint64_t sums[LANES] = {0};
    for (size_t i = 0; i + LANES <= share->count; i += LANES)
        for (int lane = 0; lane < LANES; lane++) sums[lane] += share->words[i + lane];
    for (int lane = 0; lane < LANES; lane++) share->sum += sums[lane];
    return NULL;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + 1e-9 * time.tv_nsec;
}

/* Negative where there is no such memory. */
double read_seconds(size_t bytes, int threads, int repeats) {
    if (threads < 1 || threads > MOST_THREADS) return -1.0;
    void *buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) return -1.0;
    madvise(buffer, bytes, MADV_HUGEPAGE);
    memset(buffer, 1, bytes);
    size_t count = bytes / sizeof(uint64_t) / threads;
    double best = 1e9;
    for (int repeat = 0; repeat < repeats; repeat++) {
        pthread_t running[MOST_THREADS];
        Share shares[MOST_THREADS];
        double began = now();
        for (int i = 0; i < threads; i++) {
            shares[i] = (Share){(const uint64_t *)buffer + i * count, count, 0};
            pthread_create(&running[i], NULL, read_share, &shares[i]);
        }
        for (int i = 0; i < threads; i++) pthread_join(running[i], NULL);
        double seconds = now() - began;
        if (seconds < best) best = seconds;
    }
    munmap(buffer, bytes);
    return best;
}
