/* SPDX-License-Identifier: MIT */
/* Failures of the system on order. Linked into a test program, fault.c stands before the C library for the whole process,
 * SQLite, cJSON and plugins included: the n-th call of a kind fails, counted from fault_arm() on. */
#ifndef FAULT_FAULT_H
#define FAULT_FAULT_H

enum fault_kind {
    FAULT_ALLOC,  /* malloc and its kin: ENOMEM */
    FAULT_WRITE,  /* write, pwrite, writev, ftruncate, fallocate, copies in the kernel: ENOSPC */
    FAULT_SYNC,   /* fsync, fdatasync: EIO */
    FAULT_CREATE, /* open with O_CREAT, link, mkdir: ENOSPC; rename: EIO */
    FAULT_REMOVE, /* unlink, rmdir: EIO */
    FAULT_READ,   /* read, pread: EIO */
    FAULT_OPEN,   /* open without O_CREAT: EMFILE */
    FAULT_THREAD, /* pthread_create: EAGAIN */
    FAULT_KINDS
};

enum fault_mode {
    FAULT_ONCE, /* the n-th fails, those behind it do not */
    FAULT_FROM  /* the n-th and all behind it: the disk stays full */
};

/* From now on calls of this kind are counted, from 1; any thread's. n = 0: none fails. */
void fault_arm(enum fault_kind kind, long n, enum fault_mode mode);
/* No call fails any more. How many were counted. */
long fault_disarm(void);
/* Let fsync do nothing where it is not to fail, which no test of a living process can tell. */
void fault_fast_sync(int fast);

#endif
