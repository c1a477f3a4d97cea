/* SPDX-License-Identifier: MIT */
/* From words to a command with its options; usage; how errors are told. */
#include "config.h"

#include "cli/cli.h"

#include "base/err.h"
#include "cli/client.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct cli_option cli_globals[] = {
    { "url", "URL", "the daemon, else CLAAS_URL, else http://127.0.0.1:8080" },
    { "api-key-file", "FILE", "key to send, else CLAAS_API_KEY_FILE" },
    { "ca-file", "FILE", "certificates to trust, else CLAAS_CA_FILE, else the system's" },
    { "json", NULL, "print the daemon's answer as JSON" },
    { "quiet", NULL, "no progress" },
    { "help", NULL, "this text" },
    { "version", NULL, "the version" },
    { NULL, NULL, NULL },
};

int cli_complain(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)fputs("claas: ", stderr);
    (void)vfprintf(stderr, fmt, ap);
    (void)fputc('\n', stderr);
    va_end(ap);
    return CLI_USAGE;
}

static void cli_usage_options(const struct cli_option *options, FILE *to)
{
    for (; options->name; options++) {
        char left[64];
        (void)snprintf(left, sizeof left, "--%s%s%s", options->name, options->value ? " " : "",
                       options->value ? options->value : "");
        (void)fprintf(to, "  %-24s %s\n", left, options->help);
    }
}

static void cli_usage_commands(const char *group, FILE *to)
{
    size_t n = strlen(group);
    for (const struct cli_command *it = cli_commands; it->name; it++) {
        if (n == 0 || (strncmp(it->name, group, n) == 0 && it->name[n] == ' ')) {
            char left[64];
            (void)snprintf(left, sizeof left, "%s %s", it->name, it->synopsis);
            (void)fprintf(to, "  %-28s %s\n", left, it->help);
        }
    }
}

/* Whether commands of two words begin with this one. */
static int cli_is_group(const char *word)
{
    size_t n = strlen(word);
    for (const struct cli_command *it = cli_commands; it->name; it++) {
        if (strncmp(it->name, word, n) == 0 && it->name[n] == ' ') {
            return 1;
        }
    }
    return 0;
}

void cli_usage(const struct cli_command *command, FILE *to)
{
    if (command) {
        (void)fprintf(to, "usage: claas %s%s%s%s\n%s\n", command->name,
                      command->options->name ? " [options]" : "", command->synopsis[0] ? " " : "",
                      command->synopsis, command->help);
        cli_usage_options(command->options, to);
    } else {
        (void)fputs("usage: claas COMMAND [options] [arguments]\n", to);
        cli_usage_commands("", to);
    }
    (void)fputs("for every command:\n", to);
    cli_usage_options(cli_globals, to);
}

const char *cli_value(const struct cli *c, const char *name)
{
    const char *value = NULL;
    for (size_t i = 0; i < c->n_given; i++) {
        if (strcmp(c->given[i].option->name, name) == 0) {
            value = c->given[i].value;
        }
    }
    return value;
}

const char *cli_value_at(const struct cli *c, const char *name, size_t at)
{
    for (size_t i = 0; i < c->n_given; i++) {
        if (strcmp(c->given[i].option->name, name) == 0 && at-- == 0) {
            return c->given[i].value;
        }
    }
    return NULL;
}

/* The command whose name the first words spell; *out_used says how many words that were. */
static const struct cli_command *cli_find(size_t n, const char *const *words, size_t *out_used)
{
    for (const struct cli_command *it = cli_commands; it->name; it++) {
        const char *space = strchr(it->name, ' ');
        size_t first = space ? (size_t)(space - it->name) : strlen(it->name);
        if (n < 1 || strlen(words[0]) != first || memcmp(words[0], it->name, first) != 0) {
            continue;
        }
        if (!space || (n > 1 && strcmp(words[1], space + 1) == 0)) {
            *out_used = space ? 2 : 1;
            return it;
        }
    }
    return NULL;
}

