/* SPDX-License-Identifier: MIT */
/* Inside the adapters room: the repository's state, small objects and keys, entries and their
 * cache, shared contents. Lock order: an out's lock, then one of its files' locks. a->lock and a
 * version's lock are taken alone. */
#ifndef ADAPTERS_INTERNAL_H
#define ADAPTERS_INTERNAL_H

#include "adapters/adapters.h"

#include "base/buf.h"
#include "base/sha256.h"
#include "base/spool.h"
#include "host/host.h"

#include <cjson/cJSON.h>

#include <pthread.h>
#include <stdatomic.h>

#define REPO_KEY "repo.json"

enum {
    KEY_CAP = 512,
    ENTRY_BYTES_MAX = 1 << 20,
    SMALL_BYTES_MAX = 4096, /* markers, aliases, repo.json */
    ENTRY_N_MAX = 99999999, /* eight digits in a key */
    CACHE_SLOTS = 256,
    CACHE_BYTES_MAX = 8 << 20,
    VERIFIED_SLOTS = 256,
    FILES_MAX = 1024, /* of one version */
    CLAIMS_MAX = 256,
    METRICS_MAX = 4096,
    NOTES_MAX = 256,
    PAGE_MAX = 1000,
    COMMIT_ROUNDS = 5,
};

struct cache_slot {
    struct adapter_entry *entry;
    size_t bytes;
    uint64_t used; /* tick */
    int is_head;   /* the last known of its id */
};

struct verified { /* a file whose digest was compared */
    struct claas_digest sha256;
    uint64_t dev, ino, bytes;
    int64_t modified_ns;
};

struct adapters {
    struct host_instance *storage;
    struct adapters_options options; /* defaults filled; cache_dir is ours */
    uint32_t caps;
    char store_id[33];
    char *lock_path; /* repo.json as a local file; null: the store has none */
    struct spool work; /* private directory of this process, on the store's file system where it
                          lends a spool */
    atomic_uint_fast64_t sequence;

    pthread_mutex_t lock; /* of all below; never held over a call of the storage */
    pthread_cond_t turn;
    int appending; /* a store that is not atomic: somebody is between look and put */
    struct cache_slot cache[CACHE_SLOTS];
    size_t cache_bytes;
    uint64_t cache_hits, cache_misses;
    uint64_t tick;
    struct verified verified[VERIFIED_SLOTS];
    size_t next_verified;
    struct adapter_version *live; /* list of all versions given out */
    int64_t clock_offset_ns;      /* the store's clock less ours */
    int64_t clock_read_ns;        /* monotonic; 0 = never */
    struct adapter_names flat;    /* all ids, for flattened names */
    int64_t flat_read_ns;
};

/* ---- keys (key.c) ---- */

/* Appends id with '/' as '~'. */
void key_flat(struct buf *out, const char *id);
/* The way back: 0, or -1 if flat is no flattened id. */
int key_unflat(const char *flat, size_t n, char out[ADAPTER_ID_CAP]);
void key_log(char out[KEY_CAP], const char *id, uint64_t n);
/* prefix "adapters/", "aliases/", "marks/", "log/" and the flattened id, then `tail` ("" or
 * "/"). */
void key_of(char out[KEY_CAP], const char *prefix, const char *id, const char *tail);
void key_blob(char out[KEY_CAP], const struct claas_digest *sha256);
/* 1 if key is one of a blob. */
int key_blob_parse(const char *key, struct claas_digest *out);
int name_check_file(const char *name, struct claas_error *err);
/* 1 if s is 1 to cap-1 bytes of printable ASCII without blanks. */
int name_word_ok(const char *s, size_t cap);

/* ---- objects (store.c) ---- */

/* A whole small object; more than limit is CORRUPT. *out is appended to. */
int store_read(struct adapters *a, const char *key, size_t limit, struct buf *out,
               const struct claas_call *call, struct claas_error *err);
int store_write(struct adapters *a, const char *key, const void *data, size_t n, uint32_t flags,
                const struct claas_call *call, struct claas_error *err);
int store_remove(struct adapters *a, const char *key, const struct claas_call *call,
                 struct claas_error *err);
/* {"id": …} under key. */
int store_write_id(struct adapters *a, const char *key, const char *id, uint32_t flags,
                   const struct claas_call *call, struct claas_error *err);
int store_read_id(struct adapters *a, const char *key, char out[ADAPTER_ID_CAP],
                  const struct claas_call *call, struct claas_error *err);
/* The present time by the store's clock. */
int store_now(struct adapters *a, int64_t *out_ns, const struct claas_call *call,
              struct claas_error *err);
/* Contents are put under LOCK_SH, and under LOCK_EX a sweep looks how old they are and removes them: else what it found
 * old could be put again between the two, committed and lost. The lock is one of files, on repo.json, so it counts for
 * all processes and goes with them; a store without local files has none (*out_fd is -1). It is the one lock that is held
 * while the storage is called. */
