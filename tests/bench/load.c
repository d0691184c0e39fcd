// SPDX-License-Identifier: Apache-2.0
// How many opens of a file fail? `load PATH READY STOP SECONDS`: opens and reads PATH as fast as it
// can, makes the file READY after the first, and ends when there is a file STOP, or the time is up.
// Prints one line of JSON: how many opens, and how many of them (or their reads) failed.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int read_all(const char *path)
{
    char buffer[4096];
    ssize_t got;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return -1;
    while ((got = read(file, buffer, sizeof buffer)) > 0)
        ;
    close(file);
    return got < 0 ? -1 : 0;
}

int main(int count, char **words)
{
    if (count != 5)
        return 2;
    time_t end = time(NULL) + atoi(words[4]);
    long opens = 0, errors = 0;
    while (time(NULL) < end && access(words[3], F_OK) != 0) {
        if (read_all(words[1]) != 0)
            errors++;
        if (opens++ == 0)
            close(open(words[2], O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    }
    printf("{\"opens\": %ld, \"errors\": %ld}\n", opens, errors);
    return 0;
}
