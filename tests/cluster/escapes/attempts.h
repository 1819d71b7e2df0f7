/* What the attempts share: how an answer is given, and what an attempt is. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A row of a table; a table ends with a row without a name. */
struct attempt {
    const char *name;
    const char *(*try)(char **arguments); /* gives the answer */
    bool with_arguments; /* tried only when it is asked for by name */
};
extern const struct attempt system_calls[], surroundings[], frames[];

/* The answer to a system call: `allowed`, or the name of its errno. */
const char *outcome(long returned);
/* An answer in words, kept until the next. */
const char *say(const char *format, ...);
/* An answer that is a list: its members one by one, then the whole, or `nothing` if there are none. */
void note(const char *thing);
const char *noted(const char *nothing);

/* An attempt that is one call. */
#define CALL(name, expression) \
    static const char *name(char **arguments) { return outcome(expression); }
#define ROW(name, function) {name, function, false}