static int cli_option_index(const struct cli_option *options, const char *name, size_t n)
{
    for (int i = 0; options[i].name; i++) {
        if (strlen(options[i].name) == n && memcmp(options[i].name, name, n) == 0) {
            return i;
        }
    }
    return -1;
}

/* What cli_parse has gathered: options are looked up once the command is known. */
struct cli_words {
    const char *plain[CLI_ARGS_MAX + 2];
    size_t n_plain;
    int wants_help, wants_version;
};

static int cli_set_global(struct cli *c, struct cli_words *w, int index, const char *value)
{
    switch (index) {
    case 0: c->url = value; break;
    case 1: c->key_file = value; break;
    case 2: c->ca_file = value; break;
    case 3: c->json = 1; break;
    case 4: c->quiet = 1; break;
    case 5: w->wants_help = 1; break;
    default: w->wants_version = 1; break;
    }
    return 0;
}

/* One "--name[=value]" word; *i moves over a value that stands in the next word. */
static int cli_parse_option(struct cli *c, struct cli_words *w, size_t n, char **words, size_t *i)
{
    const char *name = words[*i] + 2;
    size_t length = strcspn(name, "=");
    int index = c->command ? cli_option_index(c->command->options, name, length) : -1;
    int global = index < 0 ? cli_option_index(cli_globals, name, length) : -1;
    if (index < 0 && global < 0) {
        return cli_complain("unknown option '--%.*s'%s%s", (int)length, name,
                            c->command ? " of " : "", c->command ? c->command->name : "");
    }
    const struct cli_option *option = index >= 0 ? &c->command->options[index]
                                                 : &cli_globals[global];
    const char *value = "";
    if (option->value) {
        if (name[length] == '=') {
            value = name + length + 1;
        } else if (*i + 1 < n) {
            value = words[++*i];
        } else {
            return cli_complain("option '--%s' needs a value: %s", option->name, option->value);
        }
    } else if (name[length] == '=') {
        return cli_complain("option '--%s' takes no value", option->name);
    }
    if (index < 0) {
        return cli_set_global(c, w, global, value);
    }
    if (c->n_given == CLI_GIVEN_MAX) {
        return cli_complain("too many options");
    }
    c->given[c->n_given].option = option;
    c->given[c->n_given++].value = value;
    return 0;
}

/* The command is found in the words that are no options and no values of global ones, before
 * anything is set. */
static const struct cli_command *cli_find_among(size_t n, char **words, size_t *out_used)
{
    const char *first[2] = { NULL, NULL };
    size_t found = 0;
    for (size_t i = 0; i < n && found < 2; i++) {
        if (words[i][0] != '-') {
            first[found++] = words[i];
        } else if (words[i][0] == '-' && words[i][1] == '-' && found == 0) {
            int g = cli_option_index(cli_globals, words[i] + 2, strlen(words[i] + 2));
            i += g >= 0 && cli_globals[g].value ? 1 : 0;
        }
    }
    return cli_find(found, first, out_used);
}

static int cli_parse_words(struct cli *c, struct cli_words *w, size_t n, char **words)
{
    int only_plain = 0;
    for (size_t i = 0; i < n; i++) {
        const char *word = words[i];
        if (!only_plain && strcmp(word, "--") == 0) {
            only_plain = 1;
        } else if (!only_plain && (strcmp(word, "-h") == 0)) {
            w->wants_help = 1;
        } else if (!only_plain && word[0] == '-' && word[1] == '-') {
            int status = cli_parse_option(c, w, n, words, &i);
            if (status) {
                return status;
            }
        } else if (!only_plain && word[0] == '-' && word[1] != '\0') {
            return cli_complain("unknown option '%s'", word);
        } else if (w->n_plain == sizeof w->plain / sizeof w->plain[0]) {
            return cli_complain("too many arguments");
        } else {
            w->plain[w->n_plain++] = word;
        }
    }
    return 0;
}

