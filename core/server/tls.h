/* SPDX-License-Identifier: MIT */
/* The certificate that the listener shows, which may be replaced while connections come in. There is one for the process:
 * libmicrohttpd asks for it without telling for whom. */
#ifndef SERVER_TLS_H
#define SERVER_TLS_H

#include <claas/error.h>

/* Reads a certificate with its chain and a private key, both PEM, checks that they belong together, and shows them from the
 * next connection on; on failure what was shown stays. The key's file must belong to this user or root, and strangers must
 * not be able to read it. */
int tls_load(const char *certificate, const char *key, struct claas_error *err);
/* Forgets all of them: no connection is left. */
void tls_close(void);
/* For MHD_OPTION_HTTPS_CERT_CALLBACK. */
void *tls_callback(void);

#endif
