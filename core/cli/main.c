/* SPDX-License-Identifier: MIT */
/* claas: from words to a command, and its exit status. */
#include "config.h"

#include "cli/cli.h"

#include <curl/curl.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    struct cli c;
    (void)curl_global_init(CURL_GLOBAL_DEFAULT); /* a failure shows at the first request */
    int status = cli_parse(&c, (size_t)argc - 1, argv + 1, stderr);
    if (status == 0) {
        status = c.command ? c.command->run(&c) : CLI_OK;
    }
    curl_global_cleanup();
    if (fflush(stdout) && status == 0) {
        status = CLI_FAILED;
    }
    return status;
}
