/* SPDX-License-Identifier: MIT */
/* Memory of the device. Small blocks come from the heap. Large ones are mapped, in large pages where the system has them,
 * since panels of a matrix lie far apart; freed ones are kept for the next allocation, up to a limit. */
#include "config.h"

#include "kernels/cpu/device.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Checkers of addresses see heap blocks only. */
#if defined(__SANITIZE_ADDRESS__)
#define MAP_FROM SIZE_MAX
#else
#define MAP_FROM ((size_t)1 << 20)
#endif
#define ROUND ((size_t)2 << 20) /* mappings are whole large pages */

/* Before every block; 64 bytes, so that what follows stays aligned. */
union memory_head {
    size_t mapped; /* bytes of the mapping, 0: from the heap */
    char space[64];
};

/* ---- kept blocks, under the lock ---- */

static struct kept_block keeper_remove(struct keeper *keeper, size_t i)
{
    struct kept_block block = keeper->blocks[i];
    keeper->n--;
    keeper->bytes -= block.bytes;
    memmove(&keeper->blocks[i], &keeper->blocks[i + 1], (keeper->n - i) * sizeof block);
    return block;
}

/* Gives the oldest back until `more` bytes fit. */
static void keeper_make_room(struct keeper *keeper, size_t more)
{
    while (keeper->n > 0 && (more > keeper->limit || keeper->bytes > keeper->limit - more)) {
        struct kept_block block = keeper_remove(keeper, 0);
        (void)munmap(block.map, block.bytes);
    }
}

/* The smallest block that is large enough and not far too large; null: none. */
static void *keeper_take(struct keeper *keeper, size_t bytes, size_t *out_bytes)
{
    size_t best = keeper->n;
    for (size_t i = 0; i < keeper->n; i++) {
        size_t size = keeper->blocks[i].bytes;
        if (size >= bytes && size / 2 <= bytes && (best == keeper->n || size < keeper->blocks[best].bytes)) {
            best = i;
        }
    }
    if (best == keeper->n) {
        keeper_make_room(keeper, bytes); /* what is new and what is kept stay within the limit together */
        return NULL;
    }
    struct kept_block block = keeper_remove(keeper, best);
    *out_bytes = block.bytes;
    return block.map;
}

static int keeper_put(struct keeper *keeper, void *map, size_t bytes)
{
    if (bytes > keeper->limit) {
        return 0;
    }
    keeper_make_room(keeper, bytes);
    if (keeper->n == sizeof keeper->blocks / sizeof keeper->blocks[0]) {
        struct kept_block oldest = keeper_remove(keeper, 0);
        (void)munmap(oldest.map, oldest.bytes);
    }
    keeper->blocks[keeper->n++] = (struct kept_block){ map, bytes };
    keeper->bytes += bytes;
    return 1;
}

void kernels_set_kept(struct kernels *k, size_t bytes)
{
    (void)pthread_mutex_lock(&k->keeper.lock);
    k->keeper.limit = bytes;
    keeper_make_room(&k->keeper, 0);
    (void)pthread_mutex_unlock(&k->keeper.lock);
}

/* ---- blocks ---- */

static union memory_head *map_block(struct kernels *k, size_t bytes, int *out_dirty)
{
    size_t size = (bytes + sizeof(union memory_head) + ROUND - 1) / ROUND * ROUND;
    (void)pthread_mutex_lock(&k->keeper.lock);
    void *map = keeper_take(&k->keeper, size, &size);
    (void)pthread_mutex_unlock(&k->keeper.lock);
    *out_dirty = map != NULL;
    if (!map) {
        map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED) {
            return NULL;
        }
        (void)madvise(map, size, MADV_HUGEPAGE); /* only advice */
    }
    union memory_head *head = map;
    head->mapped = size;
    return head;
}

static int alloc(struct kernels *k, size_t bytes, int zeroed, void **out, struct claas_error *err)
{
    union memory_head *head = NULL;
    int dirty = 0;
    if (bytes == 0) {
        *out = NULL;
        return 0;
    }
    if (bytes <= SIZE_MAX / 2) {
        head = bytes < MAP_FROM ? mem_aligned(sizeof *head + bytes) : map_block(k, bytes, &dirty);
    }
    if (!head) {
        return err_set(err, CLAAS_ERR_EXHAUSTED, NULL, "cannot allocate %zu bytes for computing: out of memory", bytes);
    }
    if (dirty && zeroed) {
        memset(head + 1, 0, bytes);
    }
    *out = head + 1;
    return 0;
}

int kernels_alloc(struct kernels *k, size_t bytes, void **out, struct claas_error *err)
{
    return alloc(k, bytes, 1, out, err);
}

int kernels_alloc_raw(struct kernels *k, size_t bytes, void **out, struct claas_error *err)
{
    return alloc(k, bytes, 0, out, err);
}

void kernels_free(struct kernels *k, void *p)
{
    if (!p) {
        return;
    }
    union memory_head *head = (union memory_head *)p - 1;
    size_t mapped = head->mapped;
    if (!mapped) {
        free(head);
        return;
    }
    (void)pthread_mutex_lock(&k->keeper.lock);
    int kept = keeper_put(&k->keeper, head, mapped);
    (void)pthread_mutex_unlock(&k->keeper.lock);
    if (!kept) {
        (void)munmap(head, mapped);
    }
}
