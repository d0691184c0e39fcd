// SPDX-License-Identifier: Apache-2.0
// How often can a file be read? `read PATH SECONDS READERS`: each reader is a process that opens,
// reads to the end and closes, again and again. Prints one line of JSON: reads in all, the seconds
// they took, and the latency of one read (a sample of each reader's last reads).
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SAMPLES = 1 << 16, MOST_READERS = 64 };

struct reader {
    unsigned long reads;
    double ended;
    float latency_us[SAMPLES];
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void read_once(const char *path)
{
    static char buffer[1 << 16];
    ssize_t got;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        goto failed;
    while ((got = read(file, buffer, sizeof buffer)) > 0)
        ;
    if (got < 0)
        goto failed;
    close(file);
    return;
failed:
    fprintf(stderr, "%s: %s\n", path, strerror(errno));
    _exit(1);
}

static void read_until(const char *path, double end, struct reader *mine)
{
    double before = now(), after;
    do {
        read_once(path);
        after = now();
        mine->latency_us[mine->reads++ % SAMPLES] = (float)((after - before) * 1e6);
        before = after;
    } while (after < end);
    mine->ended = after;
}

static int ascending(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

int main(int count, char **words)
{
    if (count != 4)
        return 2;
    double seconds = atof(words[2]);
    int readers = atoi(words[3]), failed = 0, status;
    if (readers < 1 || readers > MOST_READERS)
        return 2;
    struct reader *all = mmap(NULL, sizeof(struct reader) * (size_t)readers,
                              PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    float *latency = malloc(sizeof(float) * SAMPLES * (size_t)readers);
    if (all == MAP_FAILED || latency == NULL)
        return 1;
    read_once(words[1]);
    double started = now();
    for (int each = 0; each < readers; each++)
        if (fork() == 0) {
            read_until(words[1], started + seconds, &all[each]);
            _exit(0);
        }
    while (wait(&status) > 0)
        failed |= status != 0;
    if (failed)
        return 1;
    unsigned long reads = 0;
    size_t sampled = 0;
    double ended = started;
    for (int each = 0; each < readers; each++) {
        size_t kept = all[each].reads < SAMPLES ? all[each].reads : SAMPLES;
        memcpy(latency + sampled, all[each].latency_us, kept * sizeof(float));
        sampled += kept;
        reads += all[each].reads;
        ended = all[each].ended > ended ? all[each].ended : ended;
    }
    qsort(latency, sampled, sizeof(float), ascending);
    printf("{\"reads\": %lu, \"seconds\": %.6f, \"p50_us\": %.2f, \"p99_us\": %.2f}\n", reads,
           ended - started, latency[sampled / 2], latency[(size_t)((double)sampled * 0.99)]);
    return 0;
}
