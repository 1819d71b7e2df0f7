/* Ways out of a container, tried from inside it. One static program, no library beside libc.
 *
 *   attempts                      tries everything in the tables; one line each: NAME ANSWER
 *   attempts NAME [ARGUMENT...]   tries one
 *   attempts wait                 sleeps for ever: the container's first process
 *
 * Nothing here does harm where it is allowed. Each attempt runs in a process of its own, so that one that
 * is killed, or changes what it is, does not disturb the next.
 */
#include "attempts.h"

#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>

enum { PATIENCE = 10 }; /* seconds */

const char *outcome(long returned)
{
    return returned >= 0 ? "allowed" : strerrorname_np(errno);
}

const char *say(const char *format, ...)
{
    static char words[4096];
    va_list values;
    va_start(values, format);
    vsnprintf(words, sizeof words, format, values);
    va_end(values);
    return words;
}

static char list[3000];

void note(const char *thing)
{
    if (strlen(list) + strlen(thing) + 2 < sizeof list)
        strcat(strcat(list, list[0] ? "," : ""), thing);
}

const char *noted(const char *nothing) { return list[0] ? list : nothing; }

static void try(const struct attempt *attempt, char **arguments)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(PATIENCE);
        printf("%s %s\n", attempt->name, attempt->try(arguments));
        exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        printf("%s SIG%s\n", attempt->name, sigabbrev_np(WTERMSIG(status)));
}

int main(int count, char **arguments)
{
    const struct attempt *const tables[] = {system_calls, surroundings, frames, NULL};
    if (count > 1 && !strcmp(arguments[1], "wait"))
        for (;;)
            pause();
    for (int i = 0; tables[i]; i++)
        for (const struct attempt *attempt = tables[i]; attempt->name; attempt++)
            if (count > 1 ? !strcmp(arguments[1], attempt->name) : !attempt->with_arguments)
                try(attempt, arguments + (count > 1 ? 2 : 1));
    return 0;
}
