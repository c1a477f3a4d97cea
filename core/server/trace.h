/* SPDX-License-Identifier: MIT */
/* W3C Trace Context: the header traceparent, read strictly and written. */
#ifndef SERVER_TRACE_H
#define SERVER_TRACE_H

enum { TRACE_TEXT = 56 }; /* of a traceparent, with its zero */

struct trace {
    char id[33];      /* 32 hexadecimal digits in lower case; "": not part of a trace */
    char span[17];    /* of whoever calls: 16 digits */
    unsigned flags;   /* those of version 00: 1 = sampled */
};

/* 0, or -1 with *out empty for what is no valid traceparent: that is to be ignored. */
int trace_parse(const char *text, struct trace *out);
/* A fresh span of our own within parent's trace; -1: no random bytes. */
int trace_child(const struct trace *parent, struct trace *out);
/* In version 00. */
void trace_print(const struct trace *t, char out[TRACE_TEXT]);

#endif
