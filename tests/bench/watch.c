// SPDX-License-Identifier: Apache-2.0
// For how long can a file not be read? `watch PATH READY SECONDS`: opens and reads PATH again and
// again, makes the file READY once that works, and ends when it works again after it did not, or
// when the time is up (exit code 3). Prints one line of JSON, in nanoseconds of CLOCK_MONOTONIC:
// the first read that failed, and the first one after it that did not.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (long long)time.tv_sec * 1000000000LL + time.tv_nsec;
}

// The errno of a read of the whole file, 0 when it went well.
static int read_all(const char *path)
{
    char buffer[4096];
    ssize_t got;
    int failure, file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return errno;
    while ((got = read(file, buffer, sizeof buffer)) > 0)
        ;
    failure = got < 0 ? errno : 0;
    close(file);
    return failure;
}

int main(int count, char **words)
{
    if (count != 4)
        return 2;
    const struct timespec pause = {0, 200000};
    long long end = now() + (long long)(atof(words[3]) * 1e9), lost = 0;
    int failure, reason = 0, ready = -1;
    while (now() < end) {
        failure = read_all(words[1]);
        if (failure == 0 && ready < 0) {
            ready = open(words[2], O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
            if (ready < 0)
                return 1;
        } else if (failure != 0 && ready >= 0 && lost == 0) {
            lost = now();
            reason = failure;
        } else if (failure == 0 && lost != 0) {
            printf("{\"lost_ns\": %lld, \"back_ns\": %lld, \"error\": \"%s\"}\n", lost, now(),
                   strerror(reason));
            return 0;
        }
        nanosleep(&pause, NULL);
    }
    fprintf(stderr, "%s: %s\n", words[1], lost ? "did not come back" : "was never lost");
    return 3;
}