int cli_parse(struct cli *c, size_t n, char **words, FILE *complaints)
{
    struct cli_words w = { 0 };
    size_t used = 0;
    *c = (struct cli){ 0 };
    c->url = getenv("CLAAS_URL");
    c->key_file = getenv("CLAAS_API_KEY_FILE");
    c->ca_file = getenv("CLAAS_CA_FILE");
    if (!c->url || !c->url[0]) {
        c->url = "http://127.0.0.1:8080";
    }
    c->command = cli_find_among(n, words, &used);
    int status = cli_parse_words(c, &w, n, words);
    if (status) {
        return status;
    }
    if (w.wants_help || w.wants_version) {
        if (w.wants_version) {
            (void)printf("claas %s\n", PACKAGE_VERSION);
        } else {
            cli_usage(c->command, stdout);
        }
        c->command = NULL; /* nothing to run */
        return 0;
    }
    if (!c->command) {
        if (w.n_plain == 1 && cli_is_group(w.plain[0])) {
            (void)fprintf(complaints, "usage: claas %s COMMAND [options] [arguments]\n", w.plain[0]);
            cli_usage_commands(w.plain[0], complaints);
            return CLI_USAGE;
        }
        if (w.n_plain > 0) {
            return cli_complain("unknown command '%s%s%s'; see claas --help", w.plain[0],
                                w.n_plain > 1 ? " " : "", w.n_plain > 1 ? w.plain[1] : "");
        }
        cli_usage(NULL, complaints);
        return CLI_USAGE;
    }
    c->n_args = w.n_plain - used;
    memcpy(c->args, w.plain + used, c->n_args * sizeof c->args[0]);
    if (c->n_args < c->command->min_args || c->n_args > c->command->max_args) {
        int too_few = c->n_args < c->command->min_args;
        (void)fprintf(complaints, "claas: %s\n",
                      too_few ? "an argument is missing"
                              : "too many arguments; a text of several words is quoted");
        cli_usage(c->command, complaints);
        return CLI_USAGE;
    }
    return 0;
}

int cli_add_number(const struct cli *c, cJSON *object, const char *option, const char *name)
{
    const char *text = cli_value(c, option);
    if (!text) {
        return 0;
    }
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end || errno || !isfinite(value)) {
        return cli_complain("option '--%s' needs a number, not '%s'", option, text);
    }
    return cJSON_AddNumberToObject(object, name, value) ? 0 : CLI_FAILED;
}

int cli_add_settings(const char *word, cJSON *object)
{
    const char *equals = strchr(word, '=');
    char key[64];
    if (!equals || equals == word || (size_t)(equals - word) >= sizeof key) {
        return cli_complain("'%s' is not KEY=VALUE", word);
    }
    (void)snprintf(key, sizeof key, "%.*s", (int)(equals - word), word);
    const char *value = equals + 1;
    char *end;
    double number = strtod(value, &end);
    cJSON *added;
    if (*value && !*end && isfinite(number)) {
        added = cJSON_AddNumberToObject(object, key, number);
    } else if (strcmp(value, "true") == 0 || strcmp(value, "false") == 0) {
        added = cJSON_AddBoolToObject(object, key, value[0] == 't');
    } else {
        added = cJSON_AddStringToObject(object, key, value);
    }
    return added ? 0 : CLI_FAILED;
}

int cli_fail(const struct cli *c, const struct claas_error *err)
{
    if (c->json) {
        cJSON *o = cJSON_CreateObject();
        cJSON *inner = cJSON_AddObjectToObject(o, "error");
        cJSON_AddStringToObject(inner, "code", err_name(err->code));
        cJSON_AddStringToObject(inner, "message", err->message);
        cJSON_AddStringToObject(inner, "param", err->what);
        char *text = o ? json_print(o) : NULL;
        (void)fprintf(stderr, "%s\n", text ? text : err->message);
        free(text);
        cJSON_Delete(o);
    } else {
        (void)fprintf(stderr, "claas: %s\n", err->message);
    }
    return client_exit_status(err);
}

int cli_print_json(const struct cli *c, const cJSON *answer)
{
    if (!c->json) {
        return 0;
    }
    char *text = json_print(answer);
    (void)printf("%s\n", text ? text : "null");
    free(text);
    return 1;
}

int cli_shows_progress(const struct cli *c)
{
    return !c->quiet && !c->json && isatty(STDERR_FILENO);
}
