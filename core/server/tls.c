/* SPDX-License-Identifier: MIT */
#include "config.h"

#include "server/tls.h"

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHAIN_MAX = 16, FILE_MAX = 1 << 20 };

struct shown { /* stays until the end: handshakes of before may still hold it */
    struct shown *before;
    gnutls_pcert_st chain[CHAIN_MAX];
    unsigned n;
    gnutls_privkey_t key;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct shown *newest; /* under lock */

static void shown_free(struct shown *s)
{
    if (!s) {
        return;
    }
    for (unsigned i = 0; i < s->n; i++) {
        gnutls_pcert_deinit(&s->chain[i]);
    }
    gnutls_privkey_deinit(s->key);
    free(s);
}

static int key_check(const char *path, struct claas_error *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        int rc = err_errno(err, errno, "tls.key", "cannot read '%s'", path);
        if (fd >= 0) {
            (void)close(fd); /* only read */
        }
        return rc;
    }
    (void)close(fd); /* only read */
    if ((st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & (S_IRWXO | S_IWGRP)) != 0) {
        return err_set(err, CLAAS_ERR_FORBIDDEN, "tls.key",
                       "cannot use '%s': it must belong to this user or root, and no others may read it (chmod 600)", path);
    }
    return 0;
}

static int pem_read(const char *path, const char *what, struct buf *out, struct claas_error *err)
{
    struct claas_error own = ERR_INIT;
    int rc = file_read(path, FILE_MAX, out, &own);
    return rc ? err_set(err, rc, what, "%s", own.message) : 0;
}

static int chain_read(struct shown *s, const char *path, struct claas_error *err)
{
    struct buf pem = BUF_INIT;
    int rc = pem_read(path, "tls.certificate", &pem, err);
    if (rc == 0) {
        const gnutls_datum_t data = { (unsigned char *)pem.data, (unsigned)pem.len };
        unsigned n = CHAIN_MAX;
        int got = gnutls_pcert_list_import_x509_raw(s->chain, &n, &data, GNUTLS_X509_FMT_PEM, 0);
        s->n = got == 0 ? n : 0;
        if (got) {
            rc = err_set(err, CLAAS_ERR_INVALID, "tls.certificate", "cannot use '%s' as a certificate: %s", path,
                         gnutls_strerror(got));
        }
    }
    buf_clear(&pem);
    return rc;
}

static int private_read(struct shown *s, const char *path, struct claas_error *err)
{
    struct buf pem = BUF_INIT;
    int rc = key_check(path, err);
    rc = rc ? rc : pem_read(path, "tls.key", &pem, err);
    if (rc == 0) {
        const gnutls_datum_t data = { (unsigned char *)pem.data, (unsigned)pem.len };
        int got = gnutls_privkey_import_x509_raw(s->key, &data, GNUTLS_X509_FMT_PEM, NULL, 0);
        if (got) {
            rc = err_set(err, CLAAS_ERR_INVALID, "tls.key", "cannot use '%s' as a private key: %s", path,
                         gnutls_strerror(got));
        }
        OPENSSL_cleanse(pem.data, pem.len);
    }
    buf_clear(&pem);
    return rc;
}

/* The public key of the private one must be the certificate's. */
static int pair_check(const struct shown *s, const char *path, struct claas_error *err)
{
    gnutls_pubkey_t public = NULL;
    unsigned char a[64];
    unsigned char b[64];
    size_t n = sizeof a;
    size_t m = sizeof b;
    int got = gnutls_pubkey_init(&public);
    if (got == 0) {
        got = gnutls_pubkey_import_privkey(public, s->key, 0, 0);
    }
    if (got == 0) {
        got = gnutls_pubkey_get_key_id(public, GNUTLS_KEYID_USE_SHA256, a, &n);
    }
    if (got == 0) {
        got = gnutls_pubkey_get_key_id(s->chain[0].pubkey, GNUTLS_KEYID_USE_SHA256, b, &m);
    }
    gnutls_pubkey_deinit(public);
    if (got || n != m || CRYPTO_memcmp(a, b, n) != 0) {
        return err_set(err, CLAAS_ERR_INVALID, "tls.key", "cannot use '%s': it is not the key of tls.certificate", path);
    }
    return 0;
}

int tls_load(const char *certificate, const char *key, struct claas_error *err)
{
    struct shown *s = calloc(1, sizeof *s);
    if (!s || gnutls_privkey_init(&s->key)) {
        free(s);
        return err_oom(err, "the certificate");
    }
    int rc = chain_read(s, certificate, err);
    rc = rc ? rc : private_read(s, key, err);
    rc = rc ? rc : pair_check(s, key, err);
    if (rc) {
        shown_free(s);
        return rc;
    }
    (void)pthread_mutex_lock(&lock);
    s->before = newest;
    newest = s;
    (void)pthread_mutex_unlock(&lock);
    return 0;
}

void tls_close(void)
{
    while (newest) {
        struct shown *s = newest;
        newest = s->before;
        shown_free(s);
    }
}

static int retrieve(gnutls_session_t session, const gnutls_datum_t *names, int n_names, const gnutls_pk_algorithm_t *algorithms,
                    int n_algorithms, gnutls_pcert_st **out_chain, unsigned *out_n, gnutls_privkey_t *out_key)
{
    (void)session;
    (void)names;
    (void)n_names;
    (void)algorithms;
    (void)n_algorithms;
    (void)pthread_mutex_lock(&lock);
    *out_chain = newest ? newest->chain : NULL;
    *out_n = newest ? newest->n : 0;
    *out_key = newest ? newest->key : NULL;
    (void)pthread_mutex_unlock(&lock);
    return *out_chain ? 0 : -1;
}

void *tls_callback(void)
{
    /* The option takes a function through a pointer to an object; POSIX lets these be turned into each other. */
    union {
        gnutls_certificate_retrieve_function2 *function;
        void *object;
    } it = { retrieve };
    return it.object;
}
