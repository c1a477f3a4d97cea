/* SPDX-License-Identifier: MIT */
/* The adapter repository over any storage instance: logs whose entry n+1 is the commit, contents by
 * digest, names, versions as plugins see them, what an engine writes, rollback, aliases, marks,
 * export, retention.
 *
 * Every function may be called from any thread. No lock is held while a plugin is called, but
 * for one of files (internal.h, store_lock). `call` may be null (no deadline); it is handed to the
 * storage plugin. A corrupt entry or blob is CLAAS_ERR_CORRUPT with its key in the message, and
 * nothing is changed. */
#ifndef ADAPTERS_ADAPTERS_H
#define ADAPTERS_ADAPTERS_H

#include <claas/adapter.h>
#include <claas/error.h>
#include <claas/host.h>

#include <stddef.h>
#include <stdint.h>

struct adapters;        /* a repository */
struct adapter_version; /* counted reference to a version, see below */
struct adapter_out;     /* what an engine writes, see below */
struct host_instance;   /* core/host: an open storage instance */

#define ADAPTER_ID_CAP 201  /* 200 bytes and a zero */
#define ADAPTER_JOB_CAP 129 /* 128 bytes and a zero */
#define ADAPTER_SERVING_CAP 224

/* ---- the repository ---- */

struct adapters_options { /* zero: the default in brackets */
    /* Private directory of this host: for contents of stores without local files, and for scratch
     * where the storage lends none; made when absent. Required. */
    const char *cache_dir;
    uint32_t keep_serve; /* SERVE contents of the last N versions of an adapter [10] */
    uint32_t keep_train; /* TRAIN contents of the last N [2] */
    uint32_t keep_days;  /* beyond those one version a day, so many days back [30] */
    int64_t grace_ns;    /* unreferenced contents younger than this stay [24 hours] */
};

/* Opens the repository in `storage` (which must outlive it): probes the store, reads repo.json or
 * makes it. UNSUPPORTED: made by a newer claas; CORRUPT: repo.json cannot be understood. */
int adapters_open(struct host_instance *storage, const struct adapters_options *options,
                  const struct claas_call *call, struct adapters **out, struct claas_error *err);
/* All versions and outs must have been given back. Null is fine. */
void adapters_close(struct adapters *a);

/* For those who watch. */
struct adapters_counts {
    uint64_t hits, misses; /* of entries of logs, in the cache of this process */
    uint64_t bytes;        /* in that cache */
    uint64_t known;        /* adapters found when the store was last listed for names */
};
void adapters_count(struct adapters *a, struct adapters_counts *out);

/* 1: creation if absent has one winner here, so several hosts may use the store; 0: this one
 * only. */
int adapters_shared(const struct adapters *a);
/* 32 hexadecimal digits naming the store; valid until close. */
const char *adapters_store_id(const struct adapters *a);

/* ---- names ---- */

/* 0 if id is 1 to 8 segments of [A-Za-z0-9][A-Za-z0-9._-]{0,63} joined by '/', 200 bytes in all;
 * else INVALID. */
int adapter_id_check(const char *id, struct claas_error *err);

/* What init is really to create: id without outer slashes and without a trailing -latest, -init or
 * @n. Checked. */
int adapter_id_strip(const char *id, char out[ADAPTER_ID_CAP], struct claas_error *err);

struct adapter_name {
    char id[ADAPTER_ID_CAP]; /* "" = the base model */
    uint64_t n;              /* a fixed version (id@n), 0 = the head */
    int alias;               /* it was found as an alias */
};
/* What `name` means: exact id, alias, id@n, id-latest or id-init, the flattened id (owner-name,
 * when unique; with -latest or -init too). An empty or null name is default_model; if that is empty
 * or null too: the base.
 * NOT_FOUND: none of them (names of base models are the caller's matter). A fixed version is only
 * checked to have a well-formed number: version_get looks. */
int adapter_resolve(struct adapters *a, const char *name, const char *default_model,
                    const struct claas_call *call, struct adapter_name *out,
                    struct claas_error *err);

/* The name under which an upstream serves a version: "<label>-<12 hex of serve>", the label without
 * its @n, each run of other characters than [A-Za-z0-9._-] as one '-'. The same contents of one
 * adapter always give the same name. */
void adapter_serving_name(const struct claas_version *v, char out[ADAPTER_SERVING_CAP]);

/* ---- log entries ---- */

enum adapter_kind {
    ADAPTER_CREATE = 1,
    ADAPTER_STEP,
    ADAPTER_IMPORT,
    ADAPTER_RESTORE,
    ADAPTER_UNDO,
    ADAPTER_DELETE,
};
const char *adapter_kind_name(enum adapter_kind kind);

