/* SPDX-License-Identifier: MIT */
/* Tells the service manager how we are, by the protocol of sd_notify(3), without its library. */
#ifndef SERVER_NOTIFY_H
#define SERVER_NOTIFY_H

#include <stdint.h>

/* Does nothing where NOTIFY_SOCKET is not set. A manager that cannot be told is no reason to fail. */
void notify_send(const char *message);

/* READY=1 with our pid, at the start and after each reload; then STATUS. */
void notify_ready(const char *status);
/* RELOADING=1 and the time, as Type=notify-reload wants it; notify_ready ends it. */
void notify_reloading(void);

/* How often WATCHDOG=1 is to be sent: half of what WATCHDOG_USEC allows; 0: nobody watches us. */
int64_t notify_watchdog_ms(void);

#endif
