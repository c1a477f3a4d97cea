/* SPDX-License-Identifier: MIT */
/* The tables, by version: step n takes a database from version n to n + 1. Steps are never changed once released,
 * only added, so that every older database can be brought up to date. */
#include "config.h"

#include "state/db.h"

#include "base/err.h"
#include "base/log.h"

/* "clas": tells our database from anybody else's. */
#define APPLICATION_ID 0x636C6173

static const char *const steps[] = {
    /* 1: rollouts and feedback records. `seq` is the order of arrival, also where clocks jump. `rated` counts the
     * feedback records naming a rollout: those are not pruned with the others. */
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE rollouts ("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, owner TEXT NOT NULL,"
    " model TEXT NOT NULL, adapter TEXT NOT NULL, version INTEGER NOT NULL, serve BLOB NOT NULL,"
    " time_ns INTEGER NOT NULL, hash BLOB NOT NULL, finish TEXT NOT NULL, end_tokens INTEGER NOT NULL,"
    " n_prompt INTEGER NOT NULL, n_response INTEGER NOT NULL, rated INTEGER NOT NULL DEFAULT 0,"
    " sampler TEXT NOT NULL, text TEXT NOT NULL, visible TEXT NOT NULL, prompt TEXT, messages TEXT,"
    " prompt_ids BLOB NOT NULL, response_ids BLOB NOT NULL, logprobs BLOB);"
    "CREATE INDEX rollouts_by_hash ON rollouts (hash, adapter, seq);"
    "CREATE INDEX rollouts_by_adapter ON rollouts (adapter, seq);"
    "CREATE INDEX rollouts_unrated ON rollouts (time_ns) WHERE rated = 0;"
    "CREATE INDEX rollouts_unrated_seq ON rollouts (seq) WHERE rated = 0;"
    "CREATE TABLE feedback ("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, adapter TEXT NOT NULL,"
    " status TEXT NOT NULL, phase TEXT NOT NULL, time_ns INTEGER NOT NULL, version_from INTEGER NOT NULL,"
    " version_to INTEGER NOT NULL, items TEXT NOT NULL, settings TEXT NOT NULL, metrics TEXT, timing TEXT,"
    " error_code INTEGER NOT NULL, error TEXT);"
    "CREATE INDEX feedback_by_adapter ON feedback (adapter, seq);"
    "CREATE TABLE feedback_rollouts ("
    " feedback INTEGER NOT NULL REFERENCES feedback (seq) ON DELETE CASCADE, position INTEGER NOT NULL,"
    " rollout TEXT NOT NULL, PRIMARY KEY (feedback, position)) WITHOUT ROWID;"
    "CREATE INDEX feedback_rollouts_by_rollout ON feedback_rollouts (rollout);",
    /* 2: the journal of jobs, and the audit, whose rows are never changed: they are only dropped by age. */
    "CREATE TABLE jobs ("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, adapter TEXT NOT NULL,"
    " state TEXT NOT NULL, phase TEXT NOT NULL, request TEXT NOT NULL, result TEXT, key TEXT, body BLOB,"
    " log_from INTEGER NOT NULL, version INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,"
    " accepted_ns INTEGER NOT NULL, started_ns INTEGER NOT NULL DEFAULT 0, ended_ns INTEGER NOT NULL DEFAULT 0,"
    " error_code INTEGER NOT NULL DEFAULT 0, error TEXT, error_what TEXT);"
    "CREATE UNIQUE INDEX jobs_by_key ON jobs (owner, key) WHERE key IS NOT NULL;"
    "CREATE INDEX jobs_by_owner ON jobs (owner, seq);"
    "CREATE INDEX jobs_open ON jobs (seq) WHERE ended_ns = 0;"
    "CREATE INDEX jobs_ended ON jobs (ended_ns) WHERE ended_ns > 0;"
    "CREATE TABLE audit ("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, time_ns INTEGER NOT NULL, owner TEXT NOT NULL, action TEXT NOT NULL,"
    " adapter TEXT NOT NULL, job TEXT NOT NULL, version INTEGER NOT NULL, code INTEGER NOT NULL, reason TEXT);"
    "CREATE INDEX audit_by_time ON audit (time_ns);"
    "CREATE INDEX audit_by_owner ON audit (owner, seq);"
    "CREATE INDEX audit_by_job ON audit (job) WHERE job <> '';"
    "CREATE TRIGGER audit_append_only BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is append-only');"
    " END;",
    /* 3: whose words they are, where a client says so; what retention and deletion look up. */
    "ALTER TABLE rollouts ADD COLUMN end_user TEXT NOT NULL DEFAULT '';"
    "CREATE INDEX rollouts_by_user ON rollouts (end_user) WHERE end_user <> '';"
    "CREATE INDEX rollouts_by_owner ON rollouts (owner);"
    "CREATE INDEX rollouts_rated ON rollouts (seq) WHERE rated > 0;"
    "CREATE INDEX feedback_by_owner ON feedback (owner);"
    "CREATE INDEX feedback_by_time ON feedback (time_ns);",
    /* 4: API keys and what they have used in the hour and on the day of these numbers. */
    "CREATE TABLE keys ("
    " id TEXT PRIMARY KEY, name TEXT NOT NULL, prefix TEXT NOT NULL, rights INTEGER NOT NULL, hash BLOB NOT NULL,"
    " created_ns INTEGER NOT NULL, expires_ns INTEGER NOT NULL, revoked_ns INTEGER NOT NULL DEFAULT 0,"
    " requests_a_minute INTEGER NOT NULL, steps_an_hour INTEGER NOT NULL, bytes_a_day INTEGER NOT NULL,"
    " used_ns INTEGER NOT NULL DEFAULT 0, hour INTEGER NOT NULL DEFAULT 0, hour_steps INTEGER NOT NULL DEFAULT 0,"
    " day INTEGER NOT NULL DEFAULT 0, day_bytes INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;",
};
enum { N_STEPS = sizeof steps / sizeof steps[0] };

static int pragma(struct state *s, const char *sql, int64_t *out, struct claas_error *err)
{
    return db_number(s, "open", 0, out, err, sql, "");
}

static int step_apply(struct state *s, int64_t from, struct claas_error *err)
{
    char *mark = sqlite3_mprintf("PRAGMA application_id = %d; PRAGMA user_version = %lld", APPLICATION_ID,
                                 (long long)from + 1);
    if (mark == NULL) {
        return err_oom(err, "the tables of the state database");
    }
    int rc = db_begin(s, "bring up to date", err);
    if (rc == 0) {
        rc = db_exec(s, steps[from], "bring up to date", err);
        if (rc == 0) {
            rc = db_exec(s, mark, "bring up to date", err);
        }
        rc = db_end(s, rc, "bring up to date", err);
    }
    sqlite3_free(mark);
    return rc;
}

int db_current(struct state *s, struct claas_error *err)
{
    int64_t version = 0;
    int rc = pragma(s, "PRAGMA user_version", &version, err);
    if (rc == 0 && version != N_STEPS) {
        rc = err_set(err, CLAAS_ERR_UNSUPPORTED, "state_dir",
                     "cannot open '%s': its tables have version %lld, but this claas needs %d", s->path,
                     (long long)version, (int)N_STEPS);
    }
    return rc;
}

/* What an older claas can still read, should one have to go back: state.db.v1 beside state.db. */
static int copy_keep(struct state *s, int64_t version, struct claas_error *err)
{
    char *file = sqlite3_mprintf("%s.v%lld", s->path, (long long)version);
    if (file == NULL) {
        return err_oom(err, "a copy of the state database");
    }
    int rc = db_copy(s, file, err);
    if (rc == 0) {
        log_line(LOG_INFO, "state", "the tables have version %lld: kept a copy as '%s' before bringing them up to date",
                 (long long)version, file);
    }
    sqlite3_free(file);
    return rc;
}

static int marks_read(struct state *s, int64_t *out_version, int64_t *out_tables, struct claas_error *err)
{
    int64_t application = 0;
    int rc = pragma(s, "PRAGMA application_id", &application, err);
    if (rc == 0) {
        rc = pragma(s, "PRAGMA user_version", out_version, err);
    }
    if (rc == 0) {
        rc = pragma(s, "SELECT count(*) FROM sqlite_schema", out_tables, err);
    }
    if (rc != 0) {
        return rc;
    }
    if (*out_tables > 0 && (application != APPLICATION_ID || *out_version < 1)) {
        return err_set(err, CLAAS_ERR_CORRUPT, "state_dir", "cannot open '%s': it is not a state database of claas",
                       s->path);
    }
    if (*out_version > N_STEPS) {
        return err_set(err, CLAAS_ERR_UNSUPPORTED, "state_dir",
                       "cannot open '%s': its tables have version %lld, made by a newer claas (this one knows %d)",
                       s->path, (long long)*out_version, (int)N_STEPS);
    }
    return 0;
}

int db_is_ours(struct state *s, struct claas_error *err)
{
    int64_t version = 0;
    int64_t tables = 0;
    int rc = marks_read(s, &version, &tables, err);
    return rc == 0 && tables == 0 ? err_set(err, CLAAS_ERR_CORRUPT, "state_dir",
                                            "cannot use '%s': it is not a state database of claas", s->path)
                                  : rc;
}

int db_migrate(struct state *s, struct claas_error *err)
{
    int64_t version = 0;
    int64_t tables = 0;
    int rc = marks_read(s, &version, &tables, err);
    if (rc == 0 && tables > 0 && version < N_STEPS) {
        rc = copy_keep(s, version, err);
    }
    for (; rc == 0 && version < N_STEPS; version++) {
        rc = step_apply(s, version, err);
    }
    return rc;
}
