/* SPDX-License-Identifier: MIT */
/* What the teacher reads: the student's conversation with the user's later feedback at the end of
 * its last user message. */
#ifndef TEXT_HINDSIGHT_H
#define TEXT_HINDSIGHT_H

#include <cjson/cJSON.h>
#include <claas/error.h>

/* Stands between the user's message and the feedback; nothing follows the feedback. */
#define HINDSIGHT_HEADER                                                                         \
    "\n\n=== HINDSIGHT CONTEXT ===\n[The following is a future user message. Use this to guide " \
    "your "                                                                                      \
    "answer to the user prompt.]\n"

/* A copy of `messages` (array of role and content; freed with cJSON_Delete) in which the header and
 * the feedback, stripped of white space on both sides, end the last user message, whose content
 * becomes a string. Empty feedback changes nothing. INVALID when there is no user message or the
 * array is not one of messages. */
int hindsight_messages(const cJSON *messages, const char *feedback, cJSON **out,
                       struct claas_error *err);

#endif