struct adapter_entry { /* immutable, counted */
    const char *id;
    uint64_t n; /* 1, 2, … without gaps; never reused */
    enum adapter_kind kind;
    int64_t time_ns; /* writer's clock, since 1970 */
    const char *job; /* never empty */
    /* "" where not known or of no meaning; base: its identity. */
    const char *engine, *format, *base, *base_name;
    uint64_t of; /* restore: the version whose files these are; else 0 */
    uint32_t n_files, n_claims;
    const struct claas_file *const *files; /* none in a delete entry */
    const char *const *claims;             /* things made elsewhere that belong to this version */
    const char *settings_json;             /* object, "{}" if none */
    const char *metrics_json;         /* object: of the last step; "steps": [{…}] if several */
    struct claas_digest previous;     /* of entry n-1's bytes; zeros in entry 1 */
    struct claas_digest sha256;       /* of this entry's bytes */
    struct claas_digest state, serve; /* as in claas_version; zeros without files */
};
struct adapter_entry *adapter_entry_ref(struct adapter_entry *e);
void adapter_entry_unref(struct adapter_entry *e); /* null is fine */

/* The last entry of a living adapter. NOT_FOUND: never made, or deleted. */
int adapter_head(struct adapters *a, const char *id, const struct claas_call *call,
                 struct adapter_entry **out, struct claas_error *err);
/* The last entry whatever its kind, *out null when the id never had one: what a create has to
 * expect. */
int adapter_log_end(struct adapters *a, const char *id, const struct claas_call *call,
                    struct adapter_entry **out, struct claas_error *err);
int adapter_entry_get(struct adapters *a, const char *id, uint64_t n, const struct claas_call *call,
                      struct adapter_entry **out, struct claas_error *err);
/* The entry of `job` among those after `from` (0: all): NOT_FOUND if there is none. */
int adapter_log_find(struct adapters *a, const char *id, uint64_t from, const char *job,
                     const struct claas_call *call, struct adapter_entry **out,
                     struct claas_error *err);

struct adapter_entries { /* free with adapter_entries_clear */
    struct adapter_entry **at;
    size_t n;
    uint64_t next; /* hand this in as `before` for the next page; 0 = that was all */
};
/* Newest first: entries below `before` (0 = from the end), at most `limit` (1 to 1000). Also of a
 * deleted adapter; NOT_FOUND if the id never had an entry. The chain of digests is checked along
 * the page. */
int adapter_history(struct adapters *a, const char *id, uint64_t before, uint32_t limit,
                    const struct claas_call *call, struct adapter_entries *out,
                    struct claas_error *err);
void adapter_entries_clear(struct adapter_entries *list);

struct adapter_names { /* free with adapter_names_clear */
    char **at;
    size_t n;
    int more; /* there are further ones: hand in the last as `after` */
};
void adapter_names_clear(struct adapter_names *list);

/* Ids of living adapters equal to `prefix` or below it (so "user1" does not match "user10"); null
 * or "" = all; outer slashes do not matter; a prefix no id can have gives none. In the store's
 * order; `after` null = from the start. */
int adapter_list(struct adapters *a, const char *prefix, const char *after, uint32_t limit,
                 const struct claas_call *call, struct adapter_names *out, struct claas_error *err);

/* ---- versions as plugins see them ---- */

/* Version n of id (0 = head). NOT_FOUND: no such entry, it has no files, or the adapter is deleted.
 * Nothing is fetched: path() and dir() of the ABI struct do that, verify against the digests, and
 * answer NOT_FOUND for contents that retention has pruned. Paths stay until the last reference is
 * given back. */
int adapter_version_get(struct adapters *a, const char *id, uint64_t n,
                        const struct claas_call *call, struct adapter_version **out,
                        struct claas_error *err);
struct adapter_version *adapter_version_ref(struct adapter_version *v);
void adapter_version_unref(struct adapter_version *v); /* null is fine */
const struct claas_version *adapter_version_abi(const struct adapter_version *v);
/* The entry (format, base, number …), valid as long as the reference; null for a candidate. */
const struct adapter_entry *adapter_version_entry(const struct adapter_version *v);

/* The two digests of a set of files, for those who check them. */
int adapter_digests(const char *format, const char *base, const struct claas_file *const *files,
                    uint32_t n, struct claas_digest *out_state, struct claas_digest *out_serve,
                    struct claas_error *err);

/* ---- what an engine writes ---- */

struct adapter_out_params {
    const char *id;   /* label of messages */
    const char *base; /* identity of the base model: part of the serve digest; "" if unknown */
    /* Journals before it returns; null: nobody does. */
    int (*claim)(void *ctx, const char *uri, struct claas_error *err);
    void *ctx;
};
int adapter_out_new(struct adapters *a, const struct adapter_out_params *params,
                    struct adapter_out **out, struct claas_error *err);
/* To be handed to create(), train() or convert(). */
struct claas_out *adapter_out_abi(struct adapter_out *o);
/* Removes what was written but not committed. Null is fine. */
void adapter_out_free(struct adapter_out *o);

struct adapter_metric {
    uint32_t step;
    const char *name;
    double value; /* finite */
};
struct adapter_note {
    uint32_t step;
    const char *name, *text;
};
/* What the engine reported, in order; valid until free. Call when the engine has returned. */
size_t adapter_out_metrics(const struct adapter_out *o, const struct adapter_metric **out);
/* The first metric that was told as NaN or infinite, which is not among the others; null if there
 * was none. A step that tells one must not become a version. */