int store_lock(struct adapters *a, int how, int *out_fd, struct claas_error *err);
void store_unlock(int fd); /* -1 is fine */
/* Puts the file at path under its digest, replacing what is there: contents are equal, and the age
 * starts anew. */
int store_put_blob(struct adapters *a, const struct claas_digest *sha256, const char *path,
                   uint64_t bytes, const struct claas_call *call, struct claas_error *err);
/* Sees to it that a blob is there and young enough to outlast a commit. NOT_FOUND: it is not there,
 * or (with cheap = 1) it could only be made young by sending it again. */
int store_keep_blob(struct adapters *a, const struct claas_file *file, int cheap,
                    const struct claas_call *call, struct claas_error *err);

/* ---- entries (entry.c) ---- */

struct entry_draft { /* all borrowed */
    const char *id;
    uint64_t n;
    enum adapter_kind kind;
    const char *job, *engine, *format, *base, *base_name;
    uint64_t of;
    const struct claas_file *const *files;
    uint32_t n_files;
    const char *const *claims;
    uint32_t n_claims;
    const cJSON *settings, *metrics;     /* objects or null */
    const struct claas_digest *previous; /* null for n = 1 */
};
int entry_encode(const struct entry_draft *draft, struct buf *out, struct claas_error *err);
/* Checks everything, that it is entry n of id above all. CORRUPT names the key. */
int entry_decode(const char *id, uint64_t n, const char *text, size_t bytes,
                 struct adapter_entry **out, struct claas_error *err);
size_t entry_bytes(const struct adapter_entry *e);

/* ---- cache (cache.c): all take a->lock themselves ---- */

struct adapter_entry *cache_get(struct adapters *a, const char *id,
                                uint64_t n); /* a reference, or null */
struct adapter_entry *cache_head(struct adapters *a, const char *id);
void cache_put(struct adapters *a, struct adapter_entry *e, int is_head);
void cache_clear(struct adapters *a);
int cache_is_verified(struct adapters *a, const struct claas_digest *sha256,
                      const struct verified *file);
void cache_set_verified(struct adapters *a, const struct verified *file);

/* ---- log (log.c) ---- */

/* Reads entry n past the cache. */
int log_read(struct adapters *a, const char *id, uint64_t n, const struct claas_call *call,
             struct adapter_entry **out, struct claas_error *err);
/* Creates the drafted entry. An entry of the same job that is there already is the result. Else
 * CONFLICT. */
int log_append(struct adapters *a, const struct entry_draft *draft, const struct claas_call *call,
               struct adapter_entry **out, struct claas_error *err);

/* ---- lists (list.c) ---- */

int names_add(struct adapter_names *list, const char *name, struct claas_error *err);
/* Ids under a key prefix ("adapters/", "aliases/") as adapter_list describes; only those keep()
 * accepts (null: all). */
int list_ids(struct adapters *a, const char *kind, const char *prefix, const char *after,
             uint32_t limit,
             int (*keep)(struct adapters *a, const char *id, const struct claas_call *call,
                         struct claas_error *err),
             const struct claas_call *call, struct adapter_names *out, struct claas_error *err);

/* ---- contents and versions (version.c, out.c) ---- */

struct content_file { /* of an out */
    char *name;
    char *path; /* null: the store has it already */
    uint32_t roles;
    uint64_t bytes;
    struct claas_digest sha256; /* once closed */
    pthread_mutex_t lock;       /* of what follows */
    struct sha256 *hash;        /* while it is written */
    int fd;                     /* while it is written, else -1 */
    atomic_int failed;
    atomic_int done; /* complete: size and digest are known */
};
struct content { /* the files of an out, shared with the candidate made of it */
    atomic_int refs;
    char *dir;
    struct content_file **files;
    size_t n_files, cap_files;
};
void content_unref(struct content *c);

struct version_file {
    char *path;
    int busy; /* somebody is getting it */
};
struct adapter_version {
    struct claas_version abi; /* first: plugins get a pointer to this */
    struct adapters *a;
    struct adapter_version *next; /* a->lock */
    uint32_t refs;                /* a->lock */
    struct adapter_entry *entry;  /* null for a candidate */
    struct content *content;      /* of a candidate */
    char *label;
    char *format;                   /* a candidate's */
    const struct claas_file **list; /* a candidate's */
    struct claas_file *facts;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t change;
    struct version_file *files;  /* in the order of abi.files */
    char *work;                  /* made when first needed */
    struct version_file dirs[8]; /* by roles */
};
/* A candidate over c's files, which must be closed. Takes its own reference. */
int version_candidate(struct adapters *a, const char *id, const char *format, struct content *c,
                      const struct claas_digest *state, const struct claas_digest *serve,
                      struct adapter_version **out, struct claas_error *err);
/* A fresh name in the private directory, on the heap. */
char *work_path(struct adapters *a, const char *kind);

#endif
