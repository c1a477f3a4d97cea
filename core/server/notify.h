/* SPDX-License-Identifier: MIT */
/* Tells the service manager how we are, by the protocol of sd_notify(3). */
#ifndef SERVER_NOTIFY_H
#define SERVER_NOTIFY_H

/* Does nothing where NOTIFY_SOCKET is not set. A manager that cannot be told is no reason to fail. */
void notify_send(const char *message);

#endif