const char *adapter_out_spoilt(const struct adapter_out *o);
size_t adapter_out_notes(const struct adapter_out *o, const struct adapter_note **out);
/* The last value reported under `name`: 0 with *value left alone if there is none, else 1. */
int adapter_out_metric(const struct adapter_out *o, const char *name, double *value);

/* The sealed contents as a version without a number, to be loaded and weighed before the commit.
 * INVALID before seal. It keeps the files alive after adapter_out_free. */
int adapter_out_version(struct adapter_out *o, struct adapter_version **out,
                        struct claas_error *err);
/* Puts the contents into the store now, several files at once; commit does so if it was not done.
 * May run beside loads. */
int adapter_out_put(struct adapter_out *o, const struct claas_call *call, struct claas_error *err);

/* ---- changes ---- */

struct adapter_commit {
    enum adapter_kind kind; /* create, step, import or undo */
    const char *job;   /* at most 128 bytes; names the attempt's job: how a lost reply is settled */
    uint64_t expected; /* number of the entry this one follows, 0 = the log is empty */
    const char *engine, *base_name;
    const char *settings_json; /* object or null */
};
/* Appends entry expected+1 with the sealed contents of `o`. An entry of the same job there already
 * counts as done. CONFLICT: somebody else's is there (train again from it). The marker of the
 * adapter is set. A create may follow any entry, of a living adapter too: clients make the same id
 * again and expect a fresh start (so did the system they come from, mixing new weights with old
 * moments). It is one more version on the same log: nothing of the old one is mixed in, its history
 * stays, rollback leads back. Step and undo need a living adapter. */
int adapter_commit(struct adapters *a, const char *id, const struct adapter_commit *fields,
                   struct adapter_out *o, const struct claas_call *call, struct adapter_entry **out,
                   struct claas_error *err);

/* Appends a restore entry with the files of version n, whatever head there is by now. NOT_FOUND: no
 * such version, or its contents were pruned. CORRUPT: its contents are damaged. TRAIN contents that
 * were pruned are left out: training goes on with fresh moments. */
int adapter_rollback(struct adapters *a, const char *id, uint64_t n, const char *job,
                     const struct claas_call *call, struct adapter_entry **out,
                     struct claas_error *err);

/* An exact id (or id-latest, id-init): appends a delete entry, removes marker, marks and the
 * aliases that point at it; an alias: removes the mapping only. NOT_FOUND: neither. Contents go
 * with the sweep. */
int adapter_delete(struct adapters *a, const char *name, const char *job,
                   const struct claas_call *call, struct claas_error *err);

/* Aliases: same grammar as ids; last writer wins. Set: INVALID if a living adapter has that id,
 * NOT_FOUND if the target is none. Get: NOT_FOUND. Delete: an absent one is NOT_FOUND. List as
 * adapter_list. */
int adapter_alias_set(struct adapters *a, const char *alias, const char *id,
                      const struct claas_call *call, struct claas_error *err);
int adapter_alias_get(struct adapters *a, const char *alias, const struct claas_call *call,
                      char out[ADAPTER_ID_CAP], struct claas_error *err);
int adapter_alias_delete(struct adapters *a, const char *alias, const struct claas_call *call,
                         struct claas_error *err);
int adapter_alias_list(struct adapters *a, const char *prefix, const char *after, uint32_t limit,
                       const struct claas_call *call, struct adapter_names *out,
                       struct claas_error *err);

/* Marks ([A-Za-z0-9._-], 64 bytes) on a version: its SERVE contents are kept. Both are
 * idempotent. */
int adapter_mark_set(struct adapters *a, const char *id, uint64_t n, const char *tag,
                     const struct claas_call *call, struct claas_error *err);
int adapter_mark_clear(struct adapters *a, const char *id, uint64_t n, const char *tag,
                       const struct claas_call *call, struct claas_error *err);
/* All marks of an adapter as "n.tag" with n in plain decimal. */
int adapter_mark_list(struct adapters *a, const char *id, const struct claas_call *call,
                      struct adapter_names *out, struct claas_error *err);

/* ---- export, retention ---- */

/* The version's files (all roles that are still there) as a zip in PEFT layout. *out_fd is a
 * read-only file at offset 0 that vanishes when closed; the caller closes it. */
int adapter_export(struct adapters *a, struct adapter_version *v, const struct claas_call *call,
                   int *out_fd, uint64_t *out_bytes, struct claas_error *err);
/* "ada/tutor" → "ada__tutor.zip"; out takes 420 bytes. */
void adapter_export_name(const char *id, char *out, size_t cap);

struct adapter_sweep {
    uint64_t n_blobs, bytes;           /* seen */
    uint64_t n_removed, bytes_removed; /* or, dry: to be removed */
    struct adapter_names keys;         /* of those, at most 1000 (more: set when cut) */
};
/* Deletes contents no kept version needs and that are older than the grace time by the store's
 * clock; dry: only tells. Anything unreadable in any log: an error, and nothing is deleted. Free
 * out->keys. */
int adapter_sweep(struct adapters *a, int dry, const struct claas_call *call,
                  struct adapter_sweep *out, struct claas_error *err);

#endif
