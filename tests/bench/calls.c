// SPDX-License-Identifier: Apache-2.0
// How long does a call take? `calls affinity|sysinfo SECONDS THREADS`: every thread asks the kernel
// again and again. `calls start TIMES PROGRAM [WORD…]`: starts the program that often and waits for
// its end, one after the other. Prints one line of JSON: calls in all, the seconds they took, and
// the time of one (a sample of each thread's last calls).
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SAMPLES = 1 << 16, MOST_THREADS = 256, MOST_STARTS = 1 << 14 };

struct caller {
    pthread_t thread;
    int is_sysinfo;
    double end, ended;
    unsigned long calls;
    float *took_us;
};

extern char **environ;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int ascending(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

static int tell(unsigned long calls, double seconds, float *took_us, size_t sampled)
{
    qsort(took_us, sampled, sizeof(float), ascending);
    printf("{\"calls\": %lu, \"seconds\": %.6f, \"p50_us\": %.3f, \"p99_us\": %.3f}\n", calls,
           seconds, took_us[sampled / 2], took_us[(size_t)((double)sampled * 0.99)]);
    return 0;
}

static void *call(void *argument)
{
    struct caller *mine = argument;
    struct sysinfo info;
    cpu_set_t cpus;
    double before = now(), after;
    do {
        long got = mine->is_sysinfo ? syscall(SYS_sysinfo, &info)
                                    : syscall(SYS_sched_getaffinity, 0, sizeof cpus, &cpus);
        if (got < 0) {
            perror("call");
            _exit(1);
        }
        after = now();
        mine->took_us[mine->calls++ % SAMPLES] = (float)((after - before) * 1e6);
        before = after;
    } while (after < mine->end);
    mine->ended = after;
    return NULL;
}

static int call_all(int is_sysinfo, double seconds, int threads)
{
    static struct caller all[MOST_THREADS];
    unsigned long calls = 0;
    size_t sampled = 0;
    double started = now(), ended = started;
    float *took_us = malloc(sizeof(float) * SAMPLES * (size_t)threads);
    if (threads < 1 || threads > MOST_THREADS || took_us == NULL)
        return 2;
    for (int each = 0; each < threads; each++) {
        all[each].is_sysinfo = is_sysinfo;
        all[each].end = started + seconds;
        all[each].took_us = malloc(sizeof(float) * SAMPLES);
        if (pthread_create(&all[each].thread, NULL, call, &all[each]) != 0)
            return 1;
    }
    for (int each = 0; each < threads; each++) {
        pthread_join(all[each].thread, NULL);
        size_t kept = all[each].calls < SAMPLES ? all[each].calls : SAMPLES;
        memcpy(took_us + sampled, all[each].took_us, kept * sizeof(float));
        sampled += kept;
        calls += all[each].calls;
        ended = all[each].ended > ended ? all[each].ended : ended;
    }
    return tell(calls, ended - started, took_us, sampled);
}

static int start_all(int times, char **words)
{
    static float took_us[MOST_STARTS];
    double started = now(), before = started, after = started;
    posix_spawn_file_actions_t quiet;
    if (times < 1 || times > MOST_STARTS)
        return 2;
    posix_spawn_file_actions_init(&quiet);
    posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&quiet, 2, "/dev/null", O_WRONLY, 0);
    for (int each = 0; each < times; each++) {
        pid_t child;
        int status;
        if (posix_spawnp(&child, words[0], &quiet, NULL, words, environ) != 0
            || waitpid(child, &status, 0) < 0 || status != 0) {
            fprintf(stderr, "%s cannot be run\n", words[0]);
            return 1;
        }
        after = now();
        took_us[each] = (float)((after - before) * 1e6);
        before = after;
    }
    return tell((unsigned long)times, after - started, took_us, (size_t)times);
}

int main(int count, char **words)
{
    if (count >= 4 && strcmp(words[1], "start") == 0)
        return start_all(atoi(words[2]), words + 3);
    if (count == 4)
        return call_all(strcmp(words[1], "sysinfo") == 0, atof(words[2]), atoi(words[3]));
    return 2;
}
